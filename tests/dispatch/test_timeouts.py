"""Time limits: of calls on any clock, and of handlers by ``timeout=``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from bus_core import InvalidHandler, NoRetry, PermanentError, SystemClock
from bus_core.errors import HandlerTimeout, PublishUncertain
from bus_core.runtime.clock import Clock
from bus_core.runtime.timeouts import call_within
from promenade_bus_testing import VirtualClock, VirtualTimer
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of

pytestmark = pytest.mark.timeout(30)


# --- the time limit of a call -------------------------------------------------------------------------
async def run_with_timeout(
    clock: Clock, seconds: float, name: str, call: Callable[..., Awaitable[Any]], *arguments: object
) -> Any:
    return await call_within(clock, seconds, partial(HandlerTimeout, name, seconds), call, *arguments)


class Running:
    """A task that calls something with a limit of ten seconds, and what became of the task."""

    def __init__(self, clock: VirtualClock, call: Callable[[], Awaitable[str]]) -> None:
        self.cancelling: int | None = None
        self.task = asyncio.create_task(self._run(clock, call))

    async def _run(self, clock: VirtualClock, call: Callable[[], Awaitable[str]]) -> str:
        try:
            return await run_with_timeout(clock, 10, "welcome-mail", call)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self.cancelling = task.cancelling()

    async def outcome(self) -> str | BaseException:
        try:
            return await asyncio.wait_for(self.task, 5)
        except (Exception, asyncio.CancelledError) as error:
            return error


async def forever() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def test_result_in_time(virtual_clock: VirtualClock) -> None:
    """A call that ends in time gives its result, and its timer is taken back."""

    async def quick(greeting: str) -> str:
        return greeting

    assert await run_with_timeout(virtual_clock, 10, "welcome-mail", quick, "hello") == "hello"
    assert virtual_clock.timers == []


async def test_error_in_time(virtual_clock: VirtualClock) -> None:
    """An exception before the limit passes as it is, and the timer is taken back."""

    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        await run_with_timeout(virtual_clock, 10, "welcome-mail", fails)
    assert not hasattr(caught.value, "__notes__")
    assert virtual_clock.timers == []


async def test_limit_reached(virtual_clock: VirtualClock) -> None:
    """A call that is still running at its limit is cancelled, and HandlerTimeout says whose and when."""
    running = Running(virtual_clock, forever)
    await virtual_clock.advance(9.9)
    assert not running.task.done()
    await virtual_clock.advance(0.1)
    error = await running.outcome()
    assert isinstance(error, HandlerTimeout)
    assert str(error) == "the handler of 'welcome-mail' ran longer than its timeout of 10 s"
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert running.cancelling == 0


async def test_task_is_usable_afterwards(virtual_clock: VirtualClock) -> None:
    """After a timeout the task can wait for other things, so that a worker lives on."""

    async def worker() -> str:
        for _ in range(3):
            with pytest.raises(HandlerTimeout):
                await run_with_timeout(virtual_clock, 10, "welcome-mail", forever)
        await asyncio.sleep(0)
        return "alive"

    task = asyncio.create_task(worker())
    await virtual_clock.advance(30)
    assert await task == "alive"


async def test_swallowed_cancellation(virtual_clock: VirtualClock) -> None:
    """A call that swallows the cancellation and returns much later has timed out all the same."""
    release = asyncio.Event()

    async def stubborn() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            await release.wait()
        return "late"

    running = Running(virtual_clock, stubborn)
    await virtual_clock.advance(10)
    assert not running.task.done()
    release.set()
    assert isinstance(await running.outcome(), HandlerTimeout)
    assert running.cancelling == 0


async def test_error_while_being_cancelled(virtual_clock: VirtualClock) -> None:
    """An exception that a call raises when it is cancelled is left as it is, with a note on the limit."""

    async def cleans_up_badly() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            raise PermanentError("gone") from None
        return "never"

    running = Running(virtual_clock, cleans_up_badly)
    await virtual_clock.advance(10)
    error = await running.outcome()
    assert isinstance(error, PermanentError)
    assert error.__notes__ == ["raised after the call had been cancelled at its limit of 10 s"]
    assert running.cancelling == 0


async def test_own_cancelled_error(virtual_clock: VirtualClock) -> None:
    """A CancelledError that the call raises by itself before the limit is no timeout."""

    async def odd() -> str:
        raise asyncio.CancelledError("mine")

    running = Running(virtual_clock, odd)
    error = await running.outcome()
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("mine",)
    assert running.cancelling == 0
    assert virtual_clock.timers == []


async def test_cancelled_dependency(virtual_clock: VirtualClock) -> None:
    """A call that awaits a future which somebody cancels is no timeout."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waits() -> str:
        return await future

    running = Running(virtual_clock, waits)
    await virtual_clock.settle()
    future.cancel()
    assert isinstance(await running.outcome(), asyncio.CancelledError)
    assert running.cancelling == 0


async def test_outer_cancellation(virtual_clock: VirtualClock) -> None:
    """A cancellation from outside before the limit is passed on and stays counted."""
    running = Running(virtual_clock, forever)
    await virtual_clock.advance(5)
    running.task.cancel()
    assert isinstance(await running.outcome(), asyncio.CancelledError)
    assert running.cancelling == 1
    assert virtual_clock.timers == []


@pytest.mark.parametrize("limit_first", [True, False])
async def test_outer_cancellation_at_the_limit(virtual_clock: VirtualClock, limit_first: bool) -> None:
    """A cancellation from outside wins when it comes at the same moment as the limit, in either order."""
    running = Running(virtual_clock, forever)
    await virtual_clock.settle()

    if limit_first:
        virtual_clock.fire_all()
        running.task.cancel()
    else:
        running.task.cancel()
        virtual_clock.fire_all()
    assert isinstance(await running.outcome(), asyncio.CancelledError)
    assert running.cancelling == 1


async def test_outer_cancellation_after_the_limit(virtual_clock: VirtualClock) -> None:
    """A cancellation from outside that ends a stubborn call after its limit is passed on."""

    async def stubborn() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            await forever()
        return "never"

    running = Running(virtual_clock, stubborn)
    await virtual_clock.advance(10)
    assert not running.task.done()
    running.task.cancel()
    assert isinstance(await running.outcome(), asyncio.CancelledError)
    assert running.cancelling == 1


async def test_earlier_cancellation_does_not_hide_the_limit(virtual_clock: VirtualClock) -> None:
    """In a task that was cancelled before and goes on, the limit is still reported as a timeout."""

    async def survivor() -> str:
        with pytest.raises(asyncio.CancelledError):
            await forever()
        with pytest.raises(HandlerTimeout):
            await run_with_timeout(virtual_clock, 10, "welcome-mail", forever)
        task = asyncio.current_task()
        assert task is not None
        return f"cancelling {task.cancelling()}"

    task = asyncio.create_task(survivor())
    await virtual_clock.settle()
    task.cancel()
    await virtual_clock.advance(10)
    assert await task == "cancelling 1"


async def test_ready_at_the_limit(virtual_clock: VirtualClock) -> None:
    """A call whose result arrives at the same moment as the limit times out and leaves no cancellation."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waits() -> str:
        return await future

    running = Running(virtual_clock, waits)
    await virtual_clock.settle()
    future.set_result("in time?")
    virtual_clock.fire_all()
    assert isinstance(await running.outcome(), HandlerTimeout)
    assert running.cancelling == 0


async def test_timer_that_fires_too_late() -> None:
    """A timer that fires although it was taken back does not cancel what the task does next."""
    callbacks: list[Callable[[], None]] = []

    class Careless(VirtualClock):
        def call_later(self, delay: float, callback: Callable[[], None]) -> VirtualTimer:
            callbacks.append(callback)
            return super().call_later(delay, callback)

    async def quick() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await run_with_timeout(Careless(), 10, "welcome-mail", quick) == "done"
    callbacks[0]()
    await asyncio.sleep(0)


async def test_nested_limits_at_the_same_moment(virtual_clock: VirtualClock) -> None:
    """Of two nested limits that end together the outer one is reported, and no cancellation is left."""

    async def inner() -> str:
        return await run_with_timeout(virtual_clock, 10, "inner", forever)

    running = Running(virtual_clock, inner)
    await virtual_clock.settle()
    virtual_clock.fire_all()
    error = await running.outcome()
    assert isinstance(error, HandlerTimeout)
    assert "'welcome-mail'" in str(error)
    assert running.cancelling == 0


async def test_inner_limit_is_shorter(virtual_clock: VirtualClock) -> None:
    """Of two nested limits the shorter one is reported, and the timer of the longer one is taken back."""

    async def inner() -> str:
        return await run_with_timeout(virtual_clock, 4, "inner", forever)

    running = Running(virtual_clock, inner)
    await virtual_clock.advance(4)
    error = await running.outcome()
    assert isinstance(error, HandlerTimeout)
    assert "'inner'" in str(error)
    assert virtual_clock.timers == []


async def test_task_group_in_the_call(virtual_clock: VirtualClock) -> None:
    """The limit cancels the children of a task group and is still reported as a timeout."""
    ended: list[str] = []

    async def child() -> None:
        try:
            await forever()
        finally:
            ended.append("child")

    async def family() -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(child())
        return "never"

    running = Running(virtual_clock, family)
    await virtual_clock.advance(10)
    assert isinstance(await running.outcome(), HandlerTimeout)
    assert ended == ["child", "child"]
    assert running.cancelling == 0


async def test_another_error(virtual_clock: VirtualClock) -> None:
    """`call_within` raises the error that its caller makes for it."""

    async def publish() -> None:
        await call_within(virtual_clock, 2, lambda: PublishUncertain("it may be stored"), forever)

    task = asyncio.create_task(publish())
    await virtual_clock.advance(2)
    with pytest.raises(PublishUncertain, match="may be stored"):
        await task


async def test_real_clock() -> None:
    """The limit works with the timers of the event loop."""
    with pytest.raises(HandlerTimeout):
        await run_with_timeout(SystemClock(), 0.001, "welcome-mail", forever)


async def test_no_time_at_all() -> None:
    """With a limit of zero a call that never waits passes."""

    async def quick() -> str:
        return "done"

    assert await run_with_timeout(SystemClock(), 0, "welcome-mail", quick) == "done"


# --- the time limit of a handler ----------------------------------------------------------------------
class Hanging:
    """Waits for ever, and keeps how it was stopped."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def __call__(self, event: Happened) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("timeout", [5, 5.0, timedelta(seconds=5)])
async def test_is_cancelled_and_counted(virtual_clock: VirtualClock, timeout: Any) -> None:
    """An async handler that exceeds its timeout is cancelled, and has failed: it is retried by the policy."""
    async with running_bus(virtual_clock) as bus:
        handler = Hanging()
        bus.subscribe(HAPPENED, handler, name="hanging", timeout=timeout)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(4.9)
        assert handler.cancelled == 0
        await virtual_clock.advance(0.1)
        assert handler.cancelled == 1
        assert (state_of(bus).failed_attempts, state_of(bus).waiting_retries) == (1, 1)
        await virtual_clock.advance(60)
        assert handler.cancelled == 3
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "retries exhausted after 3 attempts"
        assert {attempt.error for attempt in letter.attempts} == {
            "HandlerTimeout: the handler of 'hanging' ran longer than its timeout of 5 s"
        }
        assert bus.state().unsettled == 0


async def test_bounds_each_attempt(virtual_clock: VirtualClock) -> None:
    """The timeout bounds one attempt: neither what an event waited before nor its retries count."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        began: list[float] = []

        async def handle(event: Happened) -> None:
            began.append(virtual_clock.monotonic())
            gate = asyncio.Event()
            virtual_clock.call_later(4, gate.set)
            await gate.wait()
            if len(began) == 1:
                raise ValueError("no")

        bus.subscribe(HAPPENED, handle, timeout=5, ordered=True)
        key = uuid4()
        for number in range(3):
            await bus.publish(HAPPENED, happened(number, key))
        await virtual_clock.advance(60)
        assert began == [pytest.approx(time) for time in (0, 4.1, 8.1, 12.1)]
        assert (state_of(bus).handled, state_of(bus).failed_attempts) == (3, 1)


async def test_leaves_no_timer(virtual_clock: VirtualClock) -> None:
    """A handler that ends in time, well or not, leaves no timer."""
    async with running_bus(virtual_clock) as bus:

        async def handle(event: Happened) -> None:
            if event.number:
                raise PermanentError("no")

        bus.subscribe(HAPPENED, handle, timeout=60)
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert virtual_clock.timers == []


async def test_swallowing_the_cancellation_is_a_failure(virtual_clock: VirtualClock) -> None:
    """A handler that swallows its cancellation has run too long all the same."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        others: list[int] = []

        async def swallow(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

        async def handle(event: Happened) -> None:
            await asyncio.sleep(0)
            others.append(event.number)

        bus.subscribe(HAPPENED, swallow, name="swallow", timeout=5, retry=NoRetry())
        bus.subscribe(OTHER, handle, name="other")
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
            await bus.publish(OTHER, happened(number))
        await virtual_clock.advance(60)
        assert others == [0, 1, 2]
        assert (state_of(bus, "swallow").dead_lettered, state_of(bus, "other").failed_attempts) == (3, 0)
        for letter in await bus.dead_letters.list():
            assert letter.attempts[0].error.startswith("HandlerTimeout: ")
            assert letter.attempts[0].place == place_of_code(swallow)


def place_of_code(function: Callable[..., object]) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}"


def late(event: Happened) -> None:
    """Takes longer than a nanosecond."""


@functools.wraps(late)
def wrapping(event: Happened) -> None:
    late(event)


class Late:
    def __call__(self, event: Happened) -> None:
        late(event)


@pytest.mark.parametrize(
    ("handler", "function"),
    [(late, late), (wrapping, late), (Late(), Late.__call__), (partial(late), late)],
    ids=["function", "wrapped", "object", "partial"],
)
async def test_a_thread_over_its_limit_has_the_place_of_its_handler(
    handler: Callable[..., None], function: Callable[..., None]
) -> None:
    """The thread has returned, and the dead letter names the code that took too long, not the bus."""
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, handler, name="late", timeout=1e-9, retry=NoRetry())
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
        assert letter.attempts[0].place == place_of_code(function)


async def test_what_it_raises_on_its_way_out(virtual_clock: VirtualClock) -> None:
    """An error that a cancelled handler raises on its way out is the one that counts."""
    async with running_bus(virtual_clock) as bus:

        async def fail(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise PermanentError("cleaning up failed")

        bus.subscribe(HAPPENED, fail, timeout=5)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(5)
        (letter,) = await bus.dead_letters.list()
        assert letter.attempts[0].error == "PermanentError: cleaning up failed"


async def test_slow_to_stop_keeps_its_worker(virtual_clock: VirtualClock) -> None:
    """A handler that takes its time to clean up keeps its worker until then, and fails only then."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        cleaned = asyncio.Event()

        async def slow(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await cleaned.wait()

        bus.subscribe(HAPPENED, slow, timeout=5, retry=NoRetry())
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert (state_of(bus).running, state_of(bus).failed_attempts) == (1, 0)
        cleaned.set()
        await virtual_clock.settle()
        assert (state_of(bus).running, state_of(bus).dead_lettered) == (0, 1)


@pytest.mark.parametrize("options", [{"ordered": True}, {"concurrency": 1}], ids=["ordered", "bounded"])
async def test_frees_what_it_held(virtual_clock: VirtualClock, options: Mapping[str, Any]) -> None:
    """After a timeout the key, or the place, is free for the next event."""
    async with running_bus(virtual_clock) as bus:
        done: list[int] = []

        async def handle(event: Happened) -> None:
            if event.number == 0:
                await asyncio.Event().wait()
            done.append(event.number)

        bus.subscribe(HAPPENED, handle, timeout=5, retry=NoRetry(), **options)
        key = uuid4()
        for number in range(3):
            await bus.publish(HAPPENED, happened(number, key))
        await virtual_clock.advance(5)
        assert done == [1, 2]


async def test_only_this_subscription(virtual_clock: VirtualClock) -> None:
    """The timeout of one subscription cancels no other handler of the same event."""
    async with running_bus(virtual_clock) as bus:
        gate = asyncio.Event()
        done: list[int] = []

        async def patient(event: Happened) -> None:
            await gate.wait()
            done.append(event.number)

        bus.subscribe(HAPPENED, patient, name="patient")
        bus.subscribe(HAPPENED, Hanging(), name="hanging", timeout=1, retry=NoRetry())
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.advance(60)
        gate.set()
        await virtual_clock.settle()
        assert done == [1]
        assert state_of(bus, "patient").failed_attempts == 0


async def test_ends_at_the_very_limit(virtual_clock: VirtualClock) -> None:
    """A handler that ends in the moment of its limit is either handled or failed, and the worker lives on."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:

        async def handle(event: Happened) -> None:
            gate = asyncio.Event()
            virtual_clock.call_later(5, gate.set)
            await gate.wait()

        async def other(event: Happened) -> None:
            await asyncio.sleep(0)

        bus.subscribe(HAPPENED, handle, name="limit", timeout=5, retry=NoRetry())
        bus.subscribe(OTHER, other, name="other")
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        virtual_clock.fire_all()
        await virtual_clock.settle()
        await bus.publish(OTHER, happened())
        await virtual_clock.settle()
        state = state_of(bus, "limit")
        assert state.handled + state.dead_lettered == 1
        assert state_of(bus, "other").handled == 1
        assert bus.state().unsettled == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5s", True, timedelta(0)])
def test_bad_timeout(timeout: Any) -> None:
    """A timeout is a positive number of seconds or a timedelta."""
    with pytest.raises(InvalidHandler, match="timeout must be a positive number of seconds"):
        make_bus().subscribe(HAPPENED, Hanging(), timeout=timeout)
