"""``promenade-bus run``: a worker. It starts the application's bus, and drains it on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from bus_core import DrainReport, Subscription
from promenade_bus_cli.apps import App, FoundApp, find_app
from promenade_bus_cli.failures import REFUSED, leave_now
from promenade_bus_cli.options import debug_option, duration
from promenade_bus_cli.output import clean, counted, print_table
from promenade_bus_cli.signals import Signals

__all__ = ["run"]


@click.command()
@click.argument("app", metavar="MODULE:ATTR")
@click.option(
    "--shutdown-timeout",
    type=duration,
    metavar="DURATION",
    help="The time limit of the drain, such as 1m30s. Default: 'shutdown_timeout' of the configuration.",
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve probes and metrics at this address, by default on 127.0.0.1. Needs promenade-bus-http.",
)
@debug_option
@click.pass_context
def run(ctx: click.Context, app: str, shutdown_timeout: float | None, http: str | None) -> None:
    """Run an application's bus as a worker, until SIGTERM or SIGINT (Ctrl-C).

    MODULE:ATTR is an unstarted Bus or SyncBus, or a function that returns one. The first signal drains
    within the shutdown timeout, a second signal stops at once. Exit status: 0 after a clean drain, 1 when an
    event was abandoned, 128 + the signal's number after a stop at once.
    """
    signals = Signals(signal.SIGTERM, signal.SIGINT, output=1)
    ctx.exit(signals.run(_work(find_app(app), shutdown_timeout, http, signals)))


async def _work(found: FoundApp, shutdown_timeout: float | None, http: str | None, signals: Signals) -> int:
    app = await found.open()
    with _served(app, http) as where:
        return await _run(app, shutdown_timeout, where, signals)


@contextmanager
def _served(app: App, http: str | None) -> Iterator[str | None]:
    """Serves the bus at an address, if one is given, before it starts and until it is closed."""
    if http is None:
        yield None
        return
    serve = app.bus.parts.plugins.endpoints.select("http").value.load()
    with serve(app.bus, http) as where:
        yield where


async def _run(app: App, shutdown_timeout: float | None, where: str | None, signals: Signals) -> int:
    timeout = app.bus.config.shutdown_timeout if shutdown_timeout is None else shutdown_timeout
    stop = asyncio.Event()
    signals.take_over(stop.set, f"draining, for at most {timeout:g} s")
    if not await _started(app, stop):
        leave_now(128 + (signals.first or signal.SIGTERM))
    _print_start(app, where)
    await stop.wait()
    report = await app.close(timeout)
    _print_end(app, report)
    if report.completed and not report.abandoned:
        return 0
    leave_now(REFUSED)


async def _started(app: App, stop: asyncio.Event) -> bool:
    """Starts the bus. Returns False when a signal arrived first."""
    starting = asyncio.ensure_future(app.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        _say("stopped while the bus was starting")
        starting.cancel()
        await asyncio.wait((starting,))
        return False
    await starting
    return True


# --- what it prints ---------------------------------------------------------------------------------------


def _say(text: str) -> None:
    """Prints a line. A closed stdout does not stop the worker."""
    try:
        click.echo(text)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _print_start(app: App, where: str | None) -> None:
    bus = app.bus
    subscriptions = bus.subscriptions
    try:
        if subscriptions:
            print_table(["subscription", "topic", "mode", "handler"], [_row(item) for item in subscriptions])
    except OSError:
        pass
    what = counted(len(subscriptions), "subscription") if subscriptions else "no subscriptions"
    _say(
        f"{bus.service} is running on {bus.adapter.name!r} with {what}; "
        f"stop it with Ctrl-C or SIGTERM (process {os.getpid()})"
    )
    if where is not None:
        _say(f"probes and metrics are at {where}")


def _row(subscription: Subscription) -> list[str]:
    return [subscription.name, subscription.topic, subscription.mode, handler_name(subscription)]


def handler_name(subscription: Subscription) -> str:
    """Returns module and name of a handler."""
    handler = subscription.handler
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', None) or type(handler).__module__}.{name}"


def _print_end(app: App, report: DrainReport) -> None:
    state = app.bus.state()
    handled = sum(item.handled for item in state.subscriptions)
    dead = sum(item.dead_lettered for item in state.subscriptions)
    _say(f"handled {counted(handled, 'event')}, {dead:,} dead-lettered, {state.lost:,} lost")
    if report.completed and not report.abandoned:
        _say(f"drained in {report.seconds:.2f} s: nothing was abandoned")
        return
    _say(f"not drained within {report.seconds:.2f} s: {counted(len(report.abandoned), 'event')} abandoned")
    for item in report.abandoned[:_MOST_LISTED]:
        _say(clean(f"  {item.event_id} of {item.topic} for {item.subscription}: {item.state}"))
    if len(report.abandoned) > _MOST_LISTED:
        _say(f"  and {len(report.abandoned) - _MOST_LISTED:,} more")


_MOST_LISTED = 50
