# ruff: noqa: PT012 - what is tested is how a block ends, too
from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from bus_core import (
    BusClosed,
    BusNotStarted,
    CalledFromHandler,
    CheckResult,
    Delivery,
    DrainReport,
    DuplicateSubscription,
    EngineState,
    EventTypeMismatch,
    HealthProbe,
    HealthStatus,
    PublishManyError,
    SyncBus,
    SyncSubscription,
    UnknownSubscription,
    UnknownTopic,
    WrongEventLoop,
    open_sync_bus,
)
from support.buses import HAPPENED, OTHER, WITHIN, Happened, happened, make_bus
from support.inline_plugins import probe_plugin


def make_sync_bus(**options: Any) -> SyncBus:
    """A sync bus on memory that is not started."""
    return SyncBus(make_bus(**options))


@contextmanager
def running_sync_bus(**options: Any) -> Iterator[SyncBus]:
    """A started sync bus, closed without further waiting at the end."""
    bus = make_sync_bus(**options)
    bus.start()
    try:
        yield bus
    finally:
        bus.close(0)


def wait_until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds; fails when it does not come to hold in time."""
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, "never came to hold"
        time.sleep(0.001)


@contextmanager
def threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads are all expected to come to an end."""
    with ThreadPoolExecutor(number) as pool:
        yield pool


def finish(futures: list[Future[Any]]) -> list[Any]:
    """The results of all futures, in order; fails when one of them hangs."""
    return [future.result(WITHIN) for future in futures]


# --- the plain calls --------------------------------------------------------------------------------------


def test_plain_calls() -> None:
    """Publish, subscribe, drain, health and dead letters are plain calls, with sync and async handlers."""
    sync_numbers: list[int] = []
    async_numbers: list[int] = []

    with open_sync_bus({"app": {"name": "shop"}, "bus": {"adapter": "memory"}}) as bus:

        @bus.subscribe(HAPPENED, name="sync")
        def note(event: Happened) -> None:
            sync_numbers.append(event.number)

        async def note_async(event: Happened, delivery: Delivery) -> None:
            async_numbers.append(event.number)

        subscription = bus.subscribe("test.#", note_async, name="async")
        assert isinstance(subscription, SyncSubscription)
        subscription.ready()
        bus.publish(HAPPENED, happened(1), headers={"trace": "1"})
        bus.publish_many([(HAPPENED, happened(2)), (OTHER, happened(3))])
        bus.drain()
        assert sorted(sync_numbers) == [1, 2]
        assert async_numbers == [1, 2, 3]
        assert bus.health().status is HealthStatus.HEALTHY
        assert bus.dead_letters.list() == []
        assert bus.service == "shop"
        assert bus.config.adapter == "memory"
        assert HAPPENED.name in bus.topics
        assert bus.state().published == 3
        assert repr(subscription) == "<SyncSubscription 'async' to 'test.#'>"
    assert bus.health().status is HealthStatus.UNHEALTHY


def test_subscribe_before_start() -> None:
    """Subscriptions may be made, paused and removed before start, like on a bus."""
    numbers: list[int] = []

    def note(event: Happened) -> None:
        numbers.append(event.number)

    bus = make_sync_bus()
    kept = bus.subscribe(HAPPENED, note, name="kept")
    removed = bus.subscribe(HAPPENED, note, name="removed")
    bus.subscribe(OTHER, note, name="other")
    removed.unsubscribe()
    bus.unsubscribe(OTHER, note)
    kept.pause()
    kept.resume()
    with pytest.raises(DuplicateSubscription):
        bus.subscribe(HAPPENED, note, name="kept")
    with bus:
        bus.publish(HAPPENED, happened(1))
        bus.publish(OTHER, happened(2))
        bus.drain()
    assert numbers == [1]


def test_unsubscribe_and_pause() -> None:
    """Subscriptions are paused, resumed and removed by plain calls."""
    numbers: list[int] = []

    def note(event: Happened) -> None:
        numbers.append(event.number)

    with running_sync_bus() as bus:
        subscription = bus.subscribe(HAPPENED, note)
        subscription.pause()
        bus.publish(HAPPENED, happened(1))
        assert bus.state().subscriptions[0].paused
        assert numbers == []
        subscription.resume()
        bus.drain()
        assert numbers == [1]
        subscription.unsubscribe()
        bus.publish(HAPPENED, happened(2))
        bus.drain()
        with pytest.raises(UnknownSubscription):
            bus.unsubscribe(HAPPENED, note)
    assert numbers == [1]


def test_dead_letters() -> None:
    """Dead letters are listed, looked at, redriven and purged by plain calls."""
    fixed = threading.Event()
    numbers: list[int] = []

    def fail_until_fixed(event: Happened) -> None:
        if not fixed.is_set():
            raise ValueError("broken")
        numbers.append(event.number)

    with running_sync_bus(retry_attempts=1) as bus:
        bus.subscribe(HAPPENED, fail_until_fixed, name="fragile")
        bus.publish_many([(HAPPENED, happened(1)), (HAPPENED, happened(2))])
        bus.drain()
        letters = bus.dead_letters.list(topic=HAPPENED.name, subscription="fragile", limit=10)
        assert len(letters) == 2
        assert bus.dead_letters.get(letters[0].id) == letters[0]
        assert bus.dead_letters.count(topic=HAPPENED.name) == 2
        first = bus.dead_letters.list(limit=1)
        assert first + bus.dead_letters.list(cursor=first.next_cursor) == letters
        assert [*bus.dead_letters.iterate(subscription="fragile")] == letters
        fixed.set()
        assert bus.dead_letters.redrive(letters[0]) == 1
        bus.drain()
        assert len(numbers) == 1
        from bus_core import DeadLetterFilter

        assert bus.dead_letters.purge(DeadLetterFilter()) == 1
        assert bus.dead_letters.list() == []


def test_errors_are_those_of_the_bus() -> None:
    """Errors reach the caller as on a bus."""
    with running_sync_bus() as bus:
        with pytest.raises(UnknownTopic):
            bus.publish("unknown.topic", happened())
        with pytest.raises(EventTypeMismatch):
            bus.publish(HAPPENED, "text")  # type: ignore[call-overload]  # pyright: ignore
        with pytest.raises(PublishManyError, match="1 of 2"):
            bus.publish_many([(HAPPENED, happened()), ("unknown.topic", happened())])
        with pytest.raises(TimeoutError, match="the bus was not drained within"):
            release = threading.Event()
            bus.subscribe(OTHER, lambda event: release.wait(WITHIN))
            bus.publish(OTHER, happened())
            try:
                bus.drain(timeout=0.01)
            finally:
                release.set()


# --- the life of it ---------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[SyncBus], object]] = {
    "publish": lambda bus: bus.publish(HAPPENED, happened()),
    "publish_many": lambda bus: bus.publish_many([(HAPPENED, happened())]),
    "after_commit": lambda bus: bus.after_commit().__enter__(),
    "drain": lambda bus: bus.drain(),
    "state": lambda bus: bus.state(),
    "dead_letters.list": lambda bus: bus.dead_letters.list(),
    "dead_letters.get": lambda bus: bus.dead_letters.get("x"),
    "dead_letters.redrive": lambda bus: bus.dead_letters.redrive("x"),
    "dead_letters.purge": lambda bus: bus.dead_letters.purge(),
}
ALSO_BEFORE_START: dict[str, Callable[[SyncBus], object]] = {
    "subscribe": lambda bus: bus.subscribe(HAPPENED, print),
    "unsubscribe": lambda bus: bus.unsubscribe(HAPPENED, print),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_before_start(call: str) -> None:
    """Calls that need an open bus say that it is not started, and how to start it."""
    with pytest.raises(BusNotStarted, match=r"not started; use 'with bus:' or 'bus\.start\(\)'"):
        CALLS[call](make_sync_bus())


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("call", [*CALLS, *ALSO_BEFORE_START])
def test_calls_after_close(call: str, started: bool) -> None:
    """After close every call says that the bus is closed, also when it was never started."""
    bus = make_sync_bus()
    if started:
        bus.start()
    bus.close()
    with pytest.raises(BusClosed, match="closed"):
        {**CALLS, **ALSO_BEFORE_START}[call](bus)
    with pytest.raises(BusClosed, match="closed"):
        bus.start()


def test_start_and_close_are_idempotent() -> None:
    """Starting an open bus does nothing; closing again gives the same report."""
    bus = make_sync_bus()
    bus.start()
    bus.start()
    first = bus.close()
    assert bus.close() is first
    assert first == DrainReport(True, (), first.seconds)
    assert make_sync_bus().close() == DrainReport(True, (), 0.0)


def test_health_of_a_bus_that_is_not_open() -> None:
    """Health never raises for a bus that is not open: it is unhealthy."""
    bus = make_sync_bus()
    assert "not started" in bus.health().checks["bus"].summary
    bus.start()
    bus.close()
    assert "closed" in bus.health().checks["bus"].summary


def test_the_thread_ends() -> None:
    """Closing ends the background thread, and those of the handlers."""
    before = set(threading.enumerate())
    bus = make_sync_bus()
    bus.start()
    bus.subscribe(HAPPENED, lambda event: None)
    bus.publish(HAPPENED, happened())
    bus.drain()
    assert set(threading.enumerate()) - before
    bus.close()
    wait_until(lambda: not set(threading.enumerate()) - before)


class BrokenProbe(HealthProbe):
    """A probe that cannot be started until it is repaired."""

    def __init__(self) -> None:
        self.broken = True

    async def start(self) -> None:
        if self.broken:
            raise ConnectionError("no server")

    async def check(self, state: EngineState) -> CheckResult:
        return CheckResult(HealthStatus.HEALTHY, "fine")


def test_an_error_in_start() -> None:
    """A start that fails leaves no thread behind, and may be repeated."""
    probe = BrokenProbe()
    before = set(threading.enumerate())
    bus = make_sync_bus(plugins=[probe_plugin(broken=probe)], health={"probes": ["broken"]})
    for _ in range(2):
        with pytest.raises(ConnectionError, match="no server"):
            bus.start()
        assert set(threading.enumerate()) == before
        with pytest.raises(BusNotStarted):
            bus.publish(HAPPENED, happened())
    probe.broken = False
    with bus:
        assert bus.health().status is HealthStatus.HEALTHY


# --- who may call -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [*CALLS, *ALSO_BEFORE_START, "close", "health", "start"])
def test_calls_from_its_own_loop(call: str) -> None:
    """A call from an async handler, on the loop of the bus, is an error: it would wait for itself."""
    errors: list[BaseException] = []
    calls = {
        **CALLS,
        **ALSO_BEFORE_START,
        "close": lambda bus: bus.close(),
        "health": lambda bus: bus.health(),
        "start": lambda bus: bus.start(),
    }
    with running_sync_bus() as bus:

        async def handle(event: Happened) -> None:
            try:
                calls[call](bus)
            except Exception as error:
                errors.append(error)

        bus.subscribe(HAPPENED, handle)
        bus.publish(HAPPENED, happened())
        bus.drain()
    (error,) = errors
    assert isinstance(error, WrongEventLoop)
    assert "it would wait for itself; make the handler a plain function" in str(error)


def test_calls_from_another_event_loop() -> None:
    """From a coroutine on a loop of the caller's the calls work: they are plain, and block that loop."""
    numbers: list[int] = []

    async def main() -> None:
        bus.publish(HAPPENED, happened(1))
        bus.drain()

    with running_sync_bus() as bus:
        bus.subscribe(HAPPENED, lambda event: numbers.append(event.number))
        asyncio.run(main())
    assert numbers == [1]


def test_sync_handlers_may_call() -> None:
    """A sync handler, in its thread, may publish, subscribe and look; waiting for itself is an error."""
    errors: list[BaseException] = []
    numbers: list[int] = []

    def note(event: Happened) -> None:
        numbers.append(event.number)

    with running_sync_bus(worker_pool_size=1, buffer_size=1) as bus:

        def handle(event: Happened) -> None:
            bus.subscribe(OTHER, note)
            bus.publish(OTHER, happened(event.number + 1))
            bus.publish_many([(OTHER, happened(event.number + 2))])
            with bus.after_commit():
                bus.publish(OTHER, happened(event.number + 3))
            assert bus.health().status is HealthStatus.HEALTHY
            for call in (bus.drain, bus.close):
                try:
                    call()
                except CalledFromHandler as error:
                    errors.append(error)

        bus.subscribe(HAPPENED, handle)
        bus.publish(HAPPENED, happened(1))
        bus.drain()
        assert bus.state().overflowed == 3
    assert numbers == [2, 3, 4]
    assert [type(error) for error in errors] == [CalledFromHandler] * 2


@pytest.mark.parametrize("timeout", [math.inf, timedelta.max, 1e10], ids=str)
def test_close_takes_any_timeout(timeout: Any) -> None:
    """A timeout that no lock of the system could wait for is no error."""
    bus = make_sync_bus()
    bus.start()
    assert bus.close(timeout).completed
    assert bus.bus.status == "closed"


def test_a_handler_calls_close_while_another_thread_closes() -> None:
    """A handler that calls close gets its error at once, also while the bus is being closed."""
    begun, go_on = threading.Event(), threading.Event()
    errors: list[BaseException] = []
    bus = make_sync_bus()
    bus.start()

    def handle(event: Happened) -> None:
        begun.set()
        go_on.wait(WITHIN)
        for call in (bus.close, lambda: bus.subscribe(HAPPENED, print, name="late")):
            try:
                call()
            except (CalledFromHandler, BusClosed) as error:
                errors.append(error)

    bus.subscribe(HAPPENED, handle)
    bus.publish(HAPPENED, happened())
    begun.wait(WITHIN)
    with threads(1) as pool:
        closing = pool.submit(bus.close)
        wait_until(lambda: bus.health().status is HealthStatus.UNHEALTHY)
        go_on.set()
        assert closing.result(WITHIN).completed
    assert [type(error) for error in errors] == [CalledFromHandler, BusClosed]


# --- after_commit -----------------------------------------------------------------------------------------


def test_after_commit() -> None:
    """Events of the thread leave when the block ends well; those of other threads are not held."""
    numbers: list[int] = []
    with running_sync_bus() as bus, threads(1) as pool:
        bus.subscribe(HAPPENED, lambda event: numbers.append(event.number), ordered=True, concurrency=1)
        with bus.after_commit():
            bus.publish(HAPPENED, happened(2))
            bus.publish_many([(HAPPENED, happened(3))])
            with bus.after_commit():
                bus.publish(HAPPENED, happened(4))
            with pytest.raises(UnknownTopic):
                bus.publish("unknown.topic", happened())
            with pytest.raises(PublishManyError):
                bus.publish_many([("unknown.topic", happened())])
            pool.submit(bus.publish, HAPPENED, happened(1)).result(WITHIN)
            bus.drain()
            assert numbers == [1]
        bus.drain()
        assert numbers == [1, 2, 3, 4]
        with pytest.raises(LookupError), bus.after_commit():
            bus.publish(HAPPENED, happened(5))
            raise LookupError
        bus.publish(HAPPENED, happened(6))
        bus.drain()
    assert numbers == [1, 2, 3, 4, 6]


def test_after_commit_and_close() -> None:
    """Events that were held when the bus was closed are reported; an empty block ends well."""
    bus = make_sync_bus()
    bus.start()
    with (
        pytest.raises(PublishManyError, match="2 of 2 events not accepted") as caught,
        bus.after_commit(),
    ):
        bus.publish(HAPPENED, happened(1))
        bus.publish(HAPPENED, happened(2))
        bus.close()
    assert [type(result) for result in caught.value.results] == [BusClosed, BusClosed]
    bus = make_sync_bus()
    bus.start()
    with bus.after_commit():
        bus.close()


# --- many threads at once ---------------------------------------------------------------------------------


def test_eight_threads_at_once() -> None:
    """Publish, subscribe, drain, health and dead letters from 8 threads at once: nothing is lost."""
    lock = threading.Lock()
    handled: list[int] = []
    begin = threading.Barrier(8)

    def note(event: Happened) -> None:
        if event.number % 50 == 0:
            raise ValueError("poison")
        with lock:
            handled.append(event.number)

    with running_sync_bus(buffer_size=10, worker_pool_size=4, retry_attempts=2, retry_delay="1ms") as bus:
        bus.subscribe(HAPPENED, note, name="note")

        def work(thread: int) -> None:
            begin.wait(WITHIN)
            for number in range(thread * 50, thread * 50 + 50):
                bus.publish(HAPPENED, happened(number))
                if number % 10 == 0:
                    mine = bus.subscribe(OTHER, lambda event: None, name=f"mine-{thread}")
                    bus.publish_many([(OTHER, happened(number))])
                    assert bus.health().status is HealthStatus.HEALTHY
                    bus.drain(WITHIN)
                    mine.unsubscribe()
                    bus.dead_letters.list()
                    with bus.after_commit():
                        bus.publish(OTHER, happened(number))

        with threads(8) as pool:
            finish([pool.submit(work, thread) for thread in range(8)])
        bus.drain(WITHIN)
        state = bus.state()
        assert (state.unsettled, state.lost) == (0, 0)
        assert len(bus.dead_letters.list()) == 8
    assert sorted(handled) == [number for number in range(400) if number % 50]


@pytest.mark.parametrize("repetition", range(5))
def test_closing_from_eight_threads_while_others_publish(repetition: int) -> None:
    """Each call either does its work or says closed, none hangs, and all closers get one report."""
    lock = threading.Lock()
    begin = threading.Barrier(8)
    handled: list[int] = []
    accepted: list[int] = []
    bus = make_sync_bus(buffer_size=5, worker_pool_size=2)
    bus.start()

    def note(event: Happened) -> None:
        with lock:
            handled.append(event.number)

    bus.subscribe(HAPPENED, note)

    def repeat(call: Callable[[], object]) -> None:
        begin.wait(WITHIN)
        with suppress(BusClosed):
            while True:
                call()

    def publish() -> None:
        bus.publish(HAPPENED, happened())
        with lock:
            accepted.append(1)

    def look_around() -> None:
        bus.health()
        bus.drain(WITHIN)
        bus.subscribe(OTHER, lambda event: None).unsubscribe()

    def close() -> DrainReport:
        begin.wait(WITHIN)
        wait_until(lambda: len(handled) > 20)
        return bus.close()

    with threads(8) as pool:
        others = [pool.submit(repeat, call) for call in (publish, publish, publish, look_around, look_around)]
        reports = finish([pool.submit(close) for _ in range(3)])
        finish(others)
    assert all(report is reports[0] for report in reports)
    assert reports[0].completed
    assert len(handled) == len(accepted)


def test_starting_from_eight_threads() -> None:
    """Start from 8 threads at once starts one loop, and all of them find the bus open."""
    before = threading.active_count()
    bus = make_sync_bus()
    begin = threading.Barrier(8)

    def work() -> None:
        begin.wait(WITHIN)
        bus.start()
        bus.publish(HAPPENED, happened())

    with threads(8) as pool:
        finish([pool.submit(work) for _ in range(8)])
    assert threading.active_count() == before + 1
    assert bus.state().published == 8
    bus.close()


def test_threads_wait_for_room() -> None:
    """Publishing threads wait while the buffer is full, and go on when there is room."""
    release = threading.Event()
    handled: list[int] = []

    def slow(event: Happened) -> None:
        release.wait(WITHIN)
        handled.append(event.number)

    with running_sync_bus(buffer_size=2, worker_pool_size=1) as bus, threads(8) as pool:
        bus.subscribe(HAPPENED, slow)
        publishing = [pool.submit(bus.publish, HAPPENED, happened(number)) for number in range(8)]
        wait_until(lambda: bus.state().waiting_publishers == 6)
        # The buffer has told two of them; each thread needs a moment of its own to return.
        wait_until(lambda: sum(future.done() for future in publishing) == 2)
        assert bus.state().waiting_publishers == 6
        release.set()
        finish(list(publishing))
        bus.drain()
    assert sorted(handled) == list(range(8))


# --- what handlers may do to it ---------------------------------------------------------------------------


def test_a_task_of_a_handler_exits(caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit in a task that a handler started ends neither the loop nor the bus."""
    numbers: list[int] = []
    tasks: list[Any] = []

    async def give_up() -> None:
        raise SystemExit("secret@leak.example")

    async def handle(event: Happened) -> None:
        if event.number == 0:
            tasks.append(asyncio.create_task(give_up()))
            await asyncio.wait(tasks)
        numbers.append(event.number)

    with running_sync_bus() as bus:
        bus.subscribe(HAPPENED, handle)
        bus.publish(HAPPENED, happened(0))
        bus.publish(HAPPENED, happened(1))
        bus.drain(WITHIN)
        assert sorted(numbers) == [0, 1]
        assert bus.health().status is HealthStatus.HEALTHY
    assert isinstance(tasks[0].exception(), SystemExit)
    ours = [record for record in caplog.records if record.name == "promenade.bus"]
    assert any("the event loop of the bus, which goes on" in record.getMessage() for record in ours)
    assert not any("secret@leak" in logging.Formatter().format(record) for record in ours)


def test_a_handler_blocks_the_loop(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an async handler blocks the loop, close gives up after its timeout and says so."""
    monkeypatch.setattr("bus_core.bus.sync._BLOCKED", 0.05)
    begun, release = threading.Event(), threading.Event()

    async def block(event: Happened) -> None:
        begun.set()
        release.wait(WITHIN)

    bus = make_sync_bus()
    bus.start()
    bus.subscribe(HAPPENED, block)
    publishing = threading.Thread(target=bus.publish, args=(HAPPENED, happened()), daemon=True)
    publishing.start()
    begun.wait(WITHIN)
    report = bus.close(timeout=0.01)
    assert not report.completed
    assert "is blocked by a handler, and was left behind" in caplog.text
    with pytest.raises(BusClosed):
        bus.publish(HAPPENED, happened())
    release.set()
    publishing.join(WITHIN)


def test_abandoned_work_is_reported() -> None:
    """Close does not wait longer than its timeout for a handler in a thread, and reports it."""
    begun, release = threading.Event(), threading.Event()

    def hang(event: Happened) -> None:
        begun.set()
        release.wait(WITHIN)

    bus = make_sync_bus()
    bus.start()
    bus.subscribe(HAPPENED, hang, name="hang")
    published = happened()
    bus.publish(HAPPENED, published)
    begun.wait(WITHIN)
    report = bus.close(timeout=0.01)
    release.set()
    ((topic, subscription, event_id),) = [
        (item.topic, item.subscription, item.event_id) for item in report.abandoned
    ]
    assert (topic, subscription, event_id) == (HAPPENED.name, "hang", str(published.event_id))


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_bad_timeouts(timeout: float) -> None:
    """A timeout below zero, or that is no number, is a ValueError, and the bus is as before."""
    with running_sync_bus() as bus:
        with pytest.raises(ValueError, match="a timeout must be at least 0 seconds"):
            bus.close(timeout)
        with pytest.raises(ValueError, match="a timeout must be at least 0 seconds"):
            bus.drain(timeout)
        bus.publish(HAPPENED, happened())
