"""``promenade-bus run --processes`` and ``--reload``, as real processes that get real signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from promenade_bus_cli import processes, reloading, supervisor
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.processes import WorkerProcess
from promenade_bus_cli.signals import Repeats
from promenade_bus_cli.worker import RunOptions

Start = Callable[..., Any]
Module = Callable[[str], str]
Run = Any

DEADLINE = 30.0

SHOP = """
CONFIG["bus"]["observers"] = ["prometheus"]
async def make():
    bus = open_bus(CONFIG)
    @bus.subscribe(ORDER_PLACED, name="packing")
    async def pack(event): ...
    return bus
"""


def asked(address: str, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"{address}{path}", timeout=DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def is_ready(address: str) -> Callable[[], bool]:
    return lambda: asked(address, "/readyz")[0] == 200


def is_gone(pid: int) -> Callable[[], bool]:
    def gone() -> bool:
        try:
            os.kill(pid, 0)
            # A killed process of which nobody has asked the status is gone as well.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (ProcessLookupError, FileNotFoundError):
            return True

    return gone


def pid_in(line: str) -> int:
    found = re.search(r"process (\d+)\)", line)
    assert found is not None, line
    return int(found[1])


def test_processes_are_kept_served_and_ended(start: Start, module: Module) -> None:
    """The parent tells the worst of all workers, starts a dead one again, and ends with all of them."""
    parent = start("run", f"{module(SHOP)}:make", "--processes", "2", "--http", "0")
    where = parent.wait_for("probes and metrics of all processes are at ").split()[-1]
    first, _second = (pid_in(parent.wait_for("shop is running")) for _ in range(2))
    until(is_ready(where), "both are ready")
    assert b'promenade_bus_workers{service="shop"} 20.0' in asked(where, "/metrics")[1]

    os.kill(first, signal.SIGKILL)
    assert f"({first}) was killed by SIGKILL; starting it again in 0.5 s" in parent.wait_for("again in")
    status, answer = asked(where, "/readyz")
    [cause] = json.loads(answer)["causes"]
    assert (status, cause["check"], cause["value"], cause["threshold"]) == (
        503,
        "process",
        "not running",
        "running",
    )
    assert cause["summary"] == (f"process {cause['process']} was killed by SIGKILL, and is started again")
    assert asked(where, "/livez") == (200, b'{"status": "alive"}')
    assert b'promenade_bus_workers{service="shop"} 10.0' in asked(where, "/metrics")[1]
    parent.wait_for("shop is running")
    until(is_ready(where), "both are ready again")
    assert {*json.loads(asked(where, "/healthz")[1])["processes"]} == {"1", "2"}

    parent.send(signal.SIGTERM)
    assert parent.end() == 0
    assert parent.output.count("nothing was abandoned") == 2
    assert "all processes have ended" in parent.output


@pytest.mark.once
def test_workers_outlive_no_parent(start: Start, module: Module) -> None:
    """When the parent is killed, its workers drain and end."""
    parent = start("run", f"{module(SHOP)}:make", "--processes", "1")
    worker = pid_in(parent.wait_for("shop is running"))
    parent.send(signal.SIGKILL)
    parent.wait_for("nothing was abandoned")
    until(is_gone(worker), "the worker ends")


@pytest.mark.once
def test_the_second_signal_stops_all_at_once(start: Start, module: Module) -> None:
    """A second signal reaches every worker, even one whose event loop is blocked."""
    source = """
    import asyncio, time
    async def block(event):
        print("began", flush=True)
        time.sleep(600)
    async def make():
        bus = open_bus(CONFIG)
        bus.subscribe(ORDER_PLACED, block, name="blocking")
        make.task = asyncio.ensure_future(place_order(bus))
        return bus
    """
    parent = start("run", f"{module(source)}:make", "--processes", "1")
    parent.wait_for("began")
    parent.send(signal.SIGINT)
    parent.wait_for("SIGINT: draining")
    parent.send(signal.SIGTERM)
    assert parent.end() == 143
    assert "SIGTERM after SIGINT: stopping at once" in parent.output


DRAINING = """
import asyncio, os
CONFIG["bus"]["shutdown_timeout"] = "600s"
async def pack(event):
    print("began", os.getpid(), flush=True)
    while not os.path.exists("gate"):
        await asyncio.sleep(0.02)
async def make():
    bus = open_bus(CONFIG)
    bus.subscribe(ORDER_PLACED, pack, name="packing")
    make.task = asyncio.ensure_future(place_order(bus))
    return bus
"""


@pytest.mark.once
def test_signals_to_all_processes(start: Start, module: Module, tmp_path: Path) -> None:
    """A platform that signals the parent and each worker, again and again, gets one drain and one ending."""
    parent = start("run", f"{module(DRAINING)}:make", "--processes", "2")
    while parent.output.count("began ") < 2 or parent.output.count("shop is running") < 2:
        parent.wait_for("")
    workers = [int(line.split()[1]) for line in parent.lines if line.startswith("began ")]
    for pid in (*workers, parent.popen.pid, *workers):
        os.kill(pid, signal.SIGTERM)
    for _ in range(3):
        parent.wait_for("SIGTERM: ")
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    (tmp_path / "gate").touch()
    assert parent.end() == 0
    for text, times in {
        "SIGTERM: draining": 2,
        "SIGTERM: stopping all processes": 1,
        "handled 1 event, 0 dead-lettered, 0 lost": 2,
        "nothing was abandoned": 2,
        "all processes have ended": 1,
        "at once": 3,  # as the consequence of a second signal
        "starting it again": 0,
    }.items():
        assert parent.output.count(text) == times, (text, parent.lines)


@pytest.mark.once
def test_a_late_signal_changes_no_status(start: Start, module: Module) -> None:
    """A SIGTERM that arrives after the drain, while Python ends, does not change the exit status."""
    source = "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
    process = start("run", f"{module(source + SHOP)}:make")
    process.wait_for("shop is running")
    process.send(signal.SIGINT)
    assert process.end() == 0


def test_a_repeated_sigterm_is_no_second_signal() -> None:
    """A SIGTERM soon after another one is the same request. A later one is not, nor are two SIGINT."""
    now = 100.0
    repeats = Repeats(lambda: now)
    assert not repeats.is_second(signal.SIGTERM)
    now = 100.9
    assert not repeats.is_second(signal.SIGTERM)
    assert repeats.is_second(signal.SIGINT)
    now = 101.1
    assert repeats.is_second(signal.SIGTERM)
    assert repeats.first == signal.SIGTERM
    interrupts = Repeats(lambda: now)
    assert [interrupts.is_second(signal.SIGINT) for _ in range(2)] == [False, True]


async def test_a_parent_passes_a_repeated_sigterm_on_once() -> None:
    """The parent takes a repeated SIGTERM as one, and tells its workers when a second signal ends them."""
    lines: list[str] = []
    told: list[tuple[signal.Signals, bool]] = []

    class Worker:
        def stop(self, number: signal.Signals, *, at_once: bool = False) -> None:
            told.append((number, at_once))

    keeper = supervisor._Supervisor(["python"], {}, 1, lines.append)
    keeper._signals = Repeats(lambda: 0.0)
    keeper._places[0].worker = cast(Any, Worker())
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        keeper._arrive(number)
    assert told == [(signal.SIGTERM, False), (signal.SIGINT, True)]
    assert lines == [
        "SIGTERM: stopping all processes; a second signal stops at once",
        "SIGINT after SIGTERM: stopping at once",
    ]
    assert keeper._status() == 130


@pytest.mark.once
def test_an_invalid_application_is_told_once(start: Start, module: Module) -> None:
    """An application that cannot be loaded ends the parent with status 2, and one message."""
    parent = start("run", f"{module('bus = 1')}:bus", "--processes", "3", "--log-format", "json")
    assert parent.end() == 2
    assert parent.output.count("expected a Bus or SyncBus") == 1


STUBBORN = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
link = socket.socket(fileno=int(sys.argv[-1]))
link.sendall(b'{"timeout": 0.1, "address": null, "running": true}\\n')
time.sleep(600)
"""


async def test_what_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ignores the signal is killed soon after its shutdown timeout."""
    monkeypatch.setattr(processes, "GRACE", 0.05)
    worker = await WorkerProcess.start([sys.executable, "-c", STUBBORN], os.environ)
    await asyncio.wait_for(worker.running.wait(), DEADLINE)
    worker.stop(signal.SIGTERM)
    status = await asyncio.wait_for(worker.wait(), DEADLINE)
    assert (status, worker.was_killed) == (-signal.SIGKILL, True)
    assert processes.ended_with(status) == "was killed by SIGKILL"


@pytest.mark.once
def test_a_change_starts_the_worker_again(start: Start, module: Module, tmp_path: Path) -> None:
    """A changed file drains the worker and starts another; one that fails waits for the next change."""
    name = module(SHOP)
    file = tmp_path / f"{name}.py"
    good = file.read_text()
    parent = start("run", f"{name}:make", "--reload", "--log-format", "json", "--log-level", "info")
    parent.wait_for("watching . for changes")
    parent.wait_for("shop is running")
    file.write_text(good + "raise SystemExit('broken')\n")
    parent.wait_for(f"{name}.py changed: starting again")
    parent.wait_for("nothing was abandoned")
    parent.wait_for("the worker ended with status 2; it starts again after a change")
    file.write_text(good)
    parent.wait_for("shop is running")
    parent.send(signal.SIGINT)
    assert parent.end() == 0
    lines = [json.loads(line) for line in parent.lines if line.startswith("{")]
    assert {"SIGINT: draining, for at most 20 s; a second signal stops at once"} <= {
        line["message"] for line in lines
    }
    assert {line["logger"] for line in lines} >= {"promenade.bus.run"}
    assert [line for line in parent.lines if not line.startswith("{")] == [
        line for line in parent.lines if line.startswith("Error: the module")
    ]


def test_options_that_exclude_each_other(run: Run, module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Impossible combinations, and a missing watchfiles, are one message with status 2."""
    app = f"{module(SHOP)}:make"
    assert "either --reload or --processes" in run("run", app, "--reload", "--processes", "2").output
    assert "--reload-dir needs --reload" in run("run", app, "--reload-dir", ".").output
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    missing = run("run", app, "--reload")
    assert missing.exit_code == 2
    assert "pip install 'promenade-bus-cli[reload]'" in missing.output


async def test_a_process_that_cannot_be_started_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed start, and any number of deaths in a row, only make the next start later."""
    lines: list[str] = []
    attempts = 0

    async def start(_command: object, _environment: object) -> WorkerProcess:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            keeper._stop.set()
        raise OSError("too many processes")

    monkeypatch.setattr(WorkerProcess, "start", start)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE", 0.001)
    keeper = supervisor._Supervisor(["python"], {}, 1, lines.append)
    (place,) = keeper._places
    place.deaths = 5_000
    await asyncio.wait_for(keeper._keep(place, asyncio.Event()), DEADLINE)
    assert attempts == 3
    assert place.deaths == 5_003
    assert lines == ["process 1 cannot be started: too many processes; starting it again in 0.001 s"] * 3


async def test_files_that_cannot_be_watched_end_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """When watching for changes fails, the worker is stopped, and the command says so."""
    stopped: list[signal.Signals] = []

    class Worker:
        was_killed = False
        ended = asyncio.Event()

        async def wait(self) -> int:
            await self.ended.wait()
            return 0

        def stop(self, number: signal.Signals) -> None:
            stopped.append(number)
            self.ended.set()

    async def start(_command: object, _environment: object) -> Worker:
        return Worker()

    async def fail(_reloader: object) -> None:
        raise OSError("inotify watch limit reached")

    monkeypatch.setattr(WorkerProcess, "start", start)
    monkeypatch.setattr(reloading._Reloader, "_watch", fail)
    reloader = reloading._Reloader("shop:bus", ["."], RunOptions())
    with pytest.raises(CommandFailed, match="cannot be watched for changes any more: inotify watch limit"):
        await asyncio.wait_for(reloader.run(), DEADLINE)
    assert stopped == [signal.SIGTERM]
