"""Shows the outcome of a run to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bus_core import HealthReport, HealthStatus
from crm.account import Account, TopicAccount
from crm.demo import Outcome

if TYPE_CHECKING:
    from crm.several import SeveralOutcome

__all__ = ["print_outcome", "print_several", "wide_console"]

_STYLES = {HealthStatus.HEALTHY: "green", HealthStatus.DEGRADED: "yellow", HealthStatus.UNHEALTHY: "red"}
_PLAIN_WIDTH = 110
_FULL_NAMES = 88
"""From this width on topics are shown by their full names, below it grouped by context."""

# In two lines, so that the table fits into 80 columns.
_HEADINGS = (
    "pub-\nlished",
    "ex-\npected",
    "hand-\nled",
    "re-\ntried",
    "dead-\nlettered",
    "re-\ndriven",
    "lost",
    "events\n/s",
)


def wide_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; where there is none, wide enough for the account."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Prints the account per topic, what the contexts tell, the health report, and the faults."""
    console.print(_account(outcome.account, console.width))
    facts = ", ".join(f"{what} {number:,}" for what, number in outcome.facts.items())
    console.print(Text(facts, style="dim"))
    console.print(_health(outcome.health))
    if outcome.faults:
        console.print(Text(f"The account does not add up: {len(outcome.faults)} faults", style="bold red"))
        for fault in outcome.faults[:20]:
            console.print(Text(f"  {fault}", style="red"))
        if len(outcome.faults) > 20:
            console.print(Text(f"  and {len(outcome.faults) - 20} more", style="red"))
    else:
        total = outcome.account.total
        console.print(
            Text(
                f"The journals and the counters of the bus agree: {total.published:,} events, "
                f"{total.handled:,} deliveries in {outcome.seconds:.1f} s "
                f"({total.handled / max(outcome.seconds, 1e-9):,.0f} deliveries/s)"
            )
        )


def print_several(console: Console, outcome: SeveralOutcome) -> None:
    """Prints the account per subscription, over the journals of all processes, and the health report."""
    account = outcome.account
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("subscription", overflow="fold")
    for heading in ("ex-\npected", "hand-\nled", "failed", "cut\nshort", "dead-\nlettered", "twice", "lost"):
        table.add_column(heading, justify="right", overflow="fold")
    for line in account.subscriptions:
        figures = (line.expected, line.handled, line.failed, line.interrupted, line.dead_lettered)
        table.add_row(line.name, *map(str, (*figures, line.duplicated, line.lost)))
    console.print(table)
    console.print(Text(", ".join(f"{what} {count:,}" for what, count in outcome.facts.items()), style="dim"))
    console.print(_health(outcome.health))
    handled = account.total("handled")
    console.print(
        Text(
            f"{account.acknowledged:,} events, {handled:,} deliveries in {outcome.seconds:.1f} s of traffic "
            f"({handled / max(outcome.seconds, 1e-9):,.0f} deliveries/s)"
        )
    )


def _account(account: Account, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("topic", overflow="fold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", overflow="fold")
    grouped = width < _FULL_NAMES
    context = ""
    for line in account.topics:
        topic = line.topic
        if grouped:
            owner, _, rest = topic.partition(".")
            if owner != context:
                table.add_row(Text(owner, style="bold"))
            context, topic = owner, f" {rest}"
        table.add_row(topic, *_cells(line))
    table.add_section()
    table.add_row("total", *_cells(account.total), style="bold")
    return table


def _cells(line: TopicAccount) -> list[str | Text]:
    return [
        str(line.published),
        str(line.expected),
        str(line.handled),
        *(str(number) if number else "-" for number in (line.retried, line.dead_lettered, line.redriven)),
        Text(str(line.lost), style="bold red" if line.lost else ""),
        f"{line.events_per_second:.0f}",
    ]


def _health(health: HealthReport) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("health", Text(health.status, style=_STYLES[health.status]), "")
    for name, check in health.checks.items():
        table.add_row(f"  {name}", Text(check.status, style=_STYLES[check.status]), check.summary)
    return table
