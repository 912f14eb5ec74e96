"""The part of the pytest plugin that serves the adapter contract; it imports nothing of the bus.

Contract tests that do not apply to an adapter are an outcome of their own, listed by name at the end. To
pytest they are skipped tests, which would hide among those that are skipped for other reasons.
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
        help="run every contract test in so many suites (10), for long; with -n in parallel",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Counts such tests apart from those that are skipped."""
    return None if _reason(report) is None else (NOT_APPLICABLE, "n", NOT_APPLICABLE.upper())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists them by adapter and by what they need."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for report in terminalreporter.getreports(NOT_APPLICABLE):
        suite, _, test = report.nodeid.rpartition("::")
        by_reason[suite, _reason(report) or ""].append(test)
    if not by_reason:
        return
    terminalreporter.section("contract tests that are not applicable")
    for (suite, reason), tests in sorted(by_reason.items()):
        terminalreporter.write_line(f"{suite} {reason}: {', '.join(sorted(tests))}")
