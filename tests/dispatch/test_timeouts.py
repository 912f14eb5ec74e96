from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from bus_core import SystemClock
from bus_core.errors import HandlerTimeout, PermanentError, PublishUncertain
from bus_core.runtime.clock import Clock
from bus_core.runtime.timeouts import call_within
from promenade_bus_testing import VirtualClock, VirtualTimer


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
