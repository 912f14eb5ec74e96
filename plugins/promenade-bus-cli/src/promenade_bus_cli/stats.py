"""``promenade-bus stats``: the load of each subscription, over all instances, as a live table."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import click

from bus_core.abc import Administration, GroupFigures
from bus_core.config import format_duration
from promenade_bus_cli.administered import run_with_administration
from promenade_bus_cli.apps import App
from promenade_bus_cli.failures import INTERRUPTED
from promenade_bus_cli.options import app_option, config_option, debug_option, duration, json_option
from promenade_bus_cli.output import clean, print_json, print_table
from promenade_bus_cli.signals import Signals

__all__ = ["stats"]

_COLUMNS: Final = (
    "subscription",
    "topic",
    "instances",
    "in/s",
    "out/s",
    "in flight",
    "retries",
    "dead",
    "lag",
    "oldest",
)


@click.command()
@click.option(
    "--interval",
    type=duration,
    default="2s",
    show_default=True,
    help="The time between two looks, over which rates are measured.",
)
@click.option("--once", is_flag=True, help="Print the table once. Also the case with --json or in a pipe.")
@app_option
@config_option
@json_option
@debug_option
@click.pass_context
def stats(
    ctx: click.Context, interval: float, once: bool, app: str | None, config: str | None, as_json: bool
) -> None:
    """Show the load of each subscription, over all instances, until Ctrl-C.

    The adapter has to tell of all groups, as redis with streams and sqlite do. Only the adapter is started:
    no subscription is opened, and no event handled.
    """
    if not 0.05 <= interval <= 3600:
        raise click.BadParameter("must be from 50ms to 1h", param_hint="--interval")
    is_live = not (once or as_json) and sys.stdout.isatty()
    signals = Signals()

    async def watch(opened: App, admin: Administration) -> None:
        if is_live:
            await _follow(opened.bus.service, admin, interval, signals)
            return
        loop = asyncio.get_running_loop()
        before, began = await admin.groups(), loop.time()
        await asyncio.sleep(interval)
        after = await admin.groups()
        rows = _rates(before, after, loop.time() - began)
        if as_json:
            print_json({"interval_s": interval, "subscriptions": [row.as_data() for row in rows]})
        elif rows:
            print_table(_COLUMNS, [row.cells() for row in rows])
        else:
            click.echo("no subscriptions")

    run_with_administration(app, config, watch, signals, "stats")
    if signals.first is not None:
        ctx.exit(INTERRUPTED)


@attrs.frozen
class _Row:
    """A group with its rates in events per second; None where the storage cannot tell them."""

    figures: GroupFigures
    rate_in: float | None
    rate_out: float | None

    def as_data(self) -> dict[str, Any]:
        told = attrs.asdict(self.figures)
        del told["published"]
        oldest = told.pop("oldest")
        return {**told, "oldest_s": oldest, "in_per_s": self.rate_in, "out_per_s": self.rate_out}

    def cells(self) -> list[str]:
        figures = self.figures
        return [
            figures.group,
            figures.topic,
            str(figures.instances),
            _rate(self.rate_in),
            _rate(self.rate_out),
            _number(figures.in_flight),
            _number(figures.retries),
            _number(figures.dead),
            _number(figures.lag),
            "-" if figures.oldest is None else format_duration(float(round(figures.oldest))),
        ]


def _rates(before: Sequence[GroupFigures], after: Sequence[GroupFigures], seconds: float) -> list[_Row]:
    """The figures of the second look, with the changes since the first one."""
    earlier: Mapping[tuple[str, str], GroupFigures] = {(each.group, each.topic): each for each in before}
    rows = []
    for each in after:
        then = earlier.get((each.group, each.topic))
        if then is None or then.published is None or each.published is None:
            rows.append(_Row(each, None, None))
            continue
        came = max(0, each.published - then.published)
        went = max(0, came - (each.backlog - then.backlog))
        rows.append(_Row(each, round(came / seconds, 3), round(went / seconds, 3)))
    return rows


async def _follow(service: str, admin: Administration, interval: float, signals: Signals) -> None:
    """Draws the table again and again, in place."""
    from rich.console import Console
    from rich.live import Live

    stop = asyncio.Event()
    signals.take_over(stop.set, "ending")
    loop = asyncio.get_running_loop()
    with Live(console=Console(), auto_refresh=False) as live:
        before, since = await admin.groups(), loop.time()
        while True:
            try:
                await asyncio.wait_for(stop.wait(), interval)
                return
            except TimeoutError:
                pass
            after, now = await admin.groups(), loop.time()
            live.update(_drawn(service, _rates(before, after, now - since)), refresh=True)
            before, since = after, now


def _drawn(service: str, rows: Sequence[_Row]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"seen by {service}; Ctrl-C ends it")
    for index, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row.cells()))
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
