"""A worker in a process of its own, as the command that starts it sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from typing import Final

from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.link import GRACE, News
from promenade_bus_cli.worker import RunOptions

__all__ = ["WorkerProcess", "command_of", "ended_with", "require_processes"]

_FIRST_TIMEOUT: Final = 10.0
"""Seconds that a worker has to end while it still loads its application."""


def require_processes(option: str) -> None:
    """Raises ``CommandFailed`` where processes and signals do not work as on POSIX."""
    if os.name != "posix":
        raise CommandFailed(f"{option} works on Linux and macOS only; start one worker without it")


def command_of(app: str, options: RunOptions, *, one_of_many: bool) -> list[str]:
    """The command line of a worker, without its link."""
    words = [sys.executable, "-m", "promenade_bus_cli", "run", app]
    if options.shutdown_timeout is not None:
        words += ["--shutdown-timeout", f"{options.shutdown_timeout}s"]
    for name, value in (
        ("--http", options.http),
        ("--log-level", options.log_level),
        ("--log-format", options.log_format),
    ):
        if value is not None:
            words += [name, value]
    return [*words, *["--debug"] * options.debug, *["--one-of-many"] * one_of_many]


def ended_with(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class WorkerProcess:
    """One process. It is in a process group of its own, so that Ctrl-C reaches only its parent."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.running = asyncio.Event()
        self.news: News | None = None
        self.was_stopped = False
        self.was_killed = False
        self._process = process
        self._writer = writer
        self._listening = asyncio.create_task(self._listen(reader), name="listen to a worker")
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> WorkerProcess:
        """Starts a process."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--link",
                str(theirs.fileno()),
                stdin=DEVNULL,
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def has_run(self) -> bool:
        """True once its bus has run."""
        return self.running.is_set()

    def stop(self, number: signal.Signals, *, at_once: bool = False) -> None:
        """Sends a signal. A process that does not end within its shutdown timeout is killed.

        ``at_once`` ends a worker that handles a signal already, without its drain.
        """
        self._send(number)  # reaches also a process that does not listen yet
        if at_once:
            self._writer.write(bytes([number]))
        if not self.was_stopped:
            self.was_stopped = True
            limit = _FIRST_TIMEOUT if self.news is None else self.news.timeout + GRACE
            self._timer = asyncio.get_running_loop().call_later(limit, self._kill)

    def _kill(self) -> None:
        """Kills the process with all that it has started: it leads a group of its own."""
        self.was_killed = True
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass

    async def wait(self) -> int:
        """Waits for its end, and returns its exit status: below zero for the signal that killed it."""
        try:
            return await self._process.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._listening.cancel()
            self._writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self.news = News.read(line)
            if self.news.running:
                self.running.set()
