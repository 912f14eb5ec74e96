"""Ctrl-C ends any command, whatever it waits for, with an account of its progress and status 130."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from promenade_bus_cli.signals import run_interruptible
from support.distributions import Site

Run = Any
Start = Callable[..., Any]
Module = Callable[[str], str]

ONE = ["--topic", "shop.order.placed", "--aggregate-id", "new", "--set", "number=1"]
HANGING = """
import asyncio, threading, time
CONFIG["bus"] |= {{"buffer_size": 5, "worker_pool_size": 1, "shutdown_timeout": "50ms"}}
bus = open_bus(CONFIG)

@bus.subscribe(ORDER_PLACED, name="packing")
async def pack(event):
    print("began", flush=True)
    {work}
"""
BLOCK = """
import asyncio, threading

def block():
    print("begins", flush=True)
    threading.Event().wait()

"""
REFUSING = """
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
"""


def line() -> str:
    """An event as a CloudEvent on one line."""
    names = {"specversion": "1.0", "id": str(uuid4()), "source": "test", "type": "order.placed"}
    return json.dumps({**names, "subject": str(uuid4()), "topic": "shop.order.placed", "data": {"number": 1}})


# --- noticed ----------------------------------------------------------------------------------------------


def test_it_is_noticed_while_more_lines_are_awaited(start: Start, module: Module) -> None:
    """Ctrl-C ends ``publish --file -`` while the loop waits, though another thread received the signal."""
    name = module("bus = open_bus(CONFIG)")
    process = start("publish", "--file", "-", "--app", f"{name}:bus", stdin=subprocess.PIPE, interrupted=True)
    assert process.end() == 130
    assert process.lines == [
        "SIGINT: 0 events published; closing, for at most 20 s; a second signal stops at once",
        "interrupted: 0 events published",
    ]


@pytest.mark.parametrize(
    "command", [["run"], ["health", "--app"], ["explain", "--app"], ["publish", "--file", "-", "--app"]]
)
def test_it_is_noticed_while_an_application_is_made(start: Start, module: Module, command: list[str]) -> None:
    """Ctrl-C ends each command that waits for an application's function, whichever thread received it."""
    name = module("async def make():\n    import asyncio\n    await asyncio.Event().wait()")
    process = start(*command, f"{name}:make", interrupted=True)
    assert process.end() == 130
    assert process.lines == ["interrupted"]


@pytest.mark.parametrize("called", ["block()", "make = block", "make = lambda: asyncio.to_thread(block)"])
@pytest.mark.parametrize("command", [["run"], ["health", "--app"]])
def test_what_blocks_before_the_bus_is_started_is_cut_short(
    start: Start, module: Module, command: list[str], called: str
) -> None:
    """Ctrl-C ends an import, or a function of the application, that blocks or waits for a thread."""
    process = start(*command, f"{module(BLOCK + called)}:make")
    process.wait_for("begins")
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert process.lines == ["begins", "interrupted"]


def test_help_ends_with_130_too(run: Run, site: Site) -> None:
    """Ctrl-C while the help page loads plugins ends the command as anywhere else."""
    site.install(
        "promenade-bus-slow",
        """
        @hookimpl
        def promenade_bus_commands():
            raise KeyboardInterrupt
        """,
    )
    result = run("--help")
    assert result.exit_code == 130
    assert result.output.endswith("interrupted\n")


# --- how far it came --------------------------------------------------------------------------------------


def test_what_is_under_way_is_counted(start: Start, module: Module, tmp_path: Path) -> None:
    """Ctrl-C in a batch: events that the bus had accepted count as published, the others as not attempted."""
    (tmp_path / "events.jsonl").write_text("".join(f"{line()}\n" for _ in range(50)))
    name = module(HANGING.format(work="await asyncio.sleep(600)"))
    process = start("publish", "--file", "events.jsonl", "--app", f"{name}:bus")
    process.wait_for("began")
    process.send(signal.SIGINT)
    process.wait_for("SIGINT: 0 events published, 50 under way; closing, for at most 0.05 s")
    assert process.end() == 130
    assert "interrupted: 5 events published" in process.lines
    assert "5 events abandoned when the shutdown timeout ended" in process.lines
    assert "refused" not in process.output


def test_it_closes_in_full(start: Start, module: Module) -> None:
    """Ctrl-C while the bus is closing waits for the handlers as announced, and ends with 130."""
    work = "print(await asyncio.to_thread(input), flush=True)"
    source = HANGING.replace("50ms", "600s").format(work=work)
    process = start("publish", *ONE, "--app", f"{module(source)}:bus", stdin=subprocess.PIPE)
    process.wait_for("began")
    process.send(signal.SIGINT)
    process.wait_for("SIGINT: 1 event published; closing, for at most 600 s; a second signal stops at once")
    process.popen.stdin.write("handled\n")
    process.popen.stdin.flush()
    assert process.end() == 130
    assert process.lines[-2:] == ["handled", "interrupted: 1 event published"]


# --- it ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", ["await asyncio.to_thread(threading.Event().wait)", REFUSING])
def test_what_never_ends_does_not_keep_it(start: Start, module: Module, work: str) -> None:
    """After Ctrl-C the command does not wait for a handler that hangs or swallows its cancellation."""
    process = start(
        "publish", "--file", "-", "--app", f"{module(HANGING.format(work=work))}:bus", stdin=subprocess.PIPE
    )
    process.popen.stdin.write(line() + "\n")
    process.popen.stdin.flush()
    process.wait_for("began")
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert "interrupted: 1 event published" in process.lines
    assert "1 event abandoned when the shutdown timeout ended" in process.lines


@pytest.mark.parametrize("work", ["time.sleep(600)", "await asyncio.sleep(600)"])
def test_the_second_one_stops_at_once(start: Start, module: Module, work: str) -> None:
    """A second Ctrl-C ends the process with its progress, even while a handler blocks the loop."""
    source = HANGING.replace("50ms", "600s").format(work=work)
    process = start("publish", "--file", "-", "--app", f"{module(source)}:bus", stdin=subprocess.PIPE)
    process.popen.stdin.write(line() + "\n")
    process.popen.stdin.flush()
    process.wait_for("began")
    process.send(signal.SIGINT)
    process.wait_for("closing, for at most 600 s; a second signal stops at once")
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert process.lines[-1].startswith("SIGINT after SIGINT: stopping at once; ")
    assert "Traceback" not in process.output


# --- the function -----------------------------------------------------------------------------------------


async def answer() -> int:
    return 42


async def fail() -> None:
    raise ZeroDivisionError


def test_work_that_ends_leaves_no_trace() -> None:
    """The result is returned, errors are raised, and the previous signal handler is restored."""
    before = signal.getsignal(signal.SIGINT)
    assert run_interruptible(answer()) == 42
    with pytest.raises(ZeroDivisionError):
        run_interruptible(fail())
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_threads_run_it_as_well() -> None:
    """Outside the main thread, which receives the signals, ``run_interruptible`` is ``asyncio.run``."""
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run_interruptible(answer())))
    thread.start()
    thread.join()
    assert results == [42]
