"""The findings for people, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from chaos.checks import Flat
from chaos.findings import Findings
from promenade_bus_testing.account_command import as_lines

_COLUMNS = (
    *("attempted", "acknowledged", "handled", "dead_lettered", "duplicated", "allowed_duplicates"),
    *("lost", "unexpected", "stuck", "counted_lost"),
)


def lines(findings: Findings) -> list[str]:
    """The account of one scenario, what was done, and what is wrong."""
    scenario = findings.scenario
    length = "at full length" if findings.full else "in short"
    head = f"== {scenario.number}. {scenario.name} ({length}, {findings.seconds:.1f} s): {scenario.story}"
    notes = ", ".join(f"{what} {count:,}" for what, count in sorted(findings.notes.items()) if count)
    told = [line for line in as_lines(findings.account) if not line.startswith(("The account ", "  "))]
    bound = f"{findings.allowed_duplicates:,} duplicates were allowed; done: {notes or 'nothing'}"
    text = [head, *told, bound]
    text += _flatness(findings)
    verdict = [f"   wrong: {fault}" for fault in findings.faults]
    return [*text, *(verdict or ["   as it must be"])]


def _flatness(findings: Findings) -> list[str]:
    found = []
    for check in findings.scenario.checks:
        if isinstance(check, Flat):
            for name, rises in sorted(check.rises(findings).items()):
                figures = ", ".join(f"{what} {rise:+,.0f}" for what, rise in rises.items())
                found.append(f"{name} rose by: {figures}")
    return found


def table(all_findings: list[Findings]) -> list[str]:
    """One line for each scenario."""
    rows = [["scenario", *(name.replace("_", "-") for name in _COLUMNS), "recovery", ""]]
    for findings in all_findings:
        data = findings.as_data()
        recovery = "-" if data["recovery"] is None else f"{data['recovery']:.2f} s"
        verdict = "ok" if not data["faults"] else "FAILED"
        name = f"{findings.scenario.number} {findings.scenario.name}"
        rows.append([name, *(str(data[column]) for column in _COLUMNS), recovery, verdict])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def write(findings: Findings, directory: Path) -> Path:
    """Writes JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{findings.scenario.number:02}-{findings.scenario.name.replace(' ', '-')}.json"
    path.write_text(json.dumps(findings.as_data(), indent=2) + "\n", encoding="utf-8")
    return path
