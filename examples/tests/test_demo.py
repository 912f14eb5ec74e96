"""The demo as a whole: what it comes to, and that it tells when something is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pycountry
import pytest
from click.testing import CliRunner
from rich.console import Console

from bus_core import Envelope, Event, Factory, Handler, HealthStatus, Middleware, hookimpl
from crm import command
from crm.demo import Outcome, run_demo
from crm.identity import Population
from crm.progress import LiveTable, PlainLines
from crm.report import print_outcome
from crm.shared import sources

pytestmark = pytest.mark.once

BUS = {"adapter": "memory", "retry_delay": "5ms", "health": {"probes": ["engine"]}}


def demo_of(*, users: int = 50, seed: int = 1, bus: dict[str, Any] | None = None, **options: Any) -> Outcome:
    """Runs the demo in this process, with quick retries."""
    return asyncio.run(run_demo({"bus": {**BUS, **(bus or {})}}, seed=seed, users=users, **options))


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """The outcome of a good run with all reference data."""
    return demo_of(seed=3)


def line(outcome: Outcome, topic: str) -> Any:
    (found,) = [line for line in outcome.account.topics if line.topic == topic]
    return found


def published(outcome: Outcome) -> dict[str, int]:
    return {line.topic: line.published for line in outcome.account.topics}


def test_nothing_is_lost(outcome: Outcome) -> None:
    """Every expected delivery was handled, the counters agree with the journals, and the bus is healthy."""
    assert outcome.faults == ()
    assert outcome.lost == 0
    assert outcome.adds_up
    assert outcome.account.total.handled == outcome.account.total.expected > 18_000
    assert outcome.health.status is HealthStatus.HEALTHY


def test_all_reference_data_is_published(outcome: Outcome) -> None:
    """Every country, currency and language of pycountry and every zone of zoneinfo is an event."""
    assert line(outcome, "shared.country.created").published == len(pycountry.countries)
    assert line(outcome, "shared.currency.created").published == len(pycountry.currencies)
    assert line(outcome, "shared.language.created").published == len(pycountry.languages)
    assert line(outcome, "shared.timezone.created").published == len(sources.zone_names()) > 400


def test_the_poison_event_is_redriven(outcome: Outcome) -> None:
    """The user whose name looks empty ends in the dead letters once, and is a customer after the fix."""
    registered = line(outcome, "identity.user.registered")
    assert (registered.dead_lettered, registered.redriven, registered.lost) == (1, 1, 0)
    assert outcome.account.total.dead_lettered == 1
    assert line(outcome, "customer.customer.created").published == 50
    assert outcome.facts["customers"] == 50


def test_failing_mails_are_retried(outcome: Outcome) -> None:
    """Every user gets a welcome mail, those included whose mail the gateway refused at first."""
    refused = outcome.facts["welcome mails refused at first"]
    assert refused > 0
    assert outcome.facts["welcome mails sent"] == 50
    assert line(outcome, "identity.user.registered").retried == refused + 2


def test_the_audit_sees_every_event(outcome: Outcome) -> None:
    """The audit trail has one mark for each event of every topic."""
    assert outcome.facts["marks in the audit trail"] == outcome.account.total.published


@pytest.mark.usefixtures("short_tables")
def test_a_seed_repeats_a_run() -> None:
    """The same seed gives the same number of events per topic and the same facts; another seed does not."""
    first, again, other = demo_of(users=100), demo_of(users=100), demo_of(users=100, seed=2)
    assert published(first) == published(again)
    assert first.facts == again.facts
    assert published(first) != published(other)


@pytest.mark.usefixtures("short_tables")
def test_the_demo_runs_over_encoded_events() -> None:
    """Nothing changes when every event passes through JSON, as it does on an adapter with a server."""
    plain, encoded = demo_of(), demo_of(bus={"memory": {"serialize": True}})
    assert encoded.faults == ()
    assert published(encoded) == published(plain)
    assert encoded.facts == plain.facts


@pytest.mark.usefixtures("short_tables")
@pytest.mark.parametrize(
    "bus",
    [
        {"worker_pool_size": 1, "buffer_size": 1},
        {"retry_attempts": 1},
        {"retry_attempts": 10, "retry_delay": "1ms", "retry_max_delay": "2ms"},
    ],
    ids=["narrow", "no retries", "many retries"],
)
def test_the_account_adds_up_on_any_setting(bus: dict[str, Any]) -> None:
    """One worker and a buffer of one, or other retry policies, change figures but lose nothing."""
    assert demo_of(bus=bus).faults == ()


# --- planted bugs -----------------------------------------------------------------------------------------


@attrs.frozen
class NoOptions:
    """The options of the planted middleware."""


def plugin_with(middleware: Middleware) -> object:
    """A plugin that offers the middleware ``planted``."""

    @hookimpl
    def promenade_bus_middleware() -> Mapping[str, Any]:
        return {"planted": Factory(NoOptions, lambda _options, _context: middleware)}

    return SimpleNamespace(promenade_bus_middleware=promenade_bus_middleware)


def planted(wrong: Any) -> Middleware:
    """A middleware that is wrong about the tenth event that passes it."""
    passed = 0

    def middleware(handler: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            nonlocal passed
            passed += 1
            await (wrong if passed == 10 else _pass_on)(handler, envelope)

        return handle

    return middleware


async def _pass_on(handler: Handler, envelope: Envelope) -> None:
    await handler(envelope)


async def swallow(_handler: Handler, _envelope: Envelope) -> None:
    pass


async def repeat(handler: Handler, envelope: Envelope) -> None:
    await handler(envelope)
    await handler(envelope)


async def forge(handler: Handler, envelope: Envelope) -> None:
    envelope.event = _forged(envelope.event)
    await handler(envelope)


def _forged(event: Event) -> Event:
    """The same event under another id."""
    fields = {name: getattr(event, name) for name in ("alpha_2", "alpha_3", "numeric", "name")}
    return type(event)(aggregate_id=event.aggregate_id, **fields)


PLANTED = [
    ("consume", swallow, 1, "lost by"),
    ("consume", repeat, 0, "handled more than once by"),
    ("publish", swallow, 2, "lost by"),
    ("publish", repeat, 0, "handled more than once by"),
    ("publish", forge, 2, "handled without being published by"),
]


@pytest.mark.usefixtures("short_tables")
@pytest.mark.parametrize(
    ("direction", "wrong", "lost", "fault"),
    PLANTED,
    ids=[f"{direction} {wrong.__name__}" for direction, wrong, *_ in PLANTED],
)
def test_a_bus_that_errs_is_found_out(direction: str, wrong: Any, lost: int, fault: str) -> None:
    """A middleware that drops, doubles or swaps one event makes the account not add up."""
    outcome = demo_of(
        users=5,
        bus={"middleware": {direction: ["planted"]}},
        plugins=[plugin_with(planted(wrong))],
    )
    assert not outcome.adds_up
    assert outcome.lost == lost
    assert any(fault in told for told in outcome.faults), outcome.faults


@pytest.mark.usefixtures("short_tables")
@pytest.mark.parametrize(("direction", "wrong", "lost", "fault"), PLANTED[:3])
def test_a_planted_bug_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, direction: str, wrong: Any, lost: int, fault: str
) -> None:
    """The command says what is wrong, ends with the number of lost deliveries, and exits with 1."""
    config = tmp_path / "app.yaml"
    config.write_text(json.dumps({"bus": {**BUS, "middleware": {direction: ["planted"]}}}))
    plugins = [plugin_with(planted(wrong))]
    monkeypatch.setattr("crm.demo.run_demo", partial(run_demo, plugins=plugins))
    result = CliRunner().invoke(command.demo, ["--quiet", "--users", "5", "--config", str(config)])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [f"lost: {lost}"]
    assert fault in result.stderr


# --- the command ------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the bus as a user does, in a process of its own."""
    code = "from promenade_bus_cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )


def test_the_command_ends_with_the_number_of_lost_deliveries() -> None:
    """`promenade-bus demo` tells its progress, prints account and health, and ends with "lost: 0"."""
    done = run("demo", "--users", "50")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "lost: 0"
    assert "identity.user.registered" in done.stdout
    assert "event-loop" in done.stdout
    assert "50 people register" in done.stderr
    assert "dead letter of customer.accounts" in done.stderr


def test_an_interrupt_ends_the_demo() -> None:
    """Ctrl-C ends the demo in good order, with status 130 and no traceback."""
    command = [sys.executable, "-m", "promenade_bus_cli", "demo", "--users", "100000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        assert any("people register" in line for line in demo.stderr)
        demo.send_signal(signal.SIGINT)
        _, told = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "SIGINT: closing; a second signal stops at once" in told
    assert "Traceback" not in told


@pytest.mark.usefixtures("short_tables")
def test_quiet_prints_the_last_line_only() -> None:
    """With --quiet there is nothing on standard output but "lost: 0", and nothing on standard error."""
    result = CliRunner().invoke(command.demo, ["--users", "20", "--quiet"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "lost: 0\n", "")


def test_json_is_one_document() -> None:
    """With --json the account, its faults and the health report are one JSON document."""
    done = run("demo", "--users", "20", "--seed", "7", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["lost"] == 0
    assert document["faults"] == []
    assert document["facts"]["users registered"] == 20
    assert document["health"]["checks"]["engine"]["status"] == "healthy"
    assert {line["topic"] for line in document["topics"]} >= {"shared.country.created", "customer.deal.won"}


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    """A configuration that is not there ends the command with 2, and a message that names it."""
    missing = tmp_path / "missing.yaml"
    result = CliRunner().invoke(command.demo, ["--config", str(missing)])
    assert result.exit_code == 2
    assert str(missing) in result.stderr
    assert "Traceback" not in result.output


def test_the_plugin_is_light() -> None:
    """Discovering the example's plugin imports neither click nor rich nor pycountry."""
    code = "import sys, crm.plugin; print({'click', 'rich', 'pycountry'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- what people see --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_tables")
def test_a_terminal_shows_a_live_table() -> None:
    """On a terminal the subscriptions are drawn with what they have handled, and log lines fit in."""
    screen = io.StringIO()
    progress = LiveTable(Console(file=screen, force_terminal=True, width=80))
    progress.interval = 0.001
    assert demo_of(users=10, progress=progress).adds_up
    assert "customer.pipeline" in screen.getvalue()
    assert "10 people register" in screen.getvalue()


@pytest.mark.usefixtures("short_tables")
def test_a_plain_log_tells_steps_and_counts() -> None:
    """Without a terminal each step is a line, and so is a look at the counts."""
    log = io.StringIO()
    progress = PlainLines(Console(file=log, width=80))
    progress.interval = 0.001
    assert demo_of(users=10, progress=progress).adds_up
    assert "10 people register with identity" in log.getvalue()
    assert "unsettled" in log.getvalue()
    assert "\x1b" not in log.getvalue()


@pytest.mark.parametrize("width", [80, 110])
def test_the_account_fits(outcome: Outcome, width: int) -> None:
    """Every figure of the account is whole on 80 columns and on more."""
    paper = io.StringIO()
    print_outcome(Console(file=paper, width=width), outcome)
    lines = paper.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in paper.getvalue()
    name = "shared.language.created" if width > 80 else "language.created"
    (row,) = [row.split() for row in lines if row.split()[:1] == [name]]
    assert row[1:4] == [str(len(pycountry.languages)), *[str(2 * len(pycountry.languages))] * 2]


def test_faults_are_shown(outcome: Outcome) -> None:
    """Mismatches are listed, and cut off where the list gets too long."""
    paper = io.StringIO()
    faulty = attrs.evolve(outcome, faults=tuple(f"fault number {number}" for number in range(30)))
    print_outcome(Console(file=paper, width=110), faulty)
    assert "30 faults" in paper.getvalue()
    assert "fault number 19" in paper.getvalue()
    assert "and 10 more" in paper.getvalue()


def test_a_population_is_repeatable() -> None:
    """The same seed makes the same people; names are in many scripts, and one looks empty."""
    people = [*Population(seed=5, size=400)]
    assert people == [*Population(seed=5, size=400)]
    assert people != [*Population(seed=6, size=400)]
    assert len({person.user_id for person in people}) == len({person.email for person in people}) == 400
    assert sum(not person.name.isascii() for person in people) > 200
    assert [person.name for person in people].count("\u200b") == 1
