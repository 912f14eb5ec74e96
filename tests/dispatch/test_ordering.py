from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from bus_core import (
    DeadLetterFilter,
    Delivery,
    FixedRetry,
    NoRetry,
    PermanentError,
    Postpone,
    RetryLater,
    SerializationError,
    Topic,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, running_bus, state_of

pytestmark = pytest.mark.timeout(30)

either_way = pytest.mark.parametrize(
    "memory", [{"serialize": False}, {"serialize": True}], ids=["objects", "serialized"]
)


class Journal:
    """The events that began and ended, per key, and how many ran at once."""

    def __init__(self) -> None:
        self.begun: dict[UUID, list[int]] = defaultdict(list)
        self.done: dict[UUID, list[int]] = defaultdict(list)
        self.running: dict[UUID, int] = defaultdict(int)
        self.overlaps = 0
        self.most_at_once = 0

    def begin(self, event: Happened) -> None:
        key = event.aggregate_id
        self.begun[key].append(event.number)
        self.running[key] += 1
        self.overlaps += self.running[key] > 1
        self.most_at_once = max(self.most_at_once, sum(self.running.values()))

    def end(self, event: Happened) -> None:
        self.running[event.aggregate_id] -= 1
        self.done[event.aggregate_id].append(event.number)


@either_way
async def test_one_key_at_a_time(virtual_clock: VirtualClock, memory: Mapping[str, Any]) -> None:
    """Events of one key run one after the other in the order of publishing, however long each takes."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        journal = Journal()
        chance = random.Random(1)

        async def handle(event: Happened) -> None:
            journal.begin(event)
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            journal.end(event)

        bus.subscribe(HAPPENED, handle, ordered=True)
        keys = [uuid4() for _ in range(5)]
        for number in range(200):
            await bus.publish(HAPPENED, happened(number, keys[chance.randrange(5)]))
        await bus.drain()
        assert journal.overlaps == 0
        assert sum(map(len, journal.done.values())) == 200
        assert all(numbers == sorted(numbers) for numbers in journal.done.values())
        assert journal.most_at_once == 5


async def test_other_keys_run_in_parallel(virtual_clock: VirtualClock) -> None:
    """While one key is held up, every other key goes on."""
    async with running_bus(virtual_clock, worker_pool_size=3) as bus:
        gate = asyncio.Event()
        numbers: list[int] = []
        slow = uuid4()

        async def handle(event: Happened) -> None:
            if event.aggregate_id == slow:
                await gate.wait()
            numbers.append(event.number)

        bus.subscribe(HAPPENED, handle, ordered=True)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number, slow))
        for number in range(10, 30):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert numbers == [*range(10, 30)]
        assert bus.state().running_handlers == 1
        gate.set()
        await virtual_clock.settle()
        assert numbers[20:] == [0, 1, 2, 3, 4]


@either_way
@pytest.mark.parametrize("error", [ValueError("no"), RetryLater(after=5), Postpone(after=5)], ids=repr)
async def test_a_key_waits_for_its_retry(
    virtual_clock: VirtualClock, memory: Mapping[str, Any], error: Exception
) -> None:
    """While an event waits for its retry or is postponed, the later ones of its key wait, and no others."""
    async with running_bus(virtual_clock, memory=memory, worker_pool_size=1) as bus:
        seen: list[tuple[int, int]] = []
        failing = True

        async def handle(event: Happened, delivery: Delivery) -> None:
            seen.append((event.number, delivery.attempt))
            if event.number == 0 and failing:
                raise error

        bus.subscribe(HAPPENED, handle, ordered=True, retry=FixedRetry(attempts=3, delay=5))
        key = uuid4()
        for number in range(3):
            await bus.publish(HAPPENED, happened(number, key))
        await bus.publish(HAPPENED, happened(10))
        await virtual_clock.advance(4)
        assert seen == [(0, 1), (10, 1)]
        failing = False
        await virtual_clock.advance(1)
        second = 1 if isinstance(error, Postpone) else 2
        assert seen == [(0, 1), (10, 1), (0, second), (1, 1), (2, 1)]


@either_way
async def test_a_dead_letter_frees_its_key(virtual_clock: VirtualClock, memory: Mapping[str, Any]) -> None:
    """When an event of a key is given up, the next one of the key runs."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        seen: list[int] = []

        async def handle(event: Happened) -> None:
            seen.append(event.number)
            if event.number == 0:
                raise ValueError("no")
            if event.number == 1:
                raise PermanentError("never")

        bus.subscribe(HAPPENED, handle, ordered=True)
        key = uuid4()
        for number in range(4):
            await bus.publish(HAPPENED, happened(number, key))
        await virtual_clock.advance(0.2)
        assert seen == [0, 0]
        await virtual_clock.advance(0.2)
        assert seen == [0, 0, 0, 1, 2, 3]
        assert (state_of(bus).dead_lettered, bus.state().unsettled) == (2, 0)


async def test_a_skipped_event_frees_its_key(virtual_clock: VirtualClock) -> None:
    """An event that ``where`` refuses frees its key."""
    async with running_bus(virtual_clock) as bus:
        seen: list[int] = []

        async def handle(event: Happened) -> None:
            seen.append(event.number)

        bus.subscribe(HAPPENED, handle, ordered=True, where=lambda event: event.number % 2 == 0)
        key = uuid4()
        for number in range(6):
            await bus.publish(HAPPENED, happened(number, key))
        await virtual_clock.settle()
        assert seen == [0, 2, 4]
        state = state_of(bus)
        assert (state.handled, state.skipped, bus.state().unsettled) == (3, 3, 0)


async def test_a_redriven_event_takes_its_turn(virtual_clock: VirtualClock) -> None:
    """A redriven event waits behind others of its key, and never runs beside them."""
    async with running_bus(virtual_clock) as bus:
        journal = Journal()
        gate = asyncio.Event()
        failing = True

        async def handle(event: Happened) -> None:
            journal.begin(event)
            try:
                if event.number == 0 and failing:
                    raise PermanentError("never")
                await gate.wait()
            finally:
                journal.end(event)

        bus.subscribe(HAPPENED, handle, ordered=True)
        key = uuid4()
        for number in range(3):
            await bus.publish(HAPPENED, happened(number, key))
        await virtual_clock.settle()
        failing = False
        assert await bus.dead_letters.redrive(DeadLetterFilter()) == 1
        await virtual_clock.settle()
        assert journal.begun[key] == [0, 1]
        gate.set()
        await virtual_clock.settle()
        assert journal.done[key] == [0, 1, 2, 0]
        assert journal.overlaps == 0


async def test_key_of_the_topic(virtual_clock: VirtualClock) -> None:
    """The key function of the topic decides what is ordered, and other topics of a pattern have their own."""
    topic = Topic("test.keyed.happened", Happened, key=lambda event: str(event.number % 2))
    async with running_bus(virtual_clock) as bus:
        running: dict[str, int] = defaultdict(int)
        gate = asyncio.Event()

        async def handle(event: Happened, delivery: Delivery) -> None:
            running[delivery.topic] += 1
            await gate.wait()

        bus.subscribe("test.#", handle, ordered=True)
        for number in range(8):
            await bus.publish(topic, happened(number))
        await virtual_clock.settle()
        assert running == {topic.name: 2}
        gate.set()
        await virtual_clock.settle()
        assert running == {topic.name: 8}


def broken(event: Happened) -> str:
    raise ValueError("no key")


@pytest.mark.parametrize("key", [broken, lambda event: event.number], ids=["raises", "no text"])
async def test_key_function_that_fails(virtual_clock: VirtualClock, key: Any) -> None:
    """A key function that fails is the publisher's error: no subscription gets the event."""
    topic = Topic("test.keyed.happened", Happened, key=key)
    async with running_bus(virtual_clock) as bus:
        seen: list[int] = []

        async def handle(event: Happened) -> None:
            seen.append(event.number)

        bus.subscribe(topic, handle, name="plain")
        bus.subscribe(topic, handle, name="ordered", ordered=True)
        bus.subscribe("test.#", handle, name="pattern", ordered=True)
        with pytest.raises(SerializationError, match="key function"):
            await bus.publish(topic, happened(1))
        await virtual_clock.settle()
        assert seen == []
        assert bus.state().unsettled == 0


@pytest.mark.parametrize("concurrency", [1, 2, 3])
async def test_bounded_and_ordered(virtual_clock: VirtualClock, concurrency: int) -> None:
    """With both, at most so many keys run at once, and no key waits for ever because another one is busy."""
    async with running_bus(virtual_clock) as bus:
        journal = Journal()
        order: list[int] = []

        async def handle(event: Happened) -> None:
            journal.begin(event)
            order.append(event.number)
            await asyncio.sleep(0)
            journal.end(event)

        bus.subscribe(HAPPENED, handle, ordered=True, concurrency=concurrency)
        busy = [uuid4() for _ in range(concurrency)]
        for number in range(30):
            await bus.publish(HAPPENED, happened(number, busy[number % concurrency]))
        await bus.publish(HAPPENED, happened(100))
        await bus.drain()
        assert journal.overlaps == 0
        assert journal.most_at_once == concurrency
        assert all(numbers == sorted(numbers) for numbers in journal.done.values())
        assert order.index(100) <= 2 * concurrency


async def test_pausing_keeps_the_order(virtual_clock: VirtualClock) -> None:
    """Pausing and resuming at any time changes neither the order of a key nor loses an event."""
    async with running_bus(virtual_clock) as bus:
        journal = Journal()
        chance = random.Random(2)

        async def handle(event: Happened) -> None:
            journal.begin(event)
            await asyncio.sleep(0)
            journal.end(event)
            if chance.random() < 0.1:
                raise RetryLater(after=0)

        subscription = bus.subscribe(
            HAPPENED, handle, ordered=True, concurrency=2, retry=FixedRetry(attempts=50)
        )
        keys = [uuid4() for _ in range(3)]
        for number in range(300):
            await bus.publish(HAPPENED, happened(number, keys[number % 3]))
            if chance.random() < 0.2:
                subscription.pause()
            if chance.random() < 0.2:
                await virtual_clock.advance(0)
            if chance.random() < 0.2:
                subscription.resume()
        subscription.resume()
        while bus.state().unsettled:
            await virtual_clock.advance(1)
        assert journal.overlaps == 0
        for key in keys:
            numbers = journal.done[key]
            assert all(later >= earlier for earlier, later in pairwise(numbers))
            assert len({*numbers}) == 100


async def test_nothing_is_kept_of_keys(virtual_clock: VirtualClock) -> None:
    """An ordered subscription keeps nothing of the keys that it is done with."""
    async with running_bus(virtual_clock) as bus:

        async def handle(event: Happened) -> None:
            if event.number % 3 == 0:
                raise ValueError("no")

        bus.subscribe(HAPPENED, handle, ordered=True, retry=NoRetry())
        for number in range(100):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        (lane,) = bus._subscriptions.lanes
        assert lane._held == {}


async def test_two_ordered_subscriptions_do_not_wait_for_each_other(virtual_clock: VirtualClock) -> None:
    """Each subscription has an order of its own."""
    async with running_bus(virtual_clock) as bus:
        gate = asyncio.Event()
        numbers: list[int] = []

        async def hold(event: Happened) -> None:
            await gate.wait()

        async def handle(event: Happened) -> None:
            numbers.append(event.number)

        bus.subscribe(HAPPENED, hold, ordered=True, name="slow")
        bus.subscribe(HAPPENED, handle, ordered=True, name="fast")
        bus.subscribe(OTHER, handle, ordered=True, name="other")
        key = uuid4()
        for number in range(5):
            await bus.publish(HAPPENED, happened(number, key))
            await bus.publish(OTHER, happened(number + 10, key))
        await virtual_clock.settle()
        assert sorted(numbers) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
        gate.set()
        await bus.drain()
