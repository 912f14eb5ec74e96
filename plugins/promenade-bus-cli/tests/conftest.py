"""An application to point the command line at, and ways to run the command line."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from promenade_bus_cli.main import cli
from support.distributions import Site
from support.interrupts import interrupted_when_idle

DEADLINE = 30.0

PRELUDE = """
import asyncio
from uuid import UUID
from bus_core import *

@event
class OrderPlaced(Event):
    "Somebody ordered something."
    number: int
    note: Personal[str] = ""

ORDER_PLACED = Topic("shop.order.placed", OrderPlaced)
CONFIG = {
    "app": {"name": "shop"},
    "bus": {"adapter": "memory", "retry_delay": "1ms", "shutdown_timeout": "20s"},
}

async def place_order(bus):
    while bus.status != "open":
        await asyncio.sleep(0.01)
    await bus.publish(ORDER_PLACED, OrderPlaced(aggregate_id=uuid7(), number=1))
"""

_numbers = itertools.count()


class CommandLine:
    """Runs commands inside of the process of the test."""

    def __call__(self, *arguments: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, input=input, catch_exceptions=False)

    def json(self, *arguments: str, status: int = 0, input: str | bytes | None = None) -> Any:
        result = self(*arguments, "--json", input=input)
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)


def _hear_interrupts() -> None:
    """A shell starts what it runs in the background, such as these tests, deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Process:
    """A command in a process of its own; every wait has a deadline."""

    def __init__(self, command: list[str], *, directory: Path, stdin: int) -> None:
        self.popen = subprocess.Popen(
            command,
            cwd=directory,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            preexec_fn=_hear_interrupts,
        )
        self.lines: list[str] = []
        self._incoming: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._incoming.put(line.rstrip("\n"))
        self._incoming.put(None)

    def wait_for(self, text: str) -> str:
        """The first line, not read before, that contains the text."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                line = self._incoming.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line with {text!r} in time; so far: {self.lines}")
            if line is None:
                pytest.fail(f"the process ended without a line with {text!r}: {self.lines}")
            self.lines.append(line)
            if text in line:
                return line

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> int:
        """Waits for the end, reads the rest, and gives the exit status."""
        status = self.popen.wait(DEADLINE)
        while (line := self._incoming.get(timeout=DEADLINE)) is not None:
            self.lines.append(line)
        return status

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def run() -> CommandLine:
    return CommandLine()


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a directory of its own, and leaves no module and no path behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("PROMENADE_BUS_APP", raising=False)
    monkeypatch.delenv("PROMENADE_BUS_CONFIG", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("app_"):
            del sys.modules[name]


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], str]:
    """Writes a module into the directory of the test, and gives its name."""

    def write(source: str) -> str:
        name = f"app_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(PRELUDE + textwrap.dedent(source))
        return name

    return write


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts commands as processes, and ends those that still run.

    An ``interrupted`` one gets Ctrl-C as soon as its loop waits for something.
    """
    started: list[Process] = []

    def start(*arguments: str, stdin: int = subprocess.DEVNULL, interrupted: bool = False) -> Process:
        plain = [sys.executable, "-m", "promenade_bus_cli", *arguments]
        command = interrupted_when_idle(*arguments) if interrupted else plain
        started.append(Process(command, directory=tmp_path, stdin=stdin))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait(DEADLINE)
        for stream in (process.popen.stdin, process.popen.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A directory of installed distributions, on the path."""
    directory = tmp_path / "site"
    directory.mkdir()
    sys.path.insert(0, str(directory))
    site = Site(directory)
    yield site
    site.forget_modules()


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """Writes a configuration file, and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "app.yaml"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write
