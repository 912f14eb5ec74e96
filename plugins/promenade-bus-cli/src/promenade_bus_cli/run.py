"""``promenade-bus run``: a worker. It starts the application's bus, and ends well when it is asked to end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from types import FrameType

import click

from bus_core import DrainReport, Subscription
from promenade_bus_cli.apps import App, open_app
from promenade_bus_cli.failures import REFUSED, leave_now
from promenade_bus_cli.options import debug_option, duration
from promenade_bus_cli.output import clean, counted, print_table

__all__ = ["run"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@click.command()
@click.argument("app", metavar="MODULE:ATTR")
@click.option(
    "--shutdown-timeout",
    type=duration,
    metavar="DURATION",
    help="How long to drain, as 5s or 1m30s; by default the 'shutdown_timeout' of the configuration.",
)
@debug_option
@click.pass_context
def run(ctx: click.Context, app: str, shutdown_timeout: float | None) -> None:
    """Run an application's bus as a worker, until SIGTERM or SIGINT (Ctrl-C).

    MODULE:ATTR is an unstarted Bus or SyncBus, or a function that returns one. The first signal drains
    within the shutdown timeout, the second one stops at once. Exit status: 0 after a clean drain, 1 when
    something was abandoned, 128 + the signal's number when it was stopped at once.
    """
    ctx.exit(asyncio.run(_work(app, shutdown_timeout, _StopSignals())))


class _StopSignals:
    """Waits for the first signal; the second one ends the process.

    The handlers are those of Python, not of the event loop: they work while a handler blocks the loop. They
    stay until the process ends, so that whatever holds up its end can be stopped.

    Python runs them in the main thread, when that thread runs at all. A loop that waits for events does not
    notice a signal that another thread received, or that came right before the wait: so each signal also
    writes to a socket that the loop reads (``signal.set_wakeup_fd``).
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._timeout = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived: asyncio.Event | None = None
        self._wakeup: tuple[socket.socket, socket.socket] | None = None

    def listen(self, timeout: float) -> None:
        """From now on signals are taken. Call it on the running loop. ``timeout`` is what it tells."""
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        for number in _SIGNALS:
            signal.signal(number, self._arrive)
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        try:
            self._loop.add_reader(reader, reader.recv, 4096)
        except NotImplementedError:  # the loop of Windows is woken by signals already
            reader.close()
            writer.close()
            return
        self._wakeup = reader, writer
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        """Gives back the sockets; the handlers stay."""
        if self._wakeup is None or self._loop is None:
            return
        signal.set_wakeup_fd(-1)
        self._loop.remove_reader(self._wakeup[0])
        for end in self._wakeup:
            end.close()

    def _arrive(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.first is not None:
            _write(f"{name} after {self.first.name}: stopping at once")
            os._exit(128 + number)
        self.first = signal.Signals(number)
        _write(f"{name}: draining, for at most {self._timeout:g} s; a second signal stops at once")
        if self._loop is not None and self._arrived is not None:
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def wait(self) -> None:
        """Returns when the first signal has arrived."""
        assert self._arrived is not None
        await self._arrived.wait()


async def _work(spec: str, shutdown_timeout: float | None, stop: _StopSignals) -> int:
    app = await open_app(spec, None)
    timeout = app.bus.config.shutdown_timeout if shutdown_timeout is None else shutdown_timeout
    try:
        stop.listen(timeout)
        if not await _started(app, stop):
            return 128 + (stop.first or signal.SIGTERM)
        _print_start(app)
        await stop.wait()
        report = await app.close(timeout)
    finally:
        stop.close()
    _print_end(app, report)
    if report.completed and not report.abandoned:
        return 0
    leave_now(REFUSED)


async def _started(app: App, stop: _StopSignals) -> bool:
    """Whether the bus was started before somebody asked to stop."""
    starting = asyncio.ensure_future(app.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        _say("stopped while the bus was being started")
        starting.cancel()
        await asyncio.wait((starting,))
        return False
    await starting
    return True


# --- what it prints ---------------------------------------------------------------------------------------


def _say(text: str) -> None:
    """Prints a line. That nobody reads any more is no reason to stop working."""
    try:
        click.echo(text)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _write(text: str) -> None:
    """Prints a line from within a signal handler, which may have interrupted a print."""
    try:
        os.write(1, f"{text}\n".encode())
    except OSError:
        pass


def _print_start(app: App) -> None:
    bus = app.bus
    subscriptions = bus.subscriptions
    try:
        if subscriptions:
            print_table(["subscription", "topic", "mode", "handler"], [_row(item) for item in subscriptions])
    except OSError:
        pass
    what = (
        counted(len(subscriptions), "subscription") if subscriptions else "no subscription: nothing to handle"
    )
    _say(
        f"{bus.service} is running on {bus.adapter.name!r} with {what}; "
        f"Ctrl-C or SIGTERM ends it (process {os.getpid()})"
    )


def _row(subscription: Subscription) -> list[str]:
    return [subscription.name, subscription.topic, subscription.mode, handler_name(subscription)]


def handler_name(subscription: Subscription) -> str:
    """Module and name of a handler."""
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
