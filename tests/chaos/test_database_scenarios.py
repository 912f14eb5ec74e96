"""Each scenario of the adapters on databases in its short form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chaos import report
from chaos.postgres_scenarios import POSTGRES_SCENARIOS
from chaos.runner import run
from chaos.scenario import Scenario
from chaos.sqlite_scenarios import SQLITE_SCENARIOS

_ALWAYS = (101, 105, 201)
"""Those that are run in `make test`, too."""


def _cases() -> Iterator[Any]:
    for each in (*SQLITE_SCENARIOS, *POSTGRES_SCENARIOS):
        marks = [] if each.number in _ALWAYS else [pytest.mark.long]
        yield pytest.param(each, id=each.name.replace(" ", "-"), marks=marks)


@pytest.mark.once
@pytest.mark.parametrize("scenario", [*_cases()])
def test_scenario(scenario: Scenario) -> None:
    """Nothing is lost, unexpected or stuck, and duplicates are within their bound."""
    findings = run(scenario)
    assert not findings.faults, "\n".join(report.lines(findings))
