"""Each scenario in its short form, and that scenarios find what they are made to find."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from chaos import checks, report
from chaos.findings import Findings
from chaos.injections import Kill, TrimByHand, Wait, WithoutConsumers
from chaos.runner import run
from chaos.scenario import Load, Scenario, Size
from chaos.scenarios import SCENARIOS

pytestmark = [pytest.mark.long, pytest.mark.once]

_SHORT = Load(consumers=Size(1, 1), rate=Size(200, 200))

STEADY = Scenario(number=0, name="steady", story="nothing goes wrong", load=_SHORT)

DYING = Scenario(
    number=0,
    name="dying",
    story="a consumer is killed in its handlers",
    load=attrs.evolve(_SHORT, work=0.2, lease=Size(0.6, 0.6)),
    faults=(Kill(who="consumers", every=0.4, seconds=Size(0.8, 0.8)),),
    duplicates={"kills": 32},
)


TRIMMED = Scenario(
    number=0,
    name="trimmed",
    story="somebody trims the topic while no consumer runs",
    load=_SHORT,
    faults=(WithoutConsumers(faults=(Wait(seconds=Size(0.5, 0.5)), TrimByHand(keep=20))),),
    checks=(checks.losses_are_exact,),
)


def fails_with(findings: Findings, fault: str) -> bool:
    return any(fault in each for each in findings.faults)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: f"{each.number:02}-{each.name}")
def test_scenario(scenario: Scenario) -> None:
    """Nothing is lost, unexpected or stuck, and duplicates are within their bound."""
    findings = run(scenario)
    assert not findings.faults, "\n".join(report.lines(findings))


def test_nothing_goes_wrong() -> None:
    """Without a fault and without a bug every event is handled once."""
    findings = run(STEADY)
    assert not findings.faults, "\n".join(report.lines(findings))
    assert findings.account.total("handled") == findings.account.acknowledged


def test_an_event_that_is_dropped_is_found() -> None:
    """One event that its handler never saw is lost, and the scenario fails."""
    findings = run(STEADY, bug="drop-one")
    assert fails_with(findings, "1 lost: worker0")
    assert fails_with(run(STEADY, bug="deliver-twice"), "1 duplicated, 0 allowed")


def test_an_acknowledgement_before_the_handler_is_found() -> None:
    """Events that were forgotten before they were handled are lost when the process is killed."""
    assert not run(DYING).faults
    findings = run(DYING, bug="ack-first")
    assert fails_with(findings, " lost: worker0")
    assert findings.account.total("lost") > 0


def test_a_loss_that_is_not_counted_is_found() -> None:
    """Of the events that somebody trimmed one is counted too few."""
    assert not run(TRIMMED).faults
    findings = run(TRIMMED, bug="overlook-one")
    assert fails_with(findings, f"counted {findings.account.total('lost') - 1} events as lost")


def test_a_forgotten_loss_is_found() -> None:
    """A publisher that does not remember what was stored does not notice that the server forgot it."""
    (scenario,) = (each for each in SCENARIOS if each.number == 14)
    assert fails_with(run(scenario, bug="forget-accepted"), "the processes counted 0 events as lost")


def test_a_miss_that_is_not_counted_is_found() -> None:
    """Of the events that the server dropped for a slow subscriber each process counts one too few."""
    (scenario,) = (each for each in SCENARIOS if each.number == 20)
    findings = run(scenario, bug="miss-one-less")
    assert findings.account.counted_lost < findings.account.total("lost")
    assert fails_with(findings, f"the processes counted {findings.account.counted_lost} events as missed")


def test_what_others_own_and_is_begun_is_found() -> None:
    """A process that begins what it held before a pause calls more handlers twice than were running."""
    (scenario,) = (each for each in SCENARIOS if each.number == 5)
    assert fails_with(run(scenario, bug="never-doubt"), " duplicated, 4 allowed")


def test_a_run_that_shows_nothing_fails() -> None:
    """A scenario in which next to nothing is published fails, although its account adds up."""
    findings = run(attrs.evolve(STEADY, load=attrs.evolve(_SHORT, rate=Size(4, 4))))
    assert fails_with(findings, "nothing is shown")


def test_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account is a table for people, and a JSON document; what stays may lie beside the caller."""
    monkeypatch.chdir(tmp_path)
    findings = run(STEADY, keep=Path("kept"))
    text = "\n".join([*report.lines(findings), *report.table([findings])])
    assert "as it must be" in text
    assert f"{findings.account.acknowledged} acknowledged, 0 stuck" in text
    document = json.loads(report.write(findings, tmp_path).read_text())
    assert document["name"] == "steady"
    assert (document["lost"], document["stuck"], document["unexpected"], document["faults"]) == (0, 0, 0, [])
    assert document["acknowledged"] == findings.account.acknowledged
