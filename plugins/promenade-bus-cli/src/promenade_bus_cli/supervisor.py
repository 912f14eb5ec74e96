"""Keeps a number of worker processes running: starts the dead again, passes signals on, and ends with all."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from bus_core.abc import WorkerEndpoint
from bus_core.plugins import discover
from promenade_bus_cli.failures import REFUSED, USAGE, CommandFailed
from promenade_bus_cli.output import counted
from promenade_bus_cli.processes import WorkerProcess, command_of, ended_with
from promenade_bus_cli.signals import Repeats, ignore_sigterm
from promenade_bus_cli.worker import RunOptions

__all__ = ["supervise"]

_FIRST_PAUSE: Final = 0.5
_MOST_DOUBLED: Final = 10
_LONGEST_PAUSE: Final = 30.0
"""Seconds until a process that died is started again: they double with each death in a row."""

_STEADY: Final = 10.0
"""Seconds that a bus has to run, for its next death to count as the first one in a row."""

_SHARED_FIGURES: Final = "PROMETHEUS_MULTIPROC_DIR"


async def supervise(app: str, count: int, options: RunOptions) -> int:
    """Runs ``count`` workers until a signal, and returns the exit status: the worst of theirs."""
    with _shared_figures(options) as environment:
        inner = attrs.evolve(options, http=options.http and "127.0.0.1:0")
        command = command_of(app, inner, one_of_many=True)
        supervisor = _Supervisor(command, environment, count, options.say)
        with _served(supervisor.endpoints, options.http) as where:
            if where is not None:
                options.say(f"probes and metrics of all processes are at {where}")
            return await supervisor.run()


@contextmanager
def _served(endpoints: Callable[[], Sequence[WorkerEndpoint]], http: str | None) -> Iterator[str | None]:
    if http is None:
        yield None
        return
    offer = discover(kinds=("endpoint",)).endpoints.select("http")
    if offer.value.load_many is None:
        raise CommandFailed(f"{offer.origin} cannot serve for several processes: use it without --processes")
    with offer.value.load_many()(endpoints, http) as where:
        yield where


@contextmanager
def _shared_figures(options: RunOptions) -> Iterator[dict[str, str]]:
    """The environment of the workers. With HTTP they share their metrics, so that each can tell all."""
    environment = {**os.environ}
    if options.http is None or environment.get(_SHARED_FIGURES):
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="promenade-bus-metrics-") as directory:
        yield {**environment, _SHARED_FIGURES: directory}


@attrs.define(eq=False)
class _Place:
    """The place of one process: that which runs, and what came of those before."""

    name: str
    worker: WorkerProcess | None = None
    state: str = "is starting"
    deaths: int = 0
    status: int = 0


class _Supervisor:
    def __init__(
        self, command: Sequence[str], environment: dict[str, str], count: int, say: Callable[[str], None]
    ) -> None:
        self._command = command
        self._environment = environment
        self._say = say
        self._places = [_Place(str(number + 1)) for number in range(count)]
        self._stop = asyncio.Event()
        self._signals = Repeats()
        self._at_once: signal.Signals | None = None
        self._invalid = False

    def endpoints(self) -> Sequence[WorkerEndpoint]:
        """Where each process serves. Called by another thread."""
        return [
            WorkerEndpoint(
                place.name, place.state, None if place.worker is None else _address_of(place.worker)
            )
            for place in self._places
        ]

    async def run(self) -> int:
        """Starts one process, and the others once it runs: an invalid application is reported once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrive, number)
        self._say(
            f"starting {counted(len(self._places), 'process', 'processes')}; "
            f"stop them with Ctrl-C or SIGTERM (process {os.getpid()})"
        )
        running = asyncio.Event()
        first, *others = self._places
        keeping = [asyncio.create_task(self._keep(first, running))]
        await running.wait()
        if not self._stop.is_set():
            keeping += [asyncio.create_task(self._keep(place, running)) for place in others]
        try:
            await asyncio.gather(*keeping)
        except BaseException:
            self._stop.set()
            for place in self._places:
                if place.worker is not None:
                    place.worker.stop(signal.SIGTERM)
            await asyncio.gather(*keeping, return_exceptions=True)
            raise
        if loop.remove_signal_handler(signal.SIGTERM):
            ignore_sigterm()
        return self._status()

    def _arrive(self, number: signal.Signals) -> None:
        first = self._signals.first
        if self._signals.is_second(number):
            self._at_once = number
            self._say(f"{number.name} after {first and first.name}: stopping at once")
        elif first is None:
            self._say(f"{number.name}: stopping all processes; a second signal stops at once")
        else:
            return
        self._stop.set()
        for place in self._places:
            if place.worker is not None:
                place.worker.stop(number, at_once=self._at_once is not None)

    def _status(self) -> int:
        if self._at_once is not None:
            return 128 + self._at_once
        self._say("all processes have ended")
        return USAGE if self._invalid else max(place.status for place in self._places)

    # --- one place ----------------------------------------------------------------------------------------

    async def _keep(self, place: _Place, running: asyncio.Event) -> None:
        try:
            while not self._stop.is_set():
                try:
                    worker = await WorkerProcess.start(self._command, self._environment)
                except OSError as error:  # such as too many processes, or too little memory
                    place.state = "cannot be started"
                    await self._pause(place, f"process {place.name} cannot be started: {error}")
                    continue
                place.worker, place.state = worker, "is starting"
                if self._stop.is_set():
                    worker.stop(self._signals.first or signal.SIGTERM, at_once=self._at_once is not None)
                status = await self._watched(place, worker, running)
                place.worker = None
                self._forget_figures(worker.pid)
                if self._stop.is_set():
                    place.state = "has ended"
                    place.status = self._final(place, worker, status)
                elif status == USAGE and not running.is_set():
                    self._invalid = True
                    self._stop.set()
                else:
                    place.state = f"{ended_with(status)}, and is started again"
                    await self._pause(place, f"process {place.name} ({worker.pid}) {ended_with(status)}")
        finally:
            running.set()  # nobody waits for what never runs

    async def _watched(self, place: _Place, worker: WorkerProcess, running: asyncio.Event) -> int:
        """Waits for the end of a process, and notices when its bus runs."""
        ending = asyncio.ensure_future(worker.wait())
        starting = asyncio.ensure_future(worker.running.wait())
        await asyncio.wait((ending, starting), return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        if worker.has_run:
            place.state = "runs"
            running.set()
            began = asyncio.get_running_loop().time()
            status = await ending
            if asyncio.get_running_loop().time() - began >= _STEADY:
                place.deaths = 0
            return status
        return await ending

    def _final(self, place: _Place, worker: WorkerProcess, status: int) -> int:
        """The exit status of a process that was told to end."""
        if worker.was_killed:
            self._say(f"process {place.name} ({worker.pid}) did not end in time, and was killed")
            return REFUSED
        if not worker.has_run:
            return 0  # it had accepted nothing
        return status if status >= 0 else REFUSED

    async def _pause(self, place: _Place, what: str) -> None:
        """Waits before the next start, longer after each death in a row."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(place.deaths, _MOST_DOUBLED))
        place.deaths += 1
        self._say(f"{what}; starting it again in {pause:g} s")
        try:
            await asyncio.wait_for(self._stop.wait(), pause)
        except TimeoutError:
            pass

    def _forget_figures(self, pid: int) -> None:
        """Removes what a dead process had in flight, as ``prometheus_client.multiprocess`` documents it."""
        directory = self._environment.get(_SHARED_FIGURES)
        if directory:
            for file in Path(directory).glob(f"gauge_live*_{pid}.db"):
                file.unlink(missing_ok=True)


def _address_of(worker: WorkerProcess) -> str | None:
    news = worker.news
    return None if news is None else news.address
