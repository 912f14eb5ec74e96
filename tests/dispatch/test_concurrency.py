from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from bus_core import Delivery, InvalidHandler, NoRetry, Postpone, RetryLater
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of

pytestmark = pytest.mark.timeout(30)

LANES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "bounded": {"concurrency": 2},
    "selective": {"where": lambda event: True},
}
every_lane = pytest.mark.parametrize("options", LANES.values(), ids=LANES)


class Holding:
    """A handler that waits until its gate is open, and keeps how many ran at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: list[int] = []
        self.done: list[int] = []
        self.at_once = 0

    async def __call__(self, event: Happened) -> None:
        self.begun.append(event.number)
        self.at_once = max(self.at_once, len(self.begun) - len(self.done))
        await self.gate.wait()
        self.done.append(event.number)


# --- how many at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("options", [{}, {"where": lambda event: True}], ids=["plain", "selective"])
async def test_worker_pool_size(virtual_clock: VirtualClock, size: int, options: Mapping[str, Any]) -> None:
    """At most as many handlers run at once as there are workers, and as many when they are held up."""
    async with running_bus(virtual_clock, worker_pool_size=size) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler, **options)
        for number in range(20):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        state = bus.state()
        assert (state.running_handlers, state.worker_pool_size, handler.at_once) == (size, size, size)
        assert (state_of(bus).running, state_of(bus).queued) == (size, 20 - size)
        handler.gate.set()
        await bus.drain()
        assert handler.begun == sorted(handler.done) == [*range(20)]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_bounded(virtual_clock: VirtualClock, concurrency: int) -> None:
    """``concurrency`` bounds one subscription and leaves the other workers to the rest."""
    async with running_bus(virtual_clock, worker_pool_size=4) as bus:
        bounded, free = Holding(), Holding()
        free.gate.set()
        bus.subscribe(HAPPENED, bounded, name="bounded", concurrency=concurrency)
        bus.subscribe(HAPPENED, free, name="free")
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert free.done == [*range(10)]
        assert bounded.at_once == concurrency
        state = state_of(bus, "bounded")
        assert (state.running, state.queued) == (concurrency, 10 - concurrency)
        bounded.gate.set()
        await bus.drain()
        assert bounded.begun == sorted(bounded.done) == [*range(10)]
        assert bounded.at_once == concurrency


async def test_waiting_for_a_retry_is_not_running(virtual_clock: VirtualClock) -> None:
    """An event that waits for its retry, or is postponed, leaves its place to the next one."""
    async with running_bus(virtual_clock) as bus:
        seen: list[tuple[int, int]] = []

        async def handle(event: Happened, delivery: Delivery) -> None:
            seen.append((event.number, delivery.attempt))
            if delivery.attempt == 1 and event.number == 0:
                raise RetryLater(after=60)
            if not delivery.redelivered and event.number == 1:
                raise Postpone(after=60)

        bus.subscribe(HAPPENED, handle, concurrency=1)
        for number in range(4):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert seen == [(0, 1), (1, 1), (2, 1), (3, 1)]
        await virtual_clock.advance(60)
        assert seen[4:] == [(0, 2), (1, 1)]
        assert bus.state().unsettled == 0


async def test_a_retry_comes_while_another_runs(virtual_clock: VirtualClock) -> None:
    """A retry that is due waits for the handler that has taken its place meanwhile."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()

        async def fail_first(event: Happened, delivery: Delivery) -> None:
            if event.number == 0 and delivery.attempt == 1:
                raise RetryLater(after=5)
            await handler(event)

        bus.subscribe(HAPPENED, fail_first, concurrency=1)
        for number in range(2):
            await bus.publish(HAPPENED, happened(number))
            await virtual_clock.settle()
        await virtual_clock.advance(10)
        assert handler.begun == [1]
        handler.gate.set()
        await bus.drain()
        assert (handler.done, handler.at_once) == ([1, 0], 1)


async def test_bounded_through_failures(virtual_clock: VirtualClock) -> None:
    """The bound holds over any mix of successes, retries and dead letters, and no place is lost."""
    async with running_bus(virtual_clock, worker_pool_size=8) as bus:
        chance = random.Random(3)
        running = most = 0

        async def handle(event: Happened) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0)
                if chance.random() < 0.5:
                    raise chance.choice([ValueError(), asyncio.CancelledError(), Postpone(after=0.1)])
            finally:
                running -= 1

        bus.subscribe(HAPPENED, handle, concurrency=3)
        for number in range(200):
            await bus.publish(HAPPENED, happened(number))
        while bus.state().unsettled:
            await virtual_clock.advance(1)
        assert most == 3
        state = state_of(bus)
        assert state.handled + state.dead_lettered == 200
        assert (state.queued, state.running, state.waiting_retries) == (0, 0, 0)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "2", True])
def test_bad_concurrency(concurrency: Any) -> None:
    """``concurrency`` is a positive whole number."""
    with pytest.raises(InvalidHandler, match="concurrency must be an int of at least 1"):
        make_bus().subscribe(HAPPENED, Holding(), concurrency=concurrency)


# --- pause and resume -------------------------------------------------------------------------------------


@every_lane
async def test_pause(virtual_clock: VirtualClock, options: Mapping[str, Any]) -> None:
    """A paused subscription finishes what runs, begins nothing, and keeps what comes, in order."""
    async with running_bus(virtual_clock, worker_pool_size=2) as bus:
        handler = Holding()
        subscription = bus.subscribe(HAPPENED, handler, **options)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        running = len(handler.begun)
        assert running == 2
        subscription.pause()
        assert subscription.state.paused
        handler.gate.set()
        await virtual_clock.settle()
        for number in range(5, 8):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.advance(3600)
        assert handler.begun == handler.done == [0, 1]
        state = state_of(bus)
        assert (state.queued, state.running, bus.state().unsettled) == (6, 0, 6)
        subscription.resume()
        assert not subscription.state.paused
        await virtual_clock.settle()
        assert handler.done == [*range(8)]
        assert bus.state().unsettled == 0


async def test_pause_leaves_the_others(virtual_clock: VirtualClock) -> None:
    """The other subscriptions of the same events go on, whatever is taken back for the paused one."""
    async with running_bus(virtual_clock) as bus:
        handlers = [Holding() for _ in range(3)]
        for handler in handlers:
            handler.gate.set()
        subscriptions = [
            bus.subscribe(HAPPENED, handler, name=f"{index}") for index, handler in enumerate(handlers)
        ]
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        subscriptions[1].pause()
        for number in range(5, 10):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert [handler.done for handler in handlers] == [[*range(10)], [], [*range(10)]]
        assert bus.state().unsettled == 10
        subscriptions[1].resume()
        await virtual_clock.settle()
        assert handlers[1].done == [*range(10)]
        assert bus.state().unsettled == 0


async def test_retry_that_is_due_while_paused(virtual_clock: VirtualClock) -> None:
    """A retry that becomes due while the subscription is paused runs when it is resumed."""
    async with running_bus(virtual_clock) as bus:
        attempts: list[int] = []

        async def fail(event: Happened, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt < 3:
                raise ValueError("no")

        subscription = bus.subscribe(HAPPENED, fail)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        subscription.pause()
        await virtual_clock.advance(60)
        assert attempts == [1]
        subscription.resume()
        await virtual_clock.advance(60)
        assert attempts == [1, 2, 3]
        assert bus.state().unsettled == 0


async def test_pausing_twice_and_resuming_twice(virtual_clock: VirtualClock) -> None:
    """Repeating pause or resume changes nothing."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        handler.gate.set()
        subscription = bus.subscribe(HAPPENED, handler)
        subscription.resume()
        subscription.pause()
        subscription.pause()
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert handler.done == []
        subscription.resume()
        subscription.resume()
        await virtual_clock.settle()
        assert handler.done == [1]


async def test_paused_before_start(virtual_clock: VirtualClock) -> None:
    """A subscription can be paused before the bus is started."""
    bus = make_bus(virtual_clock)
    handler = Holding()
    handler.gate.set()
    subscription = bus.subscribe(HAPPENED, handler)
    subscription.pause()
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert handler.done == []
        subscription.resume()
        await bus.drain()
        assert handler.done == [1]


@every_lane
async def test_pausing_at_random(virtual_clock: VirtualClock, options: Mapping[str, Any]) -> None:
    """However often subscriptions are paused and resumed, each event is handled once by each of them."""
    async with running_bus(virtual_clock, worker_pool_size=2) as bus:
        chance = random.Random(4)
        handled: dict[str, list[int]] = {"a": [], "b": [], "plain": []}

        def handler(name: str) -> Any:
            async def handle(event: Happened) -> None:
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                if chance.random() < 0.2:
                    raise Postpone(after=0.01)
                handled[name].append(event.number)

            return handle

        subscriptions = [bus.subscribe(HAPPENED, handler(name), name=name, **options) for name in ("a", "b")]
        subscriptions.append(bus.subscribe(HAPPENED, handler("plain"), name="plain"))
        for number in range(200):
            await bus.publish(HAPPENED, happened(number))
            subscription = chance.choice(subscriptions)
            chance.choice([subscription.pause, subscription.resume])()
            if chance.random() < 0.3:
                await virtual_clock.advance(0.01)
        for subscription in subscriptions:
            subscription.resume()
        while bus.state().unsettled:
            await virtual_clock.advance(1)
        for numbers in handled.values():
            assert sorted(numbers) == [*range(200)]


# --- where ------------------------------------------------------------------------------------------------


async def test_where(virtual_clock: VirtualClock) -> None:
    """``where`` selects events: what it refuses is counted as skipped, and the handler never sees it."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        handler.gate.set()
        bus.subscribe(HAPPENED, handler, where=lambda event: event.number % 3 == 0)
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert handler.done == [0, 3, 6, 9]
        state = state_of(bus)
        assert (state.handled, state.skipped, state.failed_attempts) == (4, 6, 0)
        assert bus.state().unsettled == 0


async def test_where_takes_what_is_truthy(virtual_clock: VirtualClock) -> None:
    """``where`` may answer with anything; what counts is whether it is true."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        handler.gate.set()
        truthy: Any = lambda event: [event] if event.number else None  # noqa: E731
        bus.subscribe(HAPPENED, handler, where=truthy)
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert handler.done == [1]


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
async def test_where_that_raises(virtual_clock: VirtualClock, error: type[BaseException]) -> None:
    """A ``where`` that raises is a failure like one of the handler: retried, then a dead letter."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()

        def choose(event: Happened) -> bool:
            raise error("no")

        bus.subscribe(HAPPENED, handler, where=choose)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        state = state_of(bus)
        assert (state.failed_attempts, state.dead_lettered, state.skipped) == (3, 1, 0)
        assert handler.begun == []


async def test_where_whose_answer_has_no_truth(virtual_clock: VirtualClock) -> None:
    """An answer of ``where`` that is neither true nor false is a failure, too."""

    class Undecided:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler, where=lambda event: Undecided(), retry=NoRetry())  # type: ignore[arg-type,return-value]
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        assert state_of(bus).dead_lettered == 1


async def choose_later(event: Happened) -> bool:
    return False


@pytest.mark.parametrize("where", ["no function", 1, choose_later], ids=["text", "number", "async"])
def test_bad_where(where: Any) -> None:
    """``where`` is a function, and not an async one: its coroutine would always be true."""
    with pytest.raises(InvalidHandler, match="where takes a "):
        make_bus().subscribe(HAPPENED, Holding(), where=where)


# --- the order of plain events ----------------------------------------------------------------------------


async def test_first_in_first_begun(virtual_clock: VirtualClock) -> None:
    """Events begin in the order in which they were published, also over topics."""
    async with running_bus(virtual_clock, worker_pool_size=3) as bus:
        begun: list[int] = []

        async def handle(event: Happened) -> None:
            begun.append(event.number)
            if event.number % 2:
                await asyncio.sleep(0)

        for topic in (HAPPENED, OTHER):
            bus.subscribe(topic, handle)
        for number in range(50):
            await bus.publish((HAPPENED, OTHER)[number % 2], happened(number))
        await bus.drain()
        assert begun == [*range(50)]
