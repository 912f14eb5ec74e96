"""A worker: starts the application's bus in this process, and drains it on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from bus_core import DrainReport, Subscription
from promenade_bus_cli.apps import App, FoundApp
from promenade_bus_cli.failures import REFUSED, leave_now
from promenade_bus_cli.link import Link
from promenade_bus_cli.logs import LogFormat, say
from promenade_bus_cli.output import clean, counted, print_table
from promenade_bus_cli.signals import Signals

__all__ = ["RunOptions", "handler_name", "work"]

_MOST_LISTED: Final = 50


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of ``promenade-bus run`` that concern each worker. ``debug`` shows tracebacks.

    ``shutdown_timeout`` is in seconds, or None for the one of the configuration.
    """

    shutdown_timeout: float | None = None
    http: str | None = None
    log_level: str | None = None
    log_format: LogFormat | None = None
    debug: bool = False

    @property
    def say(self) -> Callable[[str], None]:
        """Prints a line."""
        return say(self.log_format)


async def work(found: FoundApp, options: RunOptions, signals: Signals, link: Link | None) -> int:
    """Runs the bus of an application until a signal, and returns the exit status.

    ``link`` leads to the command that started this process, if one did.
    """
    app = await found.open()
    with _served(app, options.http) as where:
        return await _Worker(app, options, signals, link).run(where)


@contextmanager
def _served(app: App, http: str | None) -> Iterator[str | None]:
    """Serves the bus at an address, if one is given, before it starts and until it is closed."""
    if http is None:
        yield None
        return
    serve = app.bus.parts.plugins.endpoints.select("http").value.load()
    with serve(app.bus, http) as where:
        yield where


class _Worker:
    """One run of a bus."""

    def __init__(self, app: App, options: RunOptions, signals: Signals, link: Link | None) -> None:
        self._app = app
        self._options = options
        self._signals = signals
        self._link = link
        self._say = options.say

    async def run(self, where: str | None) -> int:
        """Starts the bus, waits for a signal, and drains."""
        app, stop, given = self._app, asyncio.Event(), self._options.shutdown_timeout
        timeout = app.bus.config.shutdown_timeout if given is None else given
        self._signals.take_over(stop.set, f"draining, for at most {timeout:g} s")
        if self._link is not None:
            self._link.opened(timeout, where, self._signals)
        if not await self._started(stop):
            leave_now(128 + (self._signals.first or signal.SIGTERM))
        self._print_start(where)
        if self._link is not None:
            self._link.running()
        await stop.wait()
        report = await app.close(timeout)
        self._print_end(report)
        if report.completed and not report.abandoned:
            return 0
        leave_now(REFUSED)

    async def _started(self, stop: asyncio.Event) -> bool:
        """Starts the bus. Returns False when a signal arrived first."""
        starting = asyncio.ensure_future(self._app.start())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            self._say("stopped while the bus was starting")
            starting.cancel()
            await asyncio.wait((starting,))
            return False
        await starting
        return True

    # --- what it prints -----------------------------------------------------------------------------------

    def _print_start(self, where: str | None) -> None:
        bus = self._app.bus
        subscriptions = bus.subscriptions
        is_alone = self._link is None or not self._link.is_one_of_many
        what = counted(len(subscriptions), "subscription") if subscriptions else "no subscriptions"
        running = f"{bus.service} is running on {bus.adapter.name!r} with {what}"
        if not is_alone:
            self._say(f"{running} (process {os.getpid()})")
            return
        if subscriptions and self._options.log_format != "json":
            try:
                print_table(
                    ["subscription", "topic", "mode", "handler"], [_row(item) for item in subscriptions]
                )
            except OSError:
                pass
        self._say(f"{running}; stop it with Ctrl-C or SIGTERM (process {os.getpid()})")
        if where is not None:
            self._say(f"probes and metrics are at {where}")

    def _print_end(self, report: DrainReport) -> None:
        say, state = self._say, self._app.bus.state()
        handled = sum(item.handled for item in state.subscriptions)
        dead = sum(item.dead_lettered for item in state.subscriptions)
        say(f"handled {counted(handled, 'event')}, {dead:,} dead-lettered, {state.lost:,} lost")
        if report.completed and not report.abandoned:
            say(f"drained in {report.seconds:.2f} s: nothing was abandoned")
            return
        say(f"not drained within {report.seconds:.2f} s: {counted(len(report.abandoned), 'event')} abandoned")
        for item in report.abandoned[:_MOST_LISTED]:
            say(clean(f"  {item.event_id} of {item.topic} for {item.subscription}: {item.state}"))
        if len(report.abandoned) > _MOST_LISTED:
            say(f"  and {len(report.abandoned) - _MOST_LISTED:,} more")


def _row(subscription: Subscription) -> list[str]:
    return [subscription.name, subscription.topic, subscription.mode, handler_name(subscription)]


def handler_name(subscription: Subscription) -> str:
    """Returns module and name of a handler."""
    handler = subscription.handler
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', None) or type(handler).__module__}.{name}"
