"""Contract tests of ordering: events with the same key are handled one after the other."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from uuid import UUID, uuid4

import pytest

from bus_core import DeadLetterFilter, FixedRetry, PermanentError, Postpone, RetryLater, Topic
from promenade_bus_testing.contract.checks import assert_in_order, assert_once
from promenade_bus_testing.contract.events import OTHER, THING, Happened, happened
from promenade_bus_testing.contract.harness import FAR, Act, Call, Harness, Listener
from promenade_bus_testing.contract.running import contract

__all__ = ["OrderingTests"]


class Overlaps:
    """A handler that yields a few times, and counts handlers running at the same time for its key."""

    def __init__(self, then: Act | None = None) -> None:
        self._running: Counter[UUID] = Counter()
        self._then = then
        self._chance = random.Random(7)
        self.overlaps = 0

    async def __call__(self, call: Call) -> None:
        key = call.event.aggregate_id
        self._running[key] += 1
        self.overlaps += self._running[key] > 1
        try:
            for _ in range(self._chance.randrange(4)):
                await asyncio.sleep(0)
            if self._then is not None:
                acting = self._then(call)
                if acting is not None:
                    await acting
        finally:
            self._running[key] -= 1


def assert_firsts_in_order(listener: Listener) -> None:
    """Fails unless the first attempts of each key are in order, and no event overtakes another."""
    assert_in_order([call.event for call in listener.calls if call.attempt == 1])
    current: dict[UUID, int] = {}
    for call in listener.calls:
        key = call.event.aggregate_id
        assert call.number >= current.get(key, -1), f"{call.number} of {key} ran after {current[key]}"
        current[key] = call.number


class OrderingTests:
    """Order per key."""

    @contract("ordered")
    async def test_order_of_one_key(self, harness: Harness) -> None:
        """Events with the same key are handled in the order of publishing, one at a time."""
        bus = await harness.bus()
        act = Overlaps()
        listener = await harness.listen(bus, act=act, ordered=True)
        await harness.publish(bus, *range(100), key=uuid4())
        await harness.until(lambda: len(listener.done) >= 100, "all events are handled")
        await harness.drain()
        assert listener.numbers == [*range(100)]
        assert act.overlaps == 0

    @contract("ordered")
    async def test_order_under_concurrency(self, harness: Harness) -> None:
        """With many publishers and many keys, each key keeps its order, and no event is lost."""
        keys, each = 20, harness.scale(25, 1_000)
        bus = await harness.bus(worker_pool_size=8, buffer_size=50)
        act = Overlaps()
        listener = await harness.listen(bus, act=act, ordered=True)
        beside = await harness.listen(bus, name="beside", plain=True)

        async def publish_key(first: int) -> None:
            key = uuid4()
            for number in range(first, first + each):
                await bus.publish(THING, happened(number, key))
                harness.progress += 1

        async def publish_all() -> None:
            await asyncio.gather(*(publish_key(index * each) for index in range(keys)))

        await harness.finish(publish_all(), "all events are published")
        await harness.until(lambda: len(listener.done) >= keys * each, "all events are handled")
        await harness.drain()
        assert_once(listener.numbers, range(keys * each))
        assert_once(beside.numbers, range(keys * each), "a subscription without order")
        assert_in_order(listener.events)
        assert act.overlaps == 0

    @contract("ordered")
    async def test_order_under_retry(self, harness: Harness) -> None:
        """While events of many keys fail and are retried, no event overtakes another of its key."""
        keys, each = 10, harness.scale(20, 500)
        bus = await harness.bus(worker_pool_size=4)

        def fail_some(call: Call) -> None:
            match call.number % 7:
                case 1 if call.attempt == 1:
                    raise ValueError("once")
                case 3 if call.attempt < 3:
                    raise RetryLater(after=0.5)
                case 5:
                    raise ValueError("always")
                case 6:
                    raise PermanentError("never")
                case _:
                    pass

        act = Overlaps(fail_some)
        listener = await harness.listen(bus, act=act, ordered=True)
        names = [uuid4() for _ in range(keys)]

        async def publish_all() -> None:
            for number in range(keys * each):
                await bus.publish(THING, happened(number, names[number % keys]))
                harness.progress += 1

        await harness.finish(publish_all(), "all events are published")
        await harness.drain()
        bad = {number for number in range(keys * each) if number % 7 in (5, 6)}
        assert_once(listener.done, {*range(keys * each)} - bad)
        assert_firsts_in_order(listener)
        assert act.overlaps == 0
        assert len(await bus.dead_letters.list(limit=keys * each)) == len(bad)

    @contract("ordered")
    @pytest.mark.parametrize("how", ["raise", "retry later", "postpone"])
    async def test_key_waits_for_its_retry(self, harness: Harness, how: str) -> None:
        """While an event waits for its retry, later events of its key wait, and no others."""
        errors = {
            "raise": ValueError("no"),
            "retry later": RetryLater(after=3),
            "postpone": Postpone(after=3),
        }
        bus = await harness.bus()
        others = harness.gate()

        async def fail_first(call: Call) -> None:
            if {10, 11} <= {*listener.numbers}:
                others.set()
            if call.number == 0 and listener.numbers.count(0) == 1:
                await others.wait()
                raise errors[how]

        listener = await harness.listen(
            bus, act=fail_first, ordered=True, retry=FixedRetry(attempts=3, delay=3)
        )
        await harness.publish(bus, 0, 1, 2, key=uuid4())
        await harness.publish(bus, 10, 11)
        await harness.until(lambda: 1 in listener.numbers, "the key goes on")
        await harness.drain()
        attempt = 1 if how == "postpone" else 2
        assert [pair for pair in listener.attempts if pair[0] < 10] == [(0, 1), (0, attempt), (1, 1), (2, 1)]
        times = {call.number: call.at for call in listener.calls}
        assert times[1] - max(times[10], times[11]) == pytest.approx(3)

    @contract("ordered")
    async def test_other_keys_run_meanwhile(self, harness: Harness) -> None:
        """While one key is blocked by its handler, every other key goes on."""
        bus = await harness.bus(worker_pool_size=3)
        gate, slow = harness.gate(), uuid4()

        async def hold_up(call: Call) -> None:
            if call.event.aggregate_id == slow:
                await gate.wait()

        listener = await harness.listen(bus, act=hold_up, ordered=True)
        await harness.publish(bus, 0, 1, 2, key=slow)
        await harness.publish(bus, *range(10, 30))
        await harness.until(lambda: len(listener.done) >= 20, "all other keys are handled")
        assert listener.numbers.count(0) == 1
        assert not {1, 2} & {*listener.numbers}
        gate.set()
        await harness.until(lambda: len(listener.done) >= 23, "the key goes on")
        assert [number for number in listener.done if number < 10] == [0, 1, 2]

    @contract("ordered")
    async def test_dead_letter_frees_its_key(self, harness: Harness) -> None:
        """When an event is dead-lettered, the next event of its key is handled."""
        bus = await harness.bus()

        def fail(call: Call) -> None:
            if call.number == 0:
                raise ValueError("no")
            if call.number == 1:
                raise PermanentError("never")

        listener = await harness.listen(bus, act=fail, ordered=True)
        await harness.publish(bus, 0, 1, 2, 3, key=uuid4())
        await harness.drain()
        assert listener.numbers == [0, 0, 0, 1, 2, 3]
        assert listener.done == [2, 3]

    @contract("ordered")
    async def test_skipped_event_frees_its_key(self, harness: Harness) -> None:
        """An event that ``where`` rejects does not block its key."""
        bus = await harness.bus()
        listener = await harness.listen(bus, ordered=True, where=lambda event: event.number % 2 == 0)
        await harness.publish(bus, *range(6), key=uuid4())
        await harness.until(lambda: len(listener.done) >= 3, "the selected events are handled")
        await harness.drain()
        assert listener.done == [0, 2, 4]

    @contract("ordered")
    async def test_order_through_pauses(self, harness: Harness) -> None:
        """Pausing and resuming at any time neither changes the order of a key nor loses an event."""
        bus = await harness.bus(worker_pool_size=4)
        act = Overlaps()
        listener = await harness.listen(bus, act=act, ordered=True)
        chance = random.Random(3)
        keys = [uuid4() for _ in range(3)]
        for number in range(150):
            await harness.publish(bus, number, key=keys[number % 3])
            if chance.random() < 0.2:
                listener.subscription.pause()
            if chance.random() < 0.3:
                listener.subscription.resume()
        listener.subscription.resume()
        await harness.until(lambda: len(listener.done) >= 150, "all events are handled")
        await harness.drain()
        assert_once(listener.numbers, range(150))
        assert_in_order(listener.events)
        assert act.overlaps == 0

    @contract("ordered")
    async def test_redriven_event_takes_its_turn(self, harness: Harness) -> None:
        """A redriven event never runs at the same time as another event of its key."""
        bus = await harness.bus()
        broken, key = True, uuid4()

        def fail_first(call: Call) -> None:
            if call.number == 0 and broken:
                raise PermanentError("never")

        act = Overlaps(fail_first)
        listener = await harness.listen(bus, act=act, ordered=True)
        await harness.publish(bus, 0, 1, 2, key=key)
        await harness.drain()
        broken = False
        assert await bus.dead_letters.redrive(DeadLetterFilter()) == 1
        await harness.publish(bus, 3, 4, 5, key=key)
        await harness.drain()
        assert_once(listener.done, range(6))
        assert [number for number in listener.done if number] == [1, 2, 3, 4, 5]
        assert act.overlaps == 0

    @contract("ordered")
    async def test_key_of_the_topic(self, harness: Harness) -> None:
        """The topic's ``key`` function defines the ordering key."""
        topic = Topic("contract.keyed.happened", Happened, key=lambda event: str(event.number % 2))
        bus = await harness.bus()
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        listener = await harness.listen(bus, topic, act=wait, ordered=True)
        await harness.publish(bus, *range(8), topic=topic)
        await harness.until(lambda: len(listener.calls) >= 2, "both keys have begun")
        await harness.advance(1)
        assert sorted(listener.numbers) == [0, 1]
        gate.set()
        await harness.drain()
        for parity in (0, 1):
            numbers = [number for number in listener.done if number % 2 == parity]
            assert numbers == [*range(parity, 8, 2)]

    @contract("ordered")
    async def test_orders_are_apart(self, harness: Harness) -> None:
        """Each ordered subscription has its own order: a blocked one does not block others."""
        bus = await harness.bus()
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        await harness.listen(bus, name="slow", act=wait, ordered=True, retry=FixedRetry(delay=FAR))
        fast = await harness.listen(bus, name="fast", ordered=True)
        other = await harness.listen(bus, OTHER, "other", ordered=True)
        key = uuid4()
        await harness.publish(bus, *range(5), key=key)
        await harness.publish(bus, *range(5), key=key, topic=OTHER)
        await harness.until(lambda: len(fast.done) + len(other.done) >= 10, "the others go on")
        assert fast.done == other.done == [*range(5)]

    @contract("ordered", "groups")
    async def test_order_over_instances(self, harness: Harness) -> None:
        """When several instances of an ordered subscription compete, the order of each key holds over all."""
        buses = [await harness.bus() for _ in range(3)]
        act = Overlaps()
        listeners = [await harness.listen(bus, name="ordered", act=act, ordered=True) for bus in buses]
        begun: list[Happened] = []
        for listener in listeners:
            listener.act = _noting(begun, act)
        keys = [uuid4() for _ in range(4)]

        async def publish_all() -> None:
            for number in range(120):
                await buses[number // 40].publish(THING, happened(number, keys[number % 4]))

        await harness.finish(publish_all(), "all events are published")
        await harness.until(lambda: len(begun) >= 120, "all events are handled")
        await harness.drain()
        assert_once([event.number for event in begun], range(120), "all instances together")
        assert_in_order(begun)
        assert act.overlaps == 0


def _noting(begun: list[Happened], act: Overlaps) -> Act:
    async def note(call: Call) -> None:
        begun.append(call.event)
        await act(call)

    return note
