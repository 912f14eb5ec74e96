from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from typing import Any
from uuid import uuid4

import pytest

from bus_core import Event, LeaseLost, Outcome, Topic, event
from bus_core.transport import pump
from promenade_bus_redis.streams.service_record import ServiceRecord
from redis_support.fixtures import SharedServer
from redis_support.streams import (
    TOPIC,
    acks,
    die,
    lose_touch,
    numbers,
    place_on,
    receive,
    spec,
    stand_still,
    until,
)

QUICK = {"lease": "600ms", "block": "200ms"}


async def test_one_instance_is_active(redis_server: SharedServer) -> None:
    """Of an ordered group one instance receives everything; another one follows at once when it leaves."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        one = await first.open_consumer(spec(ordered=True))
        await place.publish(1)
        assert one.longest_hold == math.inf
        batch = await receive(one, 1)
        other = await second.open_consumer(spec(ordered=True))
        await place.publish(2, 3)
        assert await other.receive(10) == []
        batch += await receive(one, 2)
        assert numbers(batch) == [1, 2, 3]
        await one.settle(acks(batch[:1]))
        one.stop()
        await one.settle([Outcome("release", each.receipt, attempt=each.attempt) for each in batch[1:]])
        await one.close()
        following = await receive(other, 2)
        assert [(each.attempt, each.redelivered) for each in following] == [(1, True)] * 2
        assert numbers(following) == [2, 3]
        await place.publish(4)
        assert numbers(await receive(other, 1)) == [4]
        await other.close()


async def test_take_over_keeps_the_order(redis_server: SharedServer) -> None:
    """The next owner receives pending messages of the dead, in order, before new ones."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        publisher = await place.adapter()
        one = await first.open_consumer(spec(ordered=True))
        await place.publish(*range(40))
        await receive(one, 40)
        place.adapters[0] = publisher
        await die(first)
        await place.publish(*range(40, 50))
        other = await second.open_consumer(spec(ordered=True))
        got: list[int] = []
        attempts: list[int] = []
        while len(got) < 50:
            batch = await receive(other, 1)
            batch += await other.receive(100) if len(got) + 1 < 50 and other._holdings.ready else []  # type: ignore[attr-defined]
            got += numbers(batch)
            attempts += [received.attempt for received in batch]
            assert await other.settle(acks(batch)) == [None] * len(batch)
        assert got == [*range(50)]
        assert attempts == [2] * 40 + [1] * 10
        assert await second.backlog(spec(ordered=True)) == 0
        await other.close()


async def test_a_zombie_reads_nothing(redis_server: SharedServer) -> None:
    """An instance that was active, and does not know that it is no more, is refused by the server."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        zombie = await first.open_consumer(spec(ordered=True))
        await place.publish(1)
        batch = await receive(zombie, 1)
        lose_touch(first)
        owner = await second.open_consumer(spec(ordered=True))
        (taken,) = await receive(owner, 1)
        assert taken.attempt == 2
        await place.publish(2)
        zombie._unread = dict.fromkeys(zombie.feeds.values())  # type: ignore[attr-defined]
        assert await zombie.receive(10) == []
        assert numbers(await receive(owner, 1)) == [2]
        await stand_still(first)
        (late,) = await zombie.settle(acks(batch))
        assert isinstance(late, LeaseLost)
        await zombie.close()
        await owner.close()


async def test_a_release_stays_here(redis_server: SharedServer) -> None:
    """A message that an active instance releases comes to it again, after the delay, with its attempts."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        consumer = await adapter.open_consumer(spec(ordered=True))
        await place.publish(1)
        (received,) = await receive(consumer, 1)
        assert await consumer.settle([Outcome("release", received.receipt, 0.1, 3)]) == [None]
        assert len(place.pending()) == 1
        (again,) = await receive(consumer, 1)
        assert (again.attempt, again.redelivered, numbers([again])) == (3, True, [1])
        await consumer.settle(acks([again]))
        assert await adapter.backlog(spec(ordered=True)) == 0
        await consumer.close()


async def test_order_over_many_instances(redis_server: SharedServer) -> None:
    """While instances come and go, events are received in their order, and each of them once."""
    async with place_on(redis_server) as place:
        publisher = await place.adapter()

        async def publish() -> None:
            for number in range(300):
                await place.publish(number)

        publishing = asyncio.ensure_future(publish())
        consumers = [await (await place.adapter(**QUICK)).open_consumer(spec(ordered=True)) for _ in range(4)]
        got: list[int] = []
        while consumers:
            batch = await consumers[0].receive(50)
            got += numbers(batch)
            await consumers[0].settle(acks(batch))
            if len(got) >= 300 or (batch and len(consumers) > 1 and len(got) > 60 * (5 - len(consumers))):
                await consumers.pop(0).close()
        await publishing
        assert got == [*range(300)]
        assert await publisher.backlog(spec(ordered=True)) == 0
        assert place.pending(TOPIC) == []


# --- one name in several places ---------------------------------------------------------------------------


async def test_one_name_on_two_topics(redis_server: SharedServer) -> None:
    """Ordered subscriptions of one name on two topics are both active, wherever they run."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        places = [(first, TOPIC), (first, "tests.thing.moved"), (second, "tests.other.*")]
        consumers = [await adapter.open_consumer(spec(topic, ordered=True)) for adapter, topic in places]
        for topic in (TOPIC, "tests.thing.moved", "tests.other.thing"):
            await place.publish(1, topic=topic)
        for consumer in consumers:
            assert await consumer.settle(acks(await receive(consumer, 1))) == [None]
        for consumer in consumers:
            await consumer.close()


async def test_order_that_is_over(redis_server: SharedServer) -> None:
    """An active ordered instance claims the messages of a dead unordered one."""
    async with place_on(redis_server) as place:
        old, new = await place.adapter(**QUICK), await place.adapter(**QUICK)
        place.adapters.insert(0, await place.adapter())
        ordered = await old.open_consumer(spec(ordered=True))
        await place.publish(1)
        await ordered.settle(acks(await receive(ordered, 1)))
        unordered = await new.open_consumer(spec())
        await until(lambda: new._running.leases.beats, "it has said that it lives")
        await place.publish(2)
        batch = await unordered.receive(1)
        while not batch:  # whichever of them reads it
            await ordered.settle(acks(await ordered.receive(1)))
            await place.publish(2)
            batch = await unordered.receive(1)
        place.adapters.remove(new)
        await die(new)
        assert numbers(await receive(ordered, 1)) == [2]
        await ordered.close()


async def test_patterns_that_overlap(redis_server: SharedServer) -> None:
    """When a new pattern covers what an old one does, the new code waits for the old, and not the reverse."""
    async with place_on(redis_server) as place:
        old, new, last = [await place.adapter(**QUICK) for _ in range(3)]
        place.adapters.insert(0, await place.adapter())
        before = await old.open_consumer(spec(ordered=True))
        after = await new.open_consumer(spec("tests.#", ordered=True))
        await until(lambda: old._running.leases.beats and new._running.leases.beats, "they live")
        await place.publish(1)
        assert await after.receive(10) == []
        held = await receive(before, 1)
        back = await last.open_consumer(spec(ordered=True))
        await before.settle(acks(held))
        await before.close()
        await place.publish(2)
        assert numbers(await receive(after, 1)) == [2]
        assert await back.receive(10) == []
        assert len(place.pending()) == 1
        await after.close()
        await place.publish(3)
        assert numbers(await receive(back, 2)) == [2, 3]
        await back.close()


async def test_many_ordered_subscriptions_begin_together(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscriptions that get their turn at the same time share the reads of who serves what."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="50ms")
        specs = [spec(f"tests.topic{number}", f"listener{number}", ordered=True) for number in range(50)]
        consumers = [await adapter.open_consumer(each) for each in specs]
        records, reads = adapter._running.records, 0
        read = records.read

        async def counting(alive: Collection[str]) -> ServiceRecord:
            nonlocal reads
            reads += 1
            return await read(alive)

        monkeypatch.setattr(records, "read", counting)
        await asyncio.gather(*(consumer.receive(1) for consumer in consumers))
        assert 1 <= reads <= 10
        await asyncio.gather(*(consumer.close() for consumer in consumers))


@event(type="thing.happened", version=1)
class Old(Event):
    """As the running instance knows it."""

    number: int


@event(type="thing.happened", version=2)
class New(Event):
    """As the instance knows it that is being deployed: the old one cannot read it."""

    number: str


@pytest.mark.parametrize("pattern", [TOPIC, "tests.#"])
async def test_newer_code_gets_its_turn(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """An active instance that cannot decode an event lets one that stands by have its turn, in order."""
    monkeypatch.setattr(pump, "_BETWEEN_YIELDS", 0.0)
    old_topic, new_topic = Topic(TOPIC, Old), Topic(TOPIC, New)
    key, other = uuid4(), uuid4()
    seen: list[tuple[str, object]] = []

    async def handle_old(event: Old) -> None:
        seen.append(("old", event.number))

    async def handle_new(event: New) -> None:
        seen.append(("new", event.number))

    async with place_on(redis_server) as place, place.bus(**QUICK) as old, place.bus(**QUICK) as new:
        await old.subscribe(old_topic, handle_old, name="listener", ordered=True).ready()
        await old.publish(old_topic, Old(aggregate_id=key, number=1))
        await until(lambda: seen, "it is handled")
        new.subscribe(new_topic if pattern == TOPIC else pattern, handle_new, name="listener", ordered=True)
        await new.publish_many([(new_topic, New(aggregate_id=key, number=str(n))) for n in range(2, 6)])
        await new.publish(new_topic, New(aggregate_id=other, number="6"))
        await until(lambda: len(seen) == 6, "all are handled", 20.0)
        of_key = [number for code, number in seen if code == "new" and number != "6"]
        assert of_key == ["2", "3", "4", "5"]
        assert await old.dead_letters.list() == []
        assert old.state().lost == new.state().lost == 0
        await new.drain()


async def test_who_is_alone_keeps_its_turn(redis_server: SharedServer) -> None:
    """Nobody stands by who serves something else, in another service, or has ended."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        consumer: Any = await adapter.open_consumer(spec(ordered=True))
        elsewhere = await place.adapter(**QUICK)
        others = [
            await elsewhere.open_consumer(spec(ordered=True, name="other")),
            await elsewhere.open_consumer(spec("tests.other.happened", ordered=True)),
        ]
        gone = await elsewhere.open_consumer(spec(ordered=True))
        assert await consumer.has_standby()
        await gone.close()
        assert not await consumer.has_standby()
        for each in (consumer, *others):
            await each.close()
