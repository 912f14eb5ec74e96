"""Each scenario of the adapter on SQLite in its short form."""

from __future__ import annotations

import pytest

from chaos import report
from chaos.runner import run
from chaos.scenario import Scenario
from chaos.sqlite_scenarios import SQLITE_SCENARIOS

_ALWAYS = (101, 104, 105)
"""Those that are run in `make test`, too."""


@pytest.mark.once
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(each, id=each.name.replace(" ", "-"), marks=[] if each.number in _ALWAYS else [pytest.mark.long])
        for each in SQLITE_SCENARIOS
    ],
)
def test_scenario(scenario: Scenario) -> None:
    """Nothing is lost, unexpected or stuck, and duplicates are within their bound."""
    findings = run(scenario)
    assert not findings.faults, "\n".join(report.lines(findings))
