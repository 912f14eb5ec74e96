from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus_core import (
    Delivery,
    FixedRetry,
    Topic,
    UnknownSubscription,
)
from promenade_bus_memory import MemoryHub
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, until
from support.handlers import Collecting, ignore


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
    """Who waits for unsubscribe may be cancelled: every subscription of the handler has left all the same."""
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
    """A subscription of a closed bus has left already."""
    bus = make_bus()
    subscription = bus.subscribe(HAPPENED, ignore)
    async with bus:
        pass
    await subscription.unsubscribe()


@pytest.mark.parametrize("happens", ["its topic is declared", "many other topics are used"])
async def test_an_event_that_waits_for_room_does_not_reach_who_left(happens: str) -> None:
    """Whatever becomes of the route of an event that waits, it goes where it is to go when there is room."""
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
    """Who comes to a topic, or to a pattern over it, and who leaves, counts from the next event on."""
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
