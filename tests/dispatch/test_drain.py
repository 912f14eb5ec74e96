from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bus_core import (
    BusClosed,
    BusNotStarted,
    CalledFromHandler,
    Delivery,
    PermanentError,
    Postpone,
    RetryLater,
    Topic,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, until

pytestmark = pytest.mark.timeout(30)

CAUSED = Topic("test.caused.happened", Happened)

LANES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "bounded": {"concurrency": 1},
    "selective": {"where": lambda event: True},
}
every_lane = pytest.mark.parametrize("options", LANES.values(), ids=LANES)
either_way = pytest.mark.parametrize(
    "memory", [{"serialize": False}, {"serialize": True}], ids=["objects", "serialized"]
)


class Holding:
    """A handler that waits until its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.done: list[int] = []

    async def __call__(self, event: Happened) -> None:
        await self.gate.wait()
        self.done.append(event.number)


async def begin(clock: VirtualClock, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(call)
    await clock.settle()
    return task


async def test_nothing_to_wait_for(virtual_clock: VirtualClock) -> None:
    """A drain of an idle bus returns at once."""
    async with running_bus(virtual_clock) as bus:
        await bus.drain()
        await bus.drain(timeout=0)
        bus.subscribe(HAPPENED, Holding())
        await bus.publish(OTHER, happened())
        await bus.drain()
        assert (bus.state().unsettled, bus.state().unrouted) == (0, 1)


@every_lane
@either_way
async def test_running_and_queued(
    virtual_clock: VirtualClock, memory: dict[str, Any], options: dict[str, Any]
) -> None:
    """A drain waits for what runs and for what is queued."""
    async with running_bus(virtual_clock, memory=memory, worker_pool_size=2) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler, **options)
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        drain = await begin(virtual_clock, bus.drain())
        assert not drain.done()
        handler.gate.set()
        await drain
        assert sorted(handler.done) == [*range(10)]
        assert bus.state().unsettled == 0


@pytest.mark.parametrize("yields", range(6))
async def test_begun_at_any_moment(virtual_clock: VirtualClock, yields: int) -> None:
    """Whenever a drain begins, it returns after everything before it is settled."""
    async with running_bus(virtual_clock, worker_pool_size=2) as bus:
        done: list[int] = []

        async def handle(event: Happened) -> None:
            for _ in range(event.number % 4):
                await asyncio.sleep(0)
            done.append(event.number)

        bus.subscribe(HAPPENED, handle)
        bus.subscribe(HAPPENED, handle)
        bus.subscribe(HAPPENED, handle, ordered=True)
        for number in range(20):
            await bus.publish(HAPPENED, happened(number))
            if number % 7 == 0:
                for _ in range(yields):
                    await asyncio.sleep(0)
        await bus.drain()
        assert sorted(done) == sorted([*range(20)] * 3)


@every_lane
@pytest.mark.parametrize("error", [ValueError("no"), RetryLater(after=0.1), Postpone(after=0.1)], ids=repr)
async def test_retries(virtual_clock: VirtualClock, options: dict[str, Any], error: Exception) -> None:
    """A drain waits for retries and postponements, those that were waiting before it included."""
    async with running_bus(virtual_clock) as bus:
        calls = 0

        async def fail(event: Happened) -> None:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise error

        bus.subscribe(HAPPENED, fail, **options)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        assert bus.state().waiting_retries == 1
        drain = await begin(virtual_clock, bus.drain())
        await virtual_clock.advance(0.15)
        assert not drain.done()
        await virtual_clock.advance(0.2)
        assert drain.done()
        assert calls == 3


async def test_dead_letters(virtual_clock: VirtualClock) -> None:
    """A dead letter is an end like any other."""
    async with running_bus(virtual_clock) as bus:

        async def fail(event: Happened) -> None:
            raise PermanentError("no")

        bus.subscribe(HAPPENED, fail)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert len(await bus.dead_letters.list()) == 1


@every_lane
@either_way
@pytest.mark.parametrize("before", [True, False], ids=["running before", "queued before"])
async def test_what_handlers_cause(
    virtual_clock: VirtualClock, memory: dict[str, Any], options: dict[str, Any], before: bool
) -> None:
    """A drain waits for the events that handling causes, over any number of steps, retries included."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        gate = asyncio.Event()
        handled: list[int] = []

        async def cause(event: Happened, delivery: Delivery) -> None:
            await gate.wait()
            if event.number == 2 and delivery.attempt == 1:
                raise ValueError("once")
            handled.append(event.number)
            if event.number < 5:
                await bus.publish(CAUSED, happened(event.number + 1))

        bus.subscribe(HAPPENED, cause, name="first", **options)
        bus.subscribe(CAUSED, cause, name="then", **options)
        await bus.publish(HAPPENED, happened(0))
        if before:
            await virtual_clock.settle()
        drain = await begin(virtual_clock, bus.drain())
        gate.set()
        await virtual_clock.settle()
        assert handled == [0, 1]
        assert not drain.done()
        await virtual_clock.advance(0.1)
        assert drain.done()
        assert handled == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", ["task", "task group", "call_soon", "thread"])
async def test_what_tasks_of_handlers_cause(virtual_clock: VirtualClock, how: str) -> None:
    """Events that a handler publishes through tasks, callbacks or threads while it runs are caused by it."""
    async with running_bus(virtual_clock) as bus:
        gate = asyncio.Event()
        holding = Holding()
        loop = asyncio.get_running_loop()

        async def publish() -> None:
            await bus.publish(CAUSED, happened(1))

        async def cause(event: Happened) -> None:
            await gate.wait()
            if how == "task":
                await asyncio.create_task(publish())
            elif how == "task group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(publish())
            elif how == "call_soon":
                loop.call_soon(bus.publish_nowait, CAUSED, happened(1))
                await asyncio.sleep(0)
            else:
                await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(publish(), loop).result(10))

        bus.subscribe(HAPPENED, cause)
        bus.subscribe(CAUSED, holding)
        await bus.publish(HAPPENED, happened())
        drain = await begin(virtual_clock, bus.drain())
        gate.set()
        await until(lambda: bus.published().get(CAUSED.name))
        await virtual_clock.settle()
        assert not drain.done()
        holding.gate.set()
        await until(drain.done)


async def test_what_sync_handlers_cause(virtual_clock: VirtualClock) -> None:
    """Events that a synchronous handler publishes from its thread are caused by it."""
    async with running_bus(virtual_clock) as bus:
        holding = Holding()
        loop = asyncio.get_running_loop()

        def cause(event: Happened) -> None:
            asyncio.run_coroutine_threadsafe(bus.publish(CAUSED, happened(1)), loop).result(10)

        bus.subscribe(HAPPENED, cause)
        bus.subscribe(CAUSED, holding)
        await bus.publish(HAPPENED, happened())
        drain = asyncio.ensure_future(bus.drain())
        await until(lambda: bus.published().get(CAUSED.name))
        await until(lambda: bus.state().unsettled == 1)
        await virtual_clock.settle()
        assert not drain.done()
        holding.gate.set()
        await until(drain.done)


@either_way
async def test_not_what_others_publish_meanwhile(virtual_clock: VirtualClock, memory: dict[str, Any]) -> None:
    """A drain does not wait for events that others publish meanwhile, nor for their consequences."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        before, after = Holding(), Holding()

        async def cause(event: Happened) -> None:
            await bus.publish(OTHER, event)

        bus.subscribe(HAPPENED, before)
        bus.subscribe(OTHER, after)
        bus.subscribe(CAUSED, cause)
        await bus.publish(HAPPENED, happened())
        drain = await begin(virtual_clock, bus.drain())
        await bus.publish(OTHER, happened())
        await bus.publish(CAUSED, happened())
        await virtual_clock.settle()
        before.gate.set()
        await virtual_clock.settle()
        assert drain.done()
        assert bus.state().unsettled == 2
        after.gate.set()
        await bus.drain()


async def test_ends_although_events_keep_coming(virtual_clock: VirtualClock) -> None:
    """A drain ends while a publisher never rests."""
    async with running_bus(virtual_clock, buffer_size=5) as bus:
        stop = False

        async def handle(event: Happened) -> None:
            await asyncio.sleep(0)

        async def keep_publishing() -> None:
            while not stop:
                await bus.publish(HAPPENED, happened())

        bus.subscribe(HAPPENED, handle)
        publisher = asyncio.ensure_future(keep_publishing())
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.wait_for(bus.drain(), 10)
        assert not publisher.done()
        stop = True
        await publisher
        await bus.drain()


async def test_several_at_once(virtual_clock: VirtualClock) -> None:
    """Each drain waits for what was accepted before it, and for nothing after it."""
    async with running_bus(virtual_clock) as bus:
        handlers = [Holding() for _ in range(3)]
        topics = [Topic(f"test.number{index}.happened", Happened) for index in range(3)]
        drains = []
        for topic, handler in zip(topics, handlers, strict=True):
            bus.subscribe(topic, handler)
            await bus.publish(topic, happened())
            drains.append(await begin(virtual_clock, bus.drain()))
            drains.append(await begin(virtual_clock, bus.drain()))
        for index, handler in enumerate(handlers):
            handler.gate.set()
            await virtual_clock.settle()
            assert [drain.done() for drain in drains] == [each <= index for each in (0, 0, 1, 1, 2, 2)]


async def test_fan_out(virtual_clock: VirtualClock) -> None:
    """An event is settled when the last of its subscriptions is done with it."""
    async with running_bus(virtual_clock) as bus:
        handlers = [Holding() for _ in range(4)]
        for index, (handler, options) in enumerate(zip(handlers, LANES.values(), strict=True)):
            bus.subscribe(HAPPENED, handler, name=f"{index}", **options)
        await bus.publish(HAPPENED, happened())
        drain = await begin(virtual_clock, bus.drain())
        for handler in handlers:
            assert not drain.done()
            handler.gate.set()
            await virtual_clock.settle()
        assert drain.done()


async def test_from_inside_a_handler(virtual_clock: VirtualClock) -> None:
    """A handler that drains would wait for itself: it gets an error, and so do its tasks and its thread."""
    async with running_bus(virtual_clock) as bus:
        errors: list[BaseException] = []
        loop = asyncio.get_running_loop()

        async def drain() -> None:
            try:
                await bus.drain()
            except CalledFromHandler as error:
                errors.append(error)

        async def handle(event: Happened) -> None:
            await drain()
            await asyncio.create_task(drain())

        def handle_in_thread(event: Happened) -> None:
            asyncio.run_coroutine_threadsafe(drain(), loop).result(10)

        bus.subscribe(HAPPENED, handle)
        bus.subscribe(HAPPENED, handle_in_thread)
        await bus.publish(HAPPENED, happened())
        await until(lambda: bus.state().unsettled == 0)
        assert [str(error) for error in errors] == [
            "cannot drain the bus from inside a handler: it would wait for itself"
        ] * 3


async def test_of_another_bus_from_inside_a_handler(virtual_clock: VirtualClock) -> None:
    """A handler may drain another bus."""
    async with running_bus(virtual_clock) as bus, running_bus(virtual_clock) as another:
        done: list[str] = []

        async def handle(event: Happened) -> None:
            await another.publish(HAPPENED, event)
            await another.drain()
            done.append("bus")

        async def handle_there(event: Happened) -> None:
            done.append("another")

        bus.subscribe(HAPPENED, handle)
        another.subscribe(HAPPENED, handle_there)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert done == ["another", "bus"]


async def test_timeout(virtual_clock: VirtualClock) -> None:
    """A drain that takes too long raises TimeoutError, which tells what is left, and can be repeated."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler, name="holding")
        await bus.publish(HAPPENED, happened())
        drain = await begin(virtual_clock, bus.drain(timeout=5))
        await virtual_clock.advance(4.9)
        assert not drain.done()
        await virtual_clock.advance(0.1)
        with pytest.raises(TimeoutError, match="not drained within 5 s") as caught:
            await drain
        assert "'holding'" in str(caught.value)
        assert "running=1" in str(caught.value)
        handler.gate.set()
        await bus.drain(timeout=5)
        assert handler.done == [0]
        assert virtual_clock.timers == []


@pytest.mark.parametrize("stop", ["cancelled", "timed out"])
async def test_leaves_no_trace(virtual_clock: VirtualClock, stop: str) -> None:
    """A drain that is cancelled or times out leaves nothing behind, and no event is lost."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened(1))
        tasks = asyncio.all_tasks()
        drain = await begin(virtual_clock, bus.drain(timeout=1 if stop == "timed out" else None))
        if stop == "cancelled":
            drain.cancel()
        await virtual_clock.advance(1)
        assert drain.done()
        assert asyncio.all_tasks() <= tasks
        assert virtual_clock.timers == []
        assert not bus._engine._marks
        assert bus._pipeline._fast_path_blocks == 0
        handler.gate.set()
        await bus.publish(HAPPENED, happened(2))
        await virtual_clock.settle()
        assert handler.done == [1, 2]
        assert bus.state().unsettled == 0
        assert drain.cancelled() is (stop == "cancelled")
        if stop == "timed out":
            assert isinstance(drain.exception(), TimeoutError)


async def test_not_open(virtual_clock: VirtualClock) -> None:
    """Only an open bus can be drained."""
    bus = make_bus(virtual_clock)
    with pytest.raises(BusNotStarted, match="cannot drain"):
        await bus.drain()
    async with bus:
        await bus.drain()
    with pytest.raises(BusClosed, match="cannot drain"):
        await bus.drain()


async def test_closed_meanwhile(virtual_clock: VirtualClock) -> None:
    """A drain whose bus is closed ends with it: well, or with BusClosed when events were abandoned."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        drain = await begin(virtual_clock, bus.drain())
        close = await begin(virtual_clock, bus.close(timeout=5))
        await virtual_clock.advance(5)
        await close
        with pytest.raises(BusClosed, match="cannot drain"):
            await drain
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        drain = await begin(virtual_clock, bus.drain())
        close = await begin(virtual_clock, bus.close(timeout=5))
        handler.gate.set()
        await virtual_clock.settle()
        assert (await close).completed
        await drain


@pytest.mark.parametrize("act", ["pause", "unsubscribe"])
async def test_changes_of_subscriptions_meanwhile(virtual_clock: VirtualClock, act: str) -> None:
    """A drain outlives that the subscriptions whose events it waits for are paused or leave."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        handler = Holding()
        subscription = bus.subscribe(HAPPENED, handler)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        drain = await begin(virtual_clock, bus.drain())
        change: Callable[[], Any] = subscription.pause
        if act == "pause":
            change()
            handler.gate.set()
            await virtual_clock.settle()
            assert not drain.done()
            subscription.resume()
            await virtual_clock.settle()
        else:
            leaving = await begin(virtual_clock, subscription.unsubscribe())
            handler.gate.set()
            await virtual_clock.settle()
            assert leaving.done()
        assert drain.done()
        assert handler.done == [*range(5)]


async def test_marks_survive_pausing(virtual_clock: VirtualClock) -> None:
    """A drain waits for events accepted before it, also those of a paused subscription."""
    async with running_bus(virtual_clock) as bus:
        paused, other = Holding(), Holding()
        other.gate.set()
        subscription = bus.subscribe(HAPPENED, paused)
        bus.subscribe(HAPPENED, other)
        subscription.pause()
        await bus.publish(HAPPENED, happened())
        drain = await begin(virtual_clock, bus.drain())
        assert other.done == [0]
        assert not drain.done()
        subscription.resume()
        paused.gate.set()
        await virtual_clock.settle()
        assert drain.done()
