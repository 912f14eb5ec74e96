"""The part of the pytest plugin for the adapter contract. It does not import the bus.

Contract tests that do not apply to an adapter have their own outcome and are listed by name at the end. For
pytest they are skipped tests, which would be hidden among tests skipped for other reasons.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

__all__ = ["NOT_APPLICABLE", "STRESS_OPTION"]

NOT_APPLICABLE = "not applicable"
STRESS_OPTION = "--promenade-stress"
_PREFIX = f"Skipped: {NOT_APPLICABLE}: "


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return None
    text = report.longrepr[2]
    return text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option for long runs of the adapter contract."""
    parser.getgroup("promenade", "Promenade Bus").addoption(
        STRESS_OPTION,
        nargs="?",
        type=int,
        const=10,
        default=0,
        metavar="SUITES",
        help="run every contract test this many times (10) under load; in parallel with -n",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Counts tests that are not applicable separately from skipped ones."""
    return None if _reason(report) is None else (NOT_APPLICABLE, "n", NOT_APPLICABLE.upper())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists tests that are not applicable, by adapter and missing feature."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for report in terminalreporter.getreports(NOT_APPLICABLE):
        suite, _, test = report.nodeid.rpartition("::")
        by_reason[suite, _reason(report) or ""].append(test)
    if not by_reason:
        return
    terminalreporter.section("contract tests that are not applicable")
    for (suite, reason), tests in sorted(by_reason.items()):
        terminalreporter.write_line(f"{suite} {reason}: {', '.join(sorted(tests))}")
