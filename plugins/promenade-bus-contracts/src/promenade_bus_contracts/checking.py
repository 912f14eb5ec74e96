"""The check of contracts against their lock files and golden events, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from promenade_bus_contracts.changes import Change, breaking, changes_of
from promenade_bus_contracts.golden import GoldenFault, golden_faults, golden_path
from promenade_bus_contracts.lock_files import lock_path, locked_contexts, read_lock
from promenade_bus_contracts.sources import Source

__all__ = ["Report", "check", "lines_of"]


@attrs.frozen
class Report:
    """The result of a check. ``unlocked`` are contexts without a lock file.

    ``unproven`` are versions without a golden event.
    """

    changes: tuple[Change, ...]
    golden: tuple[GoldenFault, ...]
    unlocked: tuple[str, ...]
    unproven: tuple[str, ...]
    knows_subscribers: bool

    @property
    def is_broken(self) -> bool:
        """True if a change breaks somebody, a golden event is not read, or a contract is not locked."""
        return bool(breaking(self.changes) or self.golden or self.unlocked)

    def as_data(self) -> dict[str, Any]:
        """Returns the report as plain data for programs."""
        return {
            "status": "broken" if self.is_broken else "fine",
            "changes": [change.as_data() for change in self.changes],
            "golden": [fault.as_data() for fault in self.golden],
            "unlocked": list(self.unlocked),
            "unproven": list(self.unproven),
            "knows_subscribers": self.knows_subscribers,
        }


def check(directory: Path, source: Source, contexts: Sequence[str]) -> Report:
    """Compares contracts with their lock files, and reads their golden events."""
    changes: list[Change] = []
    golden: list[GoldenFault] = []
    unlocked: list[str] = []
    unproven: list[str] = []
    for context, contract in source.contracts.items():
        lock = read_lock(directory, context)
        if lock is None:
            unlocked.append(context)
            continue
        changes += changes_of(lock, contract, context, source.subscribers)
        golden += golden_faults(directory, contract)
        for name, locked in lock["topics"].items():
            topic = contract.topics.get(name)
            path = golden_path(directory, name, locked["version"])
            if topic is not None and topic.is_typed and not path.exists():
                unproven.append(f"{name} version {locked['version']}")
    for context in locked_contexts(directory):
        lock = None if context in source.contracts or contexts else read_lock(directory, context)
        if lock is not None:
            changes += changes_of(lock, None, context, source.subscribers)
    return Report(tuple(changes), tuple(golden), tuple(unlocked), tuple(unproven), source.knows_subscribers)


def lines_of(report: Report, directory: Path) -> Iterator[str]:
    """Yields the report for people: faults first, then versioned changes, then harmless ones."""
    for context in report.unlocked:
        path = lock_path(directory, context)
        yield f"NOT LOCKED  {context}: there is no {path}; run 'promenade-bus contracts lock', and commit it"
    for change in breaking(report.changes):
        yield f"BREAKING    {change}"
        yield from _whom(change, report)
        yield f"            remedy: {change.remedy}"
    for fault in report.golden:
        yield f"GOLDEN      {fault}"
    for change in report.changes:
        if change.verdict == "versioned":
            yield f"versioned   {change}"
            yield from _whom(change, report)
    for change in report.changes:
        if change.verdict == "harmless":
            yield f"harmless    {change}"
    for name in report.unproven:
        remedy = "add an example, and run 'promenade-bus contracts lock'"
        yield f"no example  {name} has no golden event: {remedy}"


def _whom(change: Change, report: Report) -> Iterator[str]:
    verb = "breaks" if change.verdict == "breaking" else "concerns"
    for subscriber in change.subscribers:
        yield f"            {verb} {subscriber}"
    if not change.subscribers and report.knows_subscribers:
        yield "            no subscription of the given applications receives it"
