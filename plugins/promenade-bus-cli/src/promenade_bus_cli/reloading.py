"""``promenade-bus run --reload``: starts the worker again when a file of the application has changed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable, Sequence
from typing import Any

from promenade_bus_cli.failures import REFUSED, CommandFailed
from promenade_bus_cli.processes import WorkerProcess, command_of, ended_with
from promenade_bus_cli.signals import Repeats
from promenade_bus_cli.worker import RunOptions

__all__ = ["reload"]

_EXTENSIONS = (".toml", ".yaml", ".yml")


async def reload(app: str, directories: Sequence[str], options: RunOptions) -> int:
    """Runs a worker until a signal, and returns its exit status. A change drains it and starts another."""
    return await _Reloader(app, directories, options).run()


def _watchfiles() -> Any:
    try:
        import watchfiles
    except ModuleNotFoundError as error:
        raise CommandFailed(
            "--reload needs watchfiles: run pip install 'promenade-bus-cli[reload]'"
        ) from error
    return watchfiles


class _Reloader:
    def __init__(self, app: str, directories: Sequence[str], options: RunOptions) -> None:
        self._watchfiles = _watchfiles()
        self._command = command_of(app, options, one_of_many=False)
        self._directories = directories
        self._say = options.say
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._signals = Repeats()
        self._worker: WorkerProcess | None = None
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrive, number)
        watching = self._watching = asyncio.create_task(self._watch(), name="watch files")
        try:
            while True:
                status = await self._run_once()
                if watching.done() and (error := watching.exception()) is not None:
                    raise CommandFailed(f"the files cannot be watched for changes any more: {error}")
                if self._stop.is_set():
                    return status
        finally:
            self._stop.set()
            await asyncio.wait((watching,))

    def _arrive(self, number: signal.Signals) -> None:
        is_second = self._signals.is_second(number)
        self._stop.set()
        if self._worker is not None:
            self._worker.stop(number, at_once=is_second)

    async def _watch(self) -> None:
        only_sources = self._watchfiles.PythonFilter(extra_extensions=_EXTENSIONS)
        self._say(f"watching {', '.join(self._directories)} for changes")
        async for changes in self._watchfiles.awatch(
            *self._directories, watch_filter=only_sources, stop_event=self._stop
        ):
            self._say(f"{_names_of(changes)} changed: starting again")
            self._changed.set()

    async def _run_once(self) -> int:
        """Runs one process until it ends, and then until it shall be started again."""
        self._changed.clear()
        worker = self._worker = await WorkerProcess.start(self._command, os.environ)
        if self._signals.first is not None:
            worker.stop(self._signals.first)
        ending = asyncio.ensure_future(worker.wait())
        if await self._first_of(ending) is ending:
            status = await ending
            if self._stop.is_set():
                return _final(worker, status)
            self._say(f"the worker {ended_with(status)}; it starts again after a change")
            await self._first_of()
            return status
        if not self._stop.is_set():
            worker.stop(signal.SIGTERM)
        return _final(worker, await ending)

    async def _first_of(self, ending: asyncio.Future[int] | None = None) -> asyncio.Future[Any]:
        """Waits for a change or a signal, or for the end of the process; returns what came."""
        waiting: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(event.wait()) for event in (self._changed, self._stop)
        ]
        assert self._watching is not None, "it runs"
        watched = [*waiting, self._watching, *([ending] if ending is not None else [])]
        try:
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return ending if ending is not None and ending in done else done.pop()


def _final(worker: WorkerProcess, status: int) -> int:
    if worker.was_killed:
        return REFUSED
    return status if status >= 0 else 128 - status


def _names_of(changes: Iterable[tuple[Any, str]]) -> str:
    """The first of the changed files, and the number of the others."""
    names = sorted({os.path.relpath(path) for _, path in changes})
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
