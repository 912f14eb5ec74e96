"""Unsubscribing: it waits for accepted events, takes no more, and frees the name."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    BusClosed,
    Delivery,
    FixedRetry,
    NoRetry,
    PermanentError,
    RetryLater,
    Subscription,
    Topic,
    UnknownSubscription,
)
from promenade_bus_memory import MemoryHub
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of, until
from support.handlers import Collecting, ignore

pytestmark = pytest.mark.timeout(30)


# --- the handler and its lane -------------------------------------------------------------------------
LANES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "bounded": {"concurrency": 1},
    "selective": {"where": lambda event: True},
}
every_lane = pytest.mark.parametrize("options", LANES.values(), ids=LANES)


class Handler:
    """Keeps the numbers of its events; waits at each until the gate is open."""

    def __init__(self, *, open: bool = True) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.gate = asyncio.Event()
        if open:
            self.gate.set()

    async def __call__(self, event: Happened) -> None:
        self.begun.append(event.number)
        await self.gate.wait()
        self.done.append(event.number)


@every_lane
async def test_takes_nothing_more(virtual_clock: VirtualClock, options: dict[str, Any]) -> None:
    """After unsubscribing the handler gets nothing any more."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler()
        subscription = bus.subscribe(HAPPENED, handler, **options)
        await bus.publish(HAPPENED, happened(1))
        await subscription.unsubscribe()
        await bus.publish(HAPPENED, happened(2))
        await virtual_clock.settle()
        assert handler.done == [1]
        state = bus.state()
        assert (state.subscriptions, state.unrouted, state.unsettled) == ((), 1, 0)
        assert bus.subscriptions == ()
        assert subscription.state.handled == 1


@every_lane
async def test_waits_for_what_was_accepted(virtual_clock: VirtualClock, options: dict[str, Any]) -> None:
    """Unsubscribing returns when all that runs and is queued has been handled; later events are not taken."""
    async with running_bus(virtual_clock, worker_pool_size=2) as bus:
        handler = Handler(open=False)
        subscription = bus.subscribe(HAPPENED, handler, name="leaving", **options)
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        leaving = asyncio.ensure_future(subscription.unsubscribe())
        await virtual_clock.settle()
        assert not leaving.done()
        await bus.publish(HAPPENED, happened(10))
        handler.gate.set()
        await virtual_clock.settle()
        assert leaving.done()
        assert sorted(handler.done) == [*range(10)]
        assert bus.state().unsettled == 0


@every_lane
async def test_waits_for_retries(virtual_clock: VirtualClock, options: dict[str, Any]) -> None:
    """Unsubscribing waits for retries, those of handlers that are running included, and for dead letters."""
    async with running_bus(virtual_clock) as bus:
        gate = asyncio.Event()
        attempts: list[int] = []

        async def fail(event: Happened) -> None:
            attempts.append(event.number)
            await gate.wait()
            if event.number == 1:
                raise PermanentError("no")
            if attempts.count(event.number) < 3:
                raise RetryLater(after=60)

        subscription = bus.subscribe(HAPPENED, fail, **options)
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        leaving = asyncio.ensure_future(subscription.unsubscribe())
        await virtual_clock.settle()
        gate.set()
        await virtual_clock.advance(119)
        assert not leaving.done()
        await virtual_clock.advance(1)
        assert leaving.done()
        assert sorted(attempts) == [0, 0, 0, 1]
        assert bus.state().unsettled == 0


@pytest.mark.parametrize("leaving_lane", LANES)
@pytest.mark.parametrize("staying_lane", LANES)
async def test_other_subscriptions_are_left_alone(
    virtual_clock: VirtualClock, leaving_lane: str, staying_lane: str
) -> None:
    """Unsubscribing waits for nobody else's events, and nobody else's event changes its handler."""
    async with running_bus(virtual_clock) as bus:
        staying, leaving = Handler(open=False), Handler()

        async def stay(event: Happened) -> None:
            await staying(event)
            raise ValueError("no")

        bus.subscribe(HAPPENED, stay, name="staying", **LANES[staying_lane])
        subscription = bus.subscribe(HAPPENED, leaving, name="leaving", **LANES[leaving_lane])
        other = bus.subscribe(OTHER, leaving, name="other", **LANES[leaving_lane])
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        left = [asyncio.ensure_future(each.unsubscribe()) for each in (subscription, other)]
        await virtual_clock.settle()
        assert all(each.done() for each in left)
        staying.gate.set()
        await virtual_clock.advance(60)
        assert staying.done == [1, 1, 1]
        assert leaving.done == [1]
        assert state_of(bus).dead_lettered == 1
        assert bus.state().unsettled == 0


@every_lane
async def test_paused(virtual_clock: VirtualClock, options: dict[str, Any]) -> None:
    """A paused subscription handles what it holds before it leaves."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler()
        subscription = bus.subscribe(HAPPENED, handler, **options)
        subscription.pause()
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert handler.done == []
        await subscription.unsubscribe()
        assert handler.done == [*range(5)]
        assert bus.state().unsettled == 0


async def test_pausing_one_that_leaves(virtual_clock: VirtualClock) -> None:
    """A subscription that is on its way out cannot be paused: it would never get there."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        handler = Handler(open=False)
        subscription = bus.subscribe(HAPPENED, handler)
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        leaving = asyncio.ensure_future(subscription.unsubscribe())
        await virtual_clock.settle()
        with pytest.raises(UnknownSubscription, match="unsubscribed"):
            subscription.pause()
        handler.gate.set()
        await virtual_clock.settle()
        assert leaving.done()
        assert handler.done == [0, 1, 2]


@every_lane
@pytest.mark.parametrize("own", [True, False], ids=["its own", "another one"])
async def test_from_inside_a_handler(virtual_clock: VirtualClock, options: dict[str, Any], own: bool) -> None:
    """From inside a handler unsubscribing returns at once, and what was accepted is handled all the same."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        seen: list[int] = []
        after: list[str] = []
        subscriptions: dict[str, Subscription] = {}

        async def handle(event: Happened) -> None:
            seen.append(event.number)
            if own:
                await leave(event)

        async def leave(event: Happened) -> None:
            await subscriptions["leaving"].unsubscribe()
            after.append("unsubscribed")

        subscriptions["leaving"] = bus.subscribe(HAPPENED, handle, name="leaving", **options)
        bus.subscribe(OTHER, leave, name="other")
        await bus.publish(OTHER if not own else HAPPENED, happened(0))
        for number in range(1, 4):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert "unsubscribed" in after
        assert seen == ([0, 1, 2, 3] if own else [1, 2, 3])
        await bus.publish(HAPPENED, happened(9))
        await virtual_clock.settle()
        assert 9 not in seen
        assert bus.state().unsettled == 0


async def test_only_that_handler(virtual_clock: VirtualClock) -> None:
    """``bus.unsubscribe(topic, handler)`` removes the subscriptions of that handler to that topic only."""
    async with running_bus(virtual_clock) as bus:
        leaving, staying = Handler(), Handler()
        bus.subscribe(HAPPENED, leaving, name="first")
        bus.subscribe(HAPPENED, leaving, name="second")
        bus.subscribe(HAPPENED, staying, name="third")
        bus.subscribe(OTHER, leaving, name="fourth")
        bus.subscribe("test.#", leaving, name="fifth")
        await bus.unsubscribe(HAPPENED, leaving)
        assert [subscription.name for subscription in bus.subscriptions] == ["third", "fourth", "fifth"]
        await bus.unsubscribe("test.#", leaving)
        await bus.publish(HAPPENED, happened(1))
        await bus.publish(OTHER, happened(2))
        await virtual_clock.settle()
        assert (staying.done, leaving.done) == ([1], [2])
        with pytest.raises(UnknownSubscription, match="no subscription of"):
            await bus.unsubscribe(HAPPENED, leaving)
        with pytest.raises(UnknownSubscription):
            await bus.unsubscribe("test.nothing.happened", staying)


async def test_bound_methods_are_the_same_handler(virtual_clock: VirtualClock) -> None:
    """Handlers are compared by equality, so that a bound method can be unsubscribed."""

    class Service:
        def __init__(self) -> None:
            self.numbers: list[int] = []

        async def handle(self, event: Happened) -> None:
            self.numbers.append(event.number)

    async with running_bus(virtual_clock) as bus:
        one, two = Service(), Service()
        bus.subscribe(HAPPENED, one.handle)
        bus.subscribe(HAPPENED, two.handle)
        await bus.unsubscribe(HAPPENED, one.handle)
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert (one.numbers, two.numbers) == ([], [1])


async def test_cancelled_caller(virtual_clock: VirtualClock) -> None:
    """A caller that is cancelled while it waits leaves everything unsubscribed that it asked for."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler(open=False)
        bus.subscribe(HAPPENED, handler, name="first")
        bus.subscribe(HAPPENED, handler, name="second")
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        leaving = asyncio.ensure_future(bus.unsubscribe(HAPPENED, handler))
        await virtual_clock.settle()
        leaving.cancel()
        await virtual_clock.settle()
        assert leaving.cancelled()
        assert bus.subscriptions == ()
        handler.gate.set()
        await bus.publish(HAPPENED, happened(2))
        await virtual_clock.settle()
        assert handler.done == [1, 1]
        assert bus.state().subscriptions == ()


async def test_repeating_is_harmless(virtual_clock: VirtualClock) -> None:
    """Unsubscribing again waits with the first call, or returns when that is done."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler(open=False)
        subscription = bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        calls = [asyncio.ensure_future(subscription.unsubscribe()) for _ in range(3)]
        await virtual_clock.settle()
        assert not any(call.done() for call in calls)
        handler.gate.set()
        await virtual_clock.settle()
        assert all(call.done() for call in calls)
        await subscription.unsubscribe()
        with pytest.raises(UnknownSubscription):
            await subscription.ready()


async def test_name_is_free_again(virtual_clock: VirtualClock) -> None:
    """A name can be taken again at once, while the former subscription still finishes its events."""
    async with running_bus(virtual_clock) as bus:
        former, present = Handler(open=False), Handler()
        subscription = bus.subscribe(HAPPENED, former, name="same", retry=NoRetry())
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        leaving = asyncio.ensure_future(subscription.unsubscribe())
        await virtual_clock.settle()
        again = bus.subscribe(HAPPENED, present, name="same")
        await bus.publish(HAPPENED, happened(2))
        await virtual_clock.settle()
        former.gate.set()
        await leaving
        assert (former.done, present.done) == ([1], [2])
        assert (subscription.state.handled, again.state.handled) == (1, 1)


async def test_blocked_publisher(virtual_clock: VirtualClock) -> None:
    """A publisher that waits for room does not reach a subscription that has left meanwhile."""
    async with running_bus(virtual_clock, buffer_size=1, strict_topics=False) as bus:
        holding, leaving = Handler(open=False), Handler()
        bus.subscribe(HAPPENED, holding)
        subscriptions = [
            bus.subscribe(OTHER, leaving),
            bus.subscribe("undeclared.*.happened", leaving),
        ]
        await bus.publish(HAPPENED, happened())
        blocked = [
            asyncio.ensure_future(bus.publish(topic, event))
            for topic, event in [
                (OTHER, happened(1)),
                ("undeclared.thing.happened", BaseEvent("thing.happened", uuid4())),
            ]
        ]
        await virtual_clock.settle()
        for subscription in subscriptions:
            await subscription.unsubscribe()
        holding.gate.set()
        await virtual_clock.settle()
        assert all(each.done() for each in blocked)
        assert leaving.begun == []
        state = bus.state()
        assert (state.unsettled, state.published, state.unrouted) == (0, 3, 2)


async def test_before_start_and_after_close(virtual_clock: VirtualClock) -> None:
    """Before start a subscription just goes away; after close there is nothing to do."""
    handler = Handler()
    bus = make_bus(virtual_clock)
    early = bus.subscribe(HAPPENED, handler, name="early")
    late = bus.subscribe(HAPPENED, handler, name="late")
    await early.unsubscribe()
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert handler.done == [1]
    await late.unsubscribe()
    with pytest.raises(BusClosed):
        await bus.unsubscribe(HAPPENED, handler)


async def test_drain_counts_one_that_leaves(virtual_clock: VirtualClock) -> None:
    """A drain waits for what a subscription that is on its way out has accepted."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler(open=False)
        subscription = bus.subscribe(HAPPENED, handler, concurrency=1)
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        leaving = asyncio.ensure_future(subscription.unsubscribe())
        await virtual_clock.settle()
        drain = asyncio.ensure_future(bus.drain())
        await virtual_clock.settle()
        assert not drain.done()
        handler.gate.set()
        await virtual_clock.settle()
        assert drain.done()
        assert leaving.done()


# --- by subscription, or by topic and handler ---------------------------------------------------------
async def test_unsubscribe_removes_one() -> None:
    """Unsubscribing removes that subscription only; the others of the topic go on."""
    first, second = Collecting(), Collecting()
    async with running_bus() as bus:
        subscription = bus.subscribe(HAPPENED, first.collect)
        bus.subscribe(HAPPENED, second.collect)
        await bus.publish(HAPPENED, happened(1))
        await subscription.unsubscribe()
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
        await subscription.unsubscribe()
    assert first.numbers == [1]
    assert second.numbers == [1, 2]


async def test_unsubscribe_by_topic_and_handler() -> None:
    """By topic and handler, the subscriptions of that handler to that topic are removed, and no others."""
    first, second = Collecting(), Collecting()
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, first.collect)
        bus.subscribe(HAPPENED, first.collect, name="again")
        bus.subscribe(HAPPENED, second.collect)
        bus.subscribe("test.thing.*", first.collect, name="pattern")
        bus.subscribe(OTHER, first.collect)
        await bus.unsubscribe(HAPPENED, first.collect)
        await bus.publish(HAPPENED, happened(1))
        await bus.publish(OTHER, happened(2))
        await bus.drain()
        assert first.numbers == [1, 2]
        assert second.numbers == [1]
        await bus.unsubscribe("test.thing.*", first.collect)
        await bus.publish(HAPPENED.name, happened(3))
        await bus.drain()
    assert first.numbers == [1, 2]
    assert second.numbers == [1, 3]


@pytest.mark.parametrize("topic", [HAPPENED, OTHER, "test.#", "unknown.topic"])
async def test_unsubscribe_what_is_not_subscribed(topic: Any) -> None:
    """Unsubscribing a handler that is not subscribed to that topic is an error."""
    async with running_bus() as bus:
        bus.subscribe("test.*.happened", ignore)
        with pytest.raises(UnknownSubscription, match="no subscription of"):
            await bus.unsubscribe(topic, ignore)
        with pytest.raises(UnknownSubscription):
            await bus.unsubscribe("test.*.happened", Collecting().collect)


async def test_unsubscribe_before_start() -> None:
    """A subscription may be removed before the bus is started."""
    received, kept = Collecting(), Collecting()
    bus = make_bus()
    bus.subscribe(HAPPENED, received.collect)
    subscription = bus.subscribe(HAPPENED, received.collect, name="again")
    bus.subscribe(HAPPENED, kept.collect)
    await subscription.unsubscribe()
    await bus.unsubscribe(HAPPENED, received.collect)
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
    assert (received.numbers, kept.numbers) == ([], [1])


async def test_unsubscribe_finishes_what_was_accepted() -> None:
    """Unsubscribing waits until the accepted events of the subscription are settled, and of no other."""
    release, elsewhere = asyncio.Event(), asyncio.Event()
    numbers: list[int] = []

    async def slow(event: Happened) -> None:
        await release.wait()
        numbers.append(event.number)

    async def stuck(event: Happened) -> None:
        await elsewhere.wait()

    async with running_bus(worker_pool_size=2) as bus:
        subscription = bus.subscribe(HAPPENED, slow, concurrency=1)
        bus.subscribe(OTHER, stuck)
        await bus.publish(OTHER, happened())
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        leaving = asyncio.create_task(subscription.unsubscribe())
        await until(lambda: bus.subscriptions == () or len(bus.subscriptions) == 1)
        await bus.publish(HAPPENED, happened(99))
        assert not leaving.done()
        release.set()
        await leaving
        assert numbers == [0, 1, 2]
        elsewhere.set()


async def test_unsubscribe_waits_for_retries() -> None:
    """Retries of the subscription count as not settled."""
    attempts: list[int] = []

    async def fails_twice(event: Happened, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt < 3:
            raise ValueError

    async with running_bus() as bus:
        subscription = bus.subscribe(HAPPENED, fails_twice, retry=FixedRetry(attempts=3, delay=0.001))
        await bus.publish(HAPPENED, happened())
        await subscription.unsubscribe()
        assert attempts == [1, 2, 3]
        assert bus.state().unsettled == 0


async def test_unsubscribe_in_its_own_handler() -> None:
    """A handler may unsubscribe itself: waiting would be waiting for itself, so it returns at once."""
    numbers: list[int] = []
    async with running_bus() as bus:

        async def once(event: Happened) -> None:
            numbers.append(event.number)
            await bus.unsubscribe(HAPPENED, once)

        bus.subscribe(HAPPENED, once)
        await bus.publish(HAPPENED, happened(1))
        await until(lambda: numbers)
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
    assert numbers == [1]


async def test_unsubscribe_twice_at_once() -> None:
    """Both of two calls at the same time return when the subscription has left."""
    release = asyncio.Event()

    async def slow(event: Happened) -> None:
        await release.wait()

    async with running_bus() as bus:
        subscription = bus.subscribe(HAPPENED, slow)
        await bus.publish(HAPPENED, happened())
        leaving = [asyncio.create_task(subscription.unsubscribe()) for _ in range(2)]
        await until(lambda: not bus.subscriptions)
        assert not any(task.done() for task in leaving)
        release.set()
        await asyncio.gather(*leaving)


async def test_a_cancelled_unsubscribe_goes_on() -> None:
    """A caller of unsubscribe may be cancelled: every subscription of the handler leaves all the same."""
    release = asyncio.Event()
    numbers: list[int] = []

    async def slow(event: Happened) -> None:
        await release.wait()
        numbers.append(event.number)

    async with running_bus() as bus:
        bus.subscribe(HAPPENED, slow, name="one")
        bus.subscribe(HAPPENED, slow, name="two")
        await bus.publish(HAPPENED, happened(1))
        leaving = asyncio.create_task(bus.unsubscribe(HAPPENED, slow))
        await until(lambda: bus.state().running_handlers == 2)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert bus.subscriptions == ()
        release.set()
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
    assert numbers == [1, 1]


async def test_unsubscribe_after_close() -> None:
    """A subscription of a closed bus has left already: its counters keep their last values."""
    bus = make_bus()
    subscription = bus.subscribe(HAPPENED, ignore)
    async with bus:
        await bus.publish(HAPPENED, happened(1))
    await subscription.unsubscribe()
    assert subscription.state.handled == 1


@pytest.mark.parametrize("happens", ["its topic is declared", "many other topics are used"])
async def test_an_event_that_waits_for_room_does_not_reach_who_left(happens: str) -> None:
    """A waiting event reaches its remaining subscriptions when there is room."""
    own, others, staying, leaving = asyncio.Event(), asyncio.Event(), Collecting(), Collecting()
    options: dict[str, Any] = {"buffer_size": 1, "strict_topics": False, "memory": {"hub": MemoryHub()}}
    full = Topic("test.full", Happened), Topic("test.full.too", Happened)
    async with running_bus(**options) as bus, running_bus(**options) as other:

        async def hold(_event: Happened) -> None:
            await own.wait()

        async def hold_others(_event: Happened) -> None:
            await others.wait()

        bus.subscribe(full[0], hold)
        other.subscribe(full[1], hold_others)
        subscription = bus.subscribe("test.free", leaving.collect, name="leaving")
        bus.subscribe("test.free", staying.collect, name="staying")
        other.subscribe("test.free", ignore)
        for topic in full:
            await bus.publish(topic, happened())
        publishing = [asyncio.create_task(bus.publish("test.free", happened(1)))]
        await until(lambda: other.state().waiting_publishers == 1)
        if happens == "its topic is declared":
            publishing.append(asyncio.create_task(bus.publish(Topic("test.free", Happened), happened(2))))
            await until(lambda: other.state().waiting_publishers == 2)
        else:
            for number in range(1000):
                await bus.publish(f"test.other{number}", happened())
        others.set()
        await until(lambda: bus.state().waiting_publishers == len(publishing))
        await subscription.unsubscribe()
        own.set()
        await asyncio.gather(*publishing)
        await bus.drain()
    assert sorted(staying.numbers) == [1, 2][: len(publishing)]
    assert leaving.numbers == []


async def test_unsubscribing_while_events_of_other_topics_flow() -> None:
    """Subscribing to a topic or pattern, and leaving it, counts from the next event on."""
    exact, pattern, other = Collecting(), Collecting(), Collecting()
    async with running_bus() as bus:
        bus.subscribe(OTHER, other.collect)

        async def publish(number: int) -> None:
            for topic in (HAPPENED, OTHER):
                await bus.publish(topic, happened(number))

        await publish(0)
        by_name = bus.subscribe(HAPPENED, exact.collect)
        await publish(1)
        by_pattern = bus.subscribe("test.thing.#", pattern.collect, name="pattern")
        await publish(2)
        await by_name.unsubscribe()
        await publish(3)
        await by_pattern.unsubscribe()
        await publish(4)
        await bus.drain()
    assert exact.numbers == [1, 2]
    assert other.numbers == [0, 1, 2, 3, 4]
    assert pattern.numbers == [2, 3]
