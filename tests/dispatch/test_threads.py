from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable
from typing import Any

import pytest

from bus_core import Delivery, HandlerTimeout, NoRetry, PermanentError, Postpone, RetryLater
from bus_core.runtime.threads import ThreadPool
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, WITHIN, Happened, happened, running_bus, state_of, until

pytestmark = pytest.mark.timeout(30)


def handler_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("promenade-handler")]


class Gate:
    """Holds threads until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.entered = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        with self._lock:
            self.entered += 1
        assert self._opened.wait(WITHIN)


async def test_runs_in_a_thread(virtual_clock: VirtualClock) -> None:
    """A synchronous handler runs in a daemon thread and not on the event loop."""
    async with running_bus(virtual_clock) as bus:
        threads: list[threading.Thread] = []

        def handle(event: Happened, delivery: Delivery) -> None:
            threads.append(threading.current_thread())
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        (thread,) = threads
        assert thread is not threading.current_thread()
        assert thread.daemon
        assert state_of(bus).handled == 1


async def test_does_not_block_the_loop(virtual_clock: VirtualClock) -> None:
    """While a synchronous handler blocks, other handlers run."""
    async with running_bus(virtual_clock, worker_pool_size=2) as bus:
        numbers: list[int] = []
        with Gate() as gate:

            async def handle(event: Happened) -> None:
                numbers.append(event.number)

            bus.subscribe(HAPPENED, lambda event: gate.wait(), name="blocking")
            bus.subscribe(OTHER, handle, name="other")
            await bus.publish(HAPPENED, happened())
            await until(lambda: gate.entered)
            for number in range(10):
                await bus.publish(OTHER, happened(number))
            await virtual_clock.settle()
            assert numbers == [*range(10)]
        await bus.drain()


async def test_as_many_threads_as_workers(virtual_clock: VirtualClock) -> None:
    """Threads are started as they are needed, never more than there are workers."""
    async with running_bus(virtual_clock, worker_pool_size=3) as bus:
        before = len(handler_threads())
        with Gate() as gate:
            bus.subscribe(HAPPENED, lambda event: gate.wait())
            await bus.publish(HAPPENED, happened())
            await until(lambda: gate.entered == 1)
            assert len(handler_threads()) - before == 1
            for _ in range(9):
                await bus.publish(HAPPENED, happened())
            await until(lambda: gate.entered == 3)
            await virtual_clock.settle()
            assert gate.entered == 3
            assert len(handler_threads()) - before == 3
            assert bus.state().running_handlers == 3
        await bus.drain()
        assert gate.entered == 10
        assert len(handler_threads()) - before == 3


async def test_close_ends_the_threads(virtual_clock: VirtualClock) -> None:
    """After close no thread of the bus is left."""
    async with running_bus(virtual_clock) as bus:
        before = {*handler_threads()}
        bus.subscribe(HAPPENED, lambda event: None)
        for _ in range(20):
            await bus.publish(HAPPENED, happened())
        await bus.close()
    await until(lambda: not {*handler_threads()} - before)


async def test_outcomes(virtual_clock: VirtualClock) -> None:
    """A synchronous handler has the same outcomes as an async one."""
    async with running_bus(virtual_clock) as bus:
        errors: list[BaseException] = [
            ValueError("no"),
            Postpone(after=60),
            RetryLater(after=30),
            PermanentError("never"),
        ]
        attempts: list[int] = []

        def handle(event: Happened, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            raise errors[len(attempts) - 1]

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened())
        for seconds, count in [(0.1, 1), (60, 2), (30, 3), (0, 4)]:
            await until(lambda count=count: len(attempts) == count and not bus.state().running_handlers)
            await virtual_clock.advance(seconds)
        await bus.drain()
        assert attempts == [1, 2, 2, 3]
        (letter,) = await bus.dead_letters.list()
        assert [attempt.error for attempt in letter.attempts] == [
            "ValueError: no",
            "RetryLater: the handler asked to be retried after 30 s",
            "PermanentError: never",
        ]


async def test_timeout_is_recorded_when_the_thread_returns(virtual_clock: VirtualClock) -> None:
    """A thread that exceeds its timeout keeps its worker until it returns, and has failed then."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        with Gate() as gate:
            bus.subscribe(HAPPENED, lambda event: gate.wait(), timeout=1, retry=NoRetry())
            await bus.publish(HAPPENED, happened(1))
            await bus.publish(HAPPENED, happened(2))
            await until(lambda: gate.entered)
            await virtual_clock.advance(60)
            state = state_of(bus)
            assert (state.running, state.failed_attempts, gate.entered) == (1, 0, 1)
        await bus.drain()
        state = state_of(bus)
        assert gate.entered == 2
        assert (state.failed_attempts, state.dead_lettered, state.handled) == (1, 1, 1)
        (letter,) = await bus.dead_letters.list()
        assert letter.attempts[0].error.startswith("HandlerTimeout: ")


async def test_error_after_the_timeout(virtual_clock: VirtualClock) -> None:
    """An error of a thread after its timeout is the recorded failure."""
    async with running_bus(virtual_clock) as bus:
        with Gate() as gate:

            def fail(event: Happened) -> None:
                gate.wait()
                raise PermanentError("late")

            bus.subscribe(HAPPENED, fail, timeout=1)
            await bus.publish(HAPPENED, happened())
            await until(lambda: gate.entered)
            await virtual_clock.advance(60)
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
        assert letter.attempts[0].error == "PermanentError: late"


async def test_cancellation_waits_for_the_thread(virtual_clock: VirtualClock) -> None:
    """After a cancellation the worker waits until the thread has returned, and the attempt failed."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        with Gate() as gate:
            bus.subscribe(HAPPENED, lambda event: gate.wait(), retry=NoRetry(), name="blocking")
            bus.subscribe(OTHER, lambda event: None, name="other")
            await bus.publish(HAPPENED, happened())
            await bus.publish(OTHER, happened())
            await until(lambda: gate.entered)
            for task in asyncio.all_tasks():
                if task.get_name() == "promenade-worker":
                    task.cancel()
            await virtual_clock.advance(60)
            assert state_of(bus, "blocking").running == 1
            assert state_of(bus, "other").handled == 0
        await bus.drain()
        assert state_of(bus, "blocking").dead_lettered == 1
        assert state_of(bus, "other").handled == 1


async def test_sync_function_that_returns_a_coroutine(virtual_clock: VirtualClock) -> None:
    """The awaitable that a synchronous function returns is awaited on the loop, within the timeout."""
    async with running_bus(virtual_clock) as bus:
        loops: list[asyncio.AbstractEventLoop] = []

        async def work(event: Happened) -> None:
            loops.append(asyncio.get_running_loop())
            if event.number == 1:
                raise PermanentError("inner")
            if event.number == 2:
                await asyncio.Event().wait()

        def handle(event: Happened) -> Awaitable[None]:
            return work(event)

        bus.subscribe(HAPPENED, handle, timeout=10, retry=NoRetry())
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: len(loops) == 3)
        await virtual_clock.advance(10)
        assert set(loops) == {asyncio.get_running_loop()}
        errors = [letter.attempts[0].error for letter in await bus.dead_letters.list()]
        assert errors[0] == "PermanentError: inner"
        assert errors[1].startswith(HandlerTimeout.__name__)
        assert state_of(bus).handled == 1


async def test_context_variables_do_not_leak(virtual_clock: VirtualClock) -> None:
    """A synchronous handler sees no context variable of another one or of the bus's starter."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("starter")
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        seen: list[Any] = []

        def handle(event: Happened) -> None:
            seen.append(variable.get(None))
            variable.set(f"{event.number}")

        bus.subscribe(HAPPENED, handle)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        assert seen == [None] * 5


async def test_thread_that_cannot_be_started(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system gives no thread the attempt fails, and is retried like any other."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        numbers: list[int] = []

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        bus.subscribe(HAPPENED, lambda event: numbers.append(event.number))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            await bus.publish(HAPPENED, happened(1))
            await virtual_clock.settle()
        assert state_of(bus).failed_attempts == 1
        await virtual_clock.advance(1)
        await until(lambda: numbers)
        assert numbers == [1]


async def test_pool_makes_do_with_the_threads_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no further thread, calls wait for one of those that there are."""
    pool = ThreadPool(3, "promenade-handler-test")
    with Gate() as gate:
        first = pool.submit(gate.wait)
        await until(lambda: gate.entered)

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            second = pool.submit(lambda: "second")
        third = pool.submit(lambda: "third")
        await asyncio.wait_for(third.returned(), WITHIN)
    await asyncio.wait_for(second.returned(), WITHIN)
    await asyncio.wait_for(first.returned(), WITHIN)
    assert [call.result for call in (first, second, third)] == [None, "second", "third"]
    pool.close()
