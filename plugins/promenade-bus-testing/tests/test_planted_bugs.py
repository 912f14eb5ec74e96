"""The contract finds bugs: each of those planted here makes a named test of it fail."""

from __future__ import annotations

from collections import defaultdict

import pytest

from promenade_bus_testing.contract import contract_tests
from support.planted_bugs import BUGS, Bug

pytestmark = [pytest.mark.long, pytest.mark.once, pytest.mark.timeout(100)]

SUITES = sorted({each.suite for each in BUGS})


def outcomes(
    pytester: pytest.Pytester, suite: str, tests: set[str], *, deadline: float = 20.0
) -> dict[str, str]:
    """Runs tests of a suite in this process; returns what came of each."""
    pytester.makepyfile(
        f"""
        from support.contract_suites import {suite}

        class TestIt({suite}):
            deadline = {deadline}
            longest_test = {20 * deadline}
        """
    )
    path = next(pytester.path.glob("test_*.py"))
    given = ["-p", "no:randomly", "-p", "no:hypothesispytest", "-p", "no:asyncio", "-W", "ignore"]
    nodes = [f"{path.name}::TestIt::{test}" for test in sorted(tests)]
    run = pytester.inline_run(*given, *nodes)
    found: dict[str, str] = {}
    for report in run.getreports("pytest_runtest_logreport"):
        if report.when == "call" or report.failed:
            found[report.nodeid.rpartition("::")[2]] = report.outcome
    return found


@pytest.mark.parametrize("planted", BUGS, ids=lambda planted: planted.plant.__name__)
def test_a_planted_bug_is_found(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, planted: Bug
) -> None:
    """Each bug makes the tests fail that are named beside it."""
    clean_up = planted.plant(monkeypatch)
    try:
        found = outcomes(pytester, planted.suite, {*planted.caught_by}, deadline=1.0)
    finally:
        monkeypatch.undo()
        if clean_up is not None:
            clean_up()
    assert found == dict.fromkeys(planted.caught_by, "failed")


@pytest.mark.parametrize("suite", SUITES)
def test_without_the_bugs_they_pass(pytester: pytest.Pytester, suite: str) -> None:
    """The same tests pass when nothing is planted."""
    tests = {test for planted in BUGS if planted.suite == suite for test in planted.caught_by}
    assert outcomes(pytester, suite, tests) == dict.fromkeys(tests, "passed")


def test_the_table_names_tests_of_the_contract() -> None:
    """Every name in the table is a test of the contract, and every area of it finds some bug."""
    areas = {test.name: test.area for test in contract_tests()}
    caught: dict[str, int] = defaultdict(int)
    for planted in BUGS:
        for test in planted.caught_by:
            caught[areas[test.partition("[")[0]]] += 1
    assert {*caught} == {*areas.values()}
    assert len({planted.name for planted in BUGS}) == len(BUGS) >= 50
