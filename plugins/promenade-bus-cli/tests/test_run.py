"""``promenade-bus run``, as a process that gets real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]
Module = Callable[[str], str]

WORKER = """
import asyncio, time
bus = open_bus(CONFIG)

@bus.subscribe(ORDER_PLACED, name="packing")
async def pack(event):
    print("began", flush=True)
    await {work}
    print("done", flush=True)

@bus.subscribe("shop.#", name="audit", mode="broadcast")
async def audit(event): ...

async def make():
    asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(place_order(bus)))
    return bus
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_well(start: Start, module: Module, number: signal.Signals) -> None:
    """SIGTERM and SIGINT let the running handler finish; the report says so, and the status is 0."""
    worker = start("run", f"{module(WORKER.format(work='asyncio.sleep(0.3)'))}:make")
    worker.wait_for("shop is running on 'memory' with 2 subscriptions")
    worker.wait_for("began")
    worker.send(number)
    worker.wait_for(f"{number.name}: draining, for at most 20 s")
    assert worker.end() == 0
    assert "done" in worker.lines
    assert "nothing was abandoned" in worker.output
    assert "handled 2 events, 0 dead-lettered, 0 lost" in worker.output


def test_it_prints_what_it_subscribes_to(start: Start, module: Module) -> None:
    """Each subscription is listed with its topic, mode and handler before the worker runs."""
    name = module(WORKER.format(work="asyncio.sleep(0)"))
    worker = start("run", f"{name}:bus")
    worker.wait_for("is running")
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    assert [line.split() for line in worker.lines[:3]] == [
        ["SUBSCRIPTION", "TOPIC", "MODE", "HANDLER"],
        ["packing", "shop.order.placed", "group", f"{name}.pack"],
        ["audit", "shop.#", "broadcast", f"{name}.audit"],
    ]


def test_what_is_not_finished_in_time_is_reported(start: Start, module: Module) -> None:
    """A handler that outlives the shutdown timeout is listed as abandoned, and the status is 1."""
    worker = start(
        "run", f"{module(WORKER.format(work='asyncio.sleep(600)'))}:make", "--shutdown-timeout", "50ms"
    )
    worker.wait_for("began")
    worker.send(signal.SIGTERM)
    assert worker.end() == 1
    assert "1 event abandoned" in worker.output
    assert "of shop.order.placed for packing: running" in worker.output


def test_a_handler_that_refuses_to_end_cannot_hold_the_worker(start: Start, module: Module) -> None:
    """A handler that swallows its cancellation is abandoned, and the process ends."""
    source = """
    import asyncio
    async def forever(event):
        print("began", flush=True)
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass
    async def make():
        bus = open_bus(CONFIG)
        bus.subscribe(ORDER_PLACED, forever, name="forever")
        make.task = asyncio.ensure_future(place_order(bus))
        return bus
    """
    worker = start("run", f"{module(source)}:make", "--shutdown-timeout", "50ms")
    worker.wait_for("began")
    worker.send(signal.SIGTERM)
    assert worker.end() == 1
    assert "1 event abandoned" in worker.output


def test_a_signal_is_noticed_whichever_thread_gets_it(start: Start, module: Module) -> None:
    """A signal ends the worker although another thread received it and the loop was waiting for events."""
    source = """
    import asyncio, signal, threading
    def receive(event):
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        threading.Event().wait()
    async def make():
        bus = open_bus(CONFIG)
        bus.subscribe(ORDER_PLACED, receive, name="receiver")
        make.task = asyncio.ensure_future(place_order(bus))
        return bus
    """
    worker = start("run", f"{module(source)}:make", "--shutdown-timeout", "50ms")
    worker.wait_for("SIGTERM: draining")
    assert worker.end() == 1
    assert "1 event abandoned" in worker.output


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(signal.SIGTERM, signal.SIGINT, 130), (signal.SIGINT, signal.SIGTERM, 143)],
)
@pytest.mark.parametrize(
    "work", ["asyncio.sleep(600)", "asyncio.to_thread(time.sleep, 600)", "time.sleep(600)"]
)
def test_the_second_signal_stops_at_once(
    start: Start, module: Module, work: str, first: signal.Signals, second: signal.Signals, status: int
) -> None:
    """A second signal ends the process, even where a handler hangs in a thread or blocks the loop."""
    worker = start("run", f"{module(WORKER.format(work=work))}:make")
    worker.wait_for("began")
    worker.send(first)
    worker.wait_for(f"{first.name}: draining")
    worker.send(second)
    assert worker.end() == status
    assert f"{second.name} after {first.name}: stopping at once" in worker.output


def test_a_sync_bus_is_a_worker_too(start: Start, module: Module) -> None:
    """A SyncBus of a synchronous application runs and drains like any bus."""
    source = """
    import threading
    from bus_core import BusNotStarted
    bus = open_sync_bus(CONFIG)
    @bus.subscribe(ORDER_PLACED, name="packing")
    def pack(event):
        print("packed", event.number, flush=True)
    def place():
        while True:
            try:
                return bus.publish(ORDER_PLACED, OrderPlaced(aggregate_id=uuid7(), number=7))
            except BusNotStarted:
                threading.Event().wait(0.01)
    threading.Thread(target=place, daemon=True).start()
    """
    worker = start("run", f"{module(source)}:bus")
    worker.wait_for("packed 7")
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    assert "handled 1 event," in worker.output


def test_a_bus_that_cannot_start_ends_with_its_error(start: Start, module: Module) -> None:
    """An error at start is one message, and the status is 2."""
    source = """
    bus = open_bus(CONFIG)
    bus.subscribe("shop.#", print, name="audit", start="earliest")
    """
    worker = start("run", f"{module(source)}:bus")
    assert worker.end() == 2
    assert "needs start='earliest'" in worker.output
    assert "Traceback" not in worker.output


def test_a_worker_whose_output_nobody_reads_goes_on(module: Module, tmp_path: Path) -> None:
    """A closed stdout neither stops the worker nor prevents its drain."""
    name = module(WORKER.format(work="asyncio.sleep(0)"))
    command = [sys.executable, "-m", "promenade_bus_cli", "run", f"{name}:bus"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        while b"is running" not in (line := worker.stdout.readline()):
            assert line, worker.stderr.read()
        worker.stdout.close()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert worker.stderr.read() == b""
