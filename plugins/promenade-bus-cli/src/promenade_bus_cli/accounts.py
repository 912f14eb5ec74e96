"""The account of a command: the outcome of every event that it published."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import click

from bus_core import Bus, DrainReport, Event
from promenade_bus_cli.output import clean, counted, print_json, print_table, remark

__all__ = ["Account", "Fault", "print_abandoned", "print_account"]

_MOST_KEPT = 1_000


@dataclass(frozen=True)
class Fault:
    """A refused line and the reason."""

    line: int
    names: dict[str, str]
    kind: str
    why: str

    def sentence(self) -> str:
        """Returns line number, topic and id, and reason as one sentence."""
        what = " ".join(self.names.values())
        return clean(f"line {self.line}: {f'{what}: ' if what else ''}{self.why}")


@dataclass
class Account:
    """Counts while events are published; complete when the bus is closed."""

    bus: Bus
    dry_run: bool
    has_handlers: bool
    accepted_events: int = 0
    refused_lines: int = 0
    faults: list[Fault] = field(default_factory=list)
    last_event: Event | None = None
    report: DrainReport | None = None

    def accepted(self, event: Event) -> None:
        """Counts an event that the bus accepted, or that passed the check of a dry run."""
        self.accepted_events += 1
        self.last_event = event

    def refused(self, line: int, names: dict[str, str], error: Exception) -> Fault:
        """Counts a refused line, and keeps the first thousand of them."""
        fault = Fault(line, names, type(error).__name__, str(error))
        self.refused_lines += 1
        if len(self.faults) < _MOST_KEPT:
            self.faults.append(fault)
        return fault

    def closed(self, report: DrainReport) -> None:
        """Records the drain report of the closed bus."""
        self.report = report

    @property
    def is_clean(self) -> bool:
        """True when every event was accepted and none was abandoned or lost."""
        return not self.refused_lines and not self.is_abandoned and not self.bus.state().lost

    @property
    def is_abandoned(self) -> bool:
        """True when the bus closed before every event was settled."""
        return self.report is not None and bool(self.report.abandoned or not self.report.completed)

    def sentence(self) -> str:
        """Returns the number of accepted events and of refused lines as a sentence."""
        done = "valid, nothing was published" if self.dry_run else "published"
        refused = f", {counted(self.refused_lines, 'line')} refused" if self.refused_lines else ""
        return f"{counted(self.accepted_events, 'event')} {done}{refused}"

    def as_data(self) -> dict[str, Any]:
        """Returns the whole account as plain data."""
        state = self.bus.state()
        return {
            "dry_run": self.dry_run,
            "accepted": self.accepted_events,
            "refused": self.refused_lines,
            "errors": [
                {"line": fault.line, **fault.names, "error": fault.kind, "why": fault.why}
                for fault in self.faults
            ],
            "topics": [] if self.dry_run else self.topics(),
            "subscriptions": [] if self.dry_run else self.subscriptions(),
            "unrouted": state.unrouted,
            "lost": state.lost,
            "abandoned": len(self.report.abandoned) if self.report else 0,
        }

    def topics(self) -> list[dict[str, Any]]:
        """Counts published and abandoned events per topic.

        Events that handlers published are included.
        """
        abandoned = Counter(item.topic for item in self.report.abandoned) if self.report else Counter[str]()
        return [
            {"topic": topic, "published": number, "abandoned": abandoned[topic]}
            for topic, number in self.bus.published().items()
            if number
        ]

    def subscriptions(self) -> list[dict[str, Any]]:
        """Returns the counters of each subscription that received an event."""
        rows = [
            {
                "subscription": item.name,
                "topic": item.topic,
                "handled": item.handled,
                "skipped": item.skipped,
                "retried": item.retried,
                "dead_lettered": item.dead_lettered,
            }
            for item in self.bus.state().subscriptions
        ]
        return [row for row in rows if any(isinstance(value, int) and value for value in row.values())]


def print_account(account: Account, *, as_json: bool) -> None:
    """Prints the account as JSON, or as tables and a sentence."""
    if as_json:
        print_json(account.as_data())
        return
    if not account.dry_run and account.has_handlers:
        _print_rows(account.topics())
        _print_rows(account.subscriptions())
    single = (
        f" ({account.last_event.event_id})" if account.accepted_events == 1 and account.last_event else ""
    )
    click.echo(account.sentence() + ("" if account.dry_run else single))
    state = account.bus.state()
    if state.unrouted:
        remark(f"{counted(state.unrouted, 'event')} reached nobody: no subscription here matches the topic")
    if state.lost:
        remark(f"{counted(state.lost, 'event')} lost; see the log for their ids")
    print_abandoned(account)


def print_abandoned(account: Account) -> None:
    """Prints the number of events whose handlers had not finished when the bus closed, if any."""
    if account.report is not None and account.report.abandoned:
        remark(f"{counted(len(account.report.abandoned), 'event')} abandoned when the shutdown timeout ended")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    if rows:
        columns = [*rows[0]]
        print_table(
            [column.replace("_", "-") for column in columns],
            [
                [f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()]
                for row in rows
            ],
        )
        click.echo()
