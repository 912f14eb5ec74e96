"""One bad thing harms itself only: one caller of a batch, one entry of a stream, one topic of a pattern."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    DeadLetterFilter,
    DeadLetterNotFound,
    Outcome,
    SerializationError,
    UnknownSubscription,
)
from promenade_bus_redis.server.failures import Kind, RedisFailure
from redis_support.fixtures import SharedServer
from redis_support.streams import GROUP, TOPIC, acks, buried, message, numbers, place_on, receive, spec, until

pytestmark = pytest.mark.timeout(60)

FORGED = "1\n2026-01-01 00:00:00,000 CRITICAL auth root logged in from 6.6.6.6\x1b[2J"
GOOD = '{"specversion": "1.0", "id": "1", "data": {"number": 7}}'

STRANGE: dict[str, dict[Any, Any]] = {
    "a forged id": {"id": FORGED, "body": "x"},
    "a forged key": {"key": FORGED, "body": "x"},
    "a forged field": {FORGED: "x"},
    "an id of bytes": {"id": b"\xff\n", "body": "x"},
    "no body": {"data": "x"},
    "an empty body": {"id": "1", "key": "k", "body": ""},
    "headers that are none": {"headers": "[1]", "body": GOOD},
    "headers of numbers": {"headers": '{"a": 1}', "body": GOOD},
    "headers that are no text": {"headers": '{"a": "\\ud800"}', "body": GOOD},
    "a state that is none": {"state": "x", "body": GOOD},
    "too many attempts": {"state": f"{10**30} 0", "body": GOOD},
    "attempts below zero": {"state": "-7 0", "body": GOOD},
    "a time that is none": {"published": "yesterday", "body": GOOD},
    "a time that cannot be": {"published": "9" * 40, "body": GOOD},
    "a body that goes on for ever": {"body": "[" * 50_000},
}


async def test_a_strange_entry_harms_itself(
    redis_server: SharedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Any foreign entry becomes a dead letter; its neighbours are handled, and no line is forged."""
    async with place_on(redis_server) as place:
        handled: list[int] = []

        async def handle(event: BaseEvent) -> None:
            handled.append(event.data["number"])

        async with place.bus(bus={"retry": {"policy": "none"}}) as bus:
            await bus.subscribe(TOPIC, handle, name="listener").ready()
            for number, fields in enumerate(STRANGE.values()):
                await bus.publish(TOPIC, BaseEvent("thing.happened", uuid4(), data={"number": number}))
                with place.server.client() as client:
                    client.xadd(place.keys.stream(TOPIC), fields)
            await bus.drain()
            assert handled == [*range(len(STRANGE))]
            letters = await bus.dead_letters.list(limit=100)
            assert len(letters) == len(STRANGE)
            assert bus.state().lost == 0
        caplog.handler.setFormatter(logging.Formatter("%(message)s"))
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) >= len(STRANGE)
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("moment", ["1-1", "9999999999999999-0", "18446744073709551614-5"])
async def test_a_strange_id_harms_itself(redis_server: SharedServer, moment: str) -> None:
    """An entry with an id that is no time of day is handled, by groups and broadcast subscriptions."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(topic_refresh="20ms")
        each = await adapter.open_consumer(spec(mode="broadcast", name="each"))
        group = await adapter.open_consumer(spec())
        place.ask("XADD", place.keys.stream(TOPIC), moment, "body", GOOD)
        for consumer in (group,) if moment == "1-1" else (group, each):
            batch = await receive(consumer, 1)
            assert numbers(batch) == [7]
            await consumer.settle(acks(batch))
        reports = await adapter.groups.list(count=True)
        assert [report.backlog for report in reports] == [0]
        for consumer in (group, each):
            await consumer.close()


async def test_a_bad_caller_harms_itself(redis_server: SharedServer) -> None:
    """Of callers whose events share a batch only the one whose headers cannot be sent is told so."""
    async with place_on(redis_server) as place, place.bus() as bus:

        def publish(headers: Any = None) -> Any:
            return bus.publish(TOPIC, BaseEvent("thing.happened", uuid4()), headers=headers)

        calls = [publish({"a": "\ud800"} if number == 50 else None) for number in range(100)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [each for each in results if each is not None] == [results[50]]
        assert isinstance(results[50], SerializationError)
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 99


OTHER = "tests.other.happened"


@pytest.mark.parametrize("mode", ["group", "broadcast"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("others", [0, 5])
async def test_a_strange_topic_harms_itself(
    redis_server: SharedServer, mode: Any, when: str, others: int
) -> None:
    """A pattern goes on without a topic whose key somebody uses for something else, and takes it up again."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(topic_refresh="40ms", block="50ms")
        strange = place.keys.stream(OTHER)
        taken = [await adapter.open_consumer(spec(name=f"other{number}")) for number in range(others)]
        if when == "before":
            await place.publish(0)
            place.ask("SADD", place.keys.topics, OTHER)
            place.ask("SET", strange, "mine")
        else:
            await place.publish(0, topic=OTHER)
        consumer: Any = await adapter.open_consumer(spec("tests.#", mode=mode))
        if when == "meanwhile":
            await asyncio.gather(consumer.receive(1), return_exceptions=True)
            await until(lambda: OTHER in consumer.feeds, "it was told of all topics")
            place.ask("SET", strange, "mine")
        await place.publish(1)
        heard: list[int] = []
        async with asyncio.timeout(20):
            while 1 not in heard:
                batch = await consumer.receive(10)
                heard += numbers(batch)
                await consumer.settle(acks(batch))
            while not adapter._losses.strange_topics:
                await consumer.receive(1)
        assert f"keys of {OTHER} have foreign data" in (adapter.degraded or "")
        assert await adapter.backlog(spec("tests.#", mode=mode)) == 0
        place.ask("DEL", strange)
        async with asyncio.timeout(20):
            while 2 not in heard:
                await adapter.publish([message(2, OTHER)])
                batch = await consumer.receive(10)
                heard += numbers(batch)
                await consumer.settle(acks(batch))
        await until(lambda: not adapter._losses.strange_topics, "all is well again")
        for each in (consumer, *taken):
            await each.close()


async def test_what_is_held_of_a_strange_topic(redis_server: SharedServer) -> None:
    """A returned message that is being handled when its topic is left out is not handed out twice."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(topic_refresh="40ms", block="50ms")
        consumer: Any = await adapter.open_consumer(spec("tests.#"))
        await place.publish(1, topic=OTHER)
        (first,) = await receive(consumer, 1)
        assert await consumer.settle([Outcome("release", first.receipt)]) == [None]
        (held,) = await receive(consumer, 1)
        strange = place.keys.stream(OTHER)
        place.ask("SET", strange, "mine")
        async with asyncio.timeout(10):
            while not adapter._losses.strange_topics:
                assert not await consumer.receive(1)
            place.ask("DEL", strange)
            while OTHER not in consumer.feeds or consumer.feeds[OTHER].claim_due:
                assert not await consumer.receive(1)
        assert not await consumer.receive(1)
        assert await consumer.settle(acks([held])) == [None]
        assert place.ask("XLEN", place.keys.inbox(OTHER, GROUP)) == 0
        await consumer.close()


async def test_a_strange_key_does_not_end_the_upkeep(redis_server: SharedServer) -> None:
    """A consumer leaves a topic although its key is foreign by now, and other work goes on."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(topic_refresh="40ms", block="50ms")
        consumer = await adapter.open_consumer(spec())
        place.ask("SET", place.keys.stream(TOPIC), "mine")
        await consumer.close()
        assert not adapter.upkeep._leaving
        pattern = await adapter.open_consumer(spec("tests.other.*"))

        async def refused(_now: float) -> None:
            raise RedisFailure(Kind.REFUSED, "the server")

        adapter.upkeep._leave_again = refused  # type: ignore[method-assign]
        place.ask("XADD", place.keys.stream(OTHER), "*", "body", GOOD)
        place.ask("SADD", place.keys.topics, OTHER)
        batch = await receive(pattern, 1)
        assert numbers(batch) == [7]
        await pattern.settle(acks(batch))
        await pattern.close()


async def test_one_topic_with_a_strange_key(redis_server: SharedServer) -> None:
    """A subscription to that topic alone gets the fault."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        place.ask("SET", place.keys.stream(OTHER), "mine")
        for mode in ("group", "broadcast"):
            with pytest.raises(RedisFailure, match="has data of another type at the key"):
                await adapter.open_consumer(spec(OTHER, name=mode, mode=mode))


async def test_a_strange_count_of_what_is_settled(redis_server: SharedServer) -> None:
    """Where losses could not be counted no group is made; health names it, and what was read is settled."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="50ms")
        consumer = await adapter.open_consumer(spec())
        await place.publish(1, 2)
        batch = await receive(consumer, 2)
        settled = place.keys.settled(TOPIC)
        place.ask("DEL", settled)
        place.ask("SET", settled, "mine")
        assert await consumer.settle([acks(batch)[0], buried(batch[1])]) == [None, None]
        with pytest.raises(RedisFailure, match="has data of another type at the key"):
            await adapter.open_consumer(spec(name="other"))
        assert [group[1] for group in place.ask("XINFO", "GROUPS", place.keys.stream(TOPIC))] == [GROUP]
        retention = adapter._retention
        assert retention is not None
        await until(lambda: retention._active_lock.is_taken, "it is its turn")
        retention._due = [(0.0, TOPIC)]
        await retention.visit()
        facts = str(place.ask("XINFO", "STREAM", place.keys.stream(TOPIC)))
        if "entries-added" in facts:  # Redis 6.2 tells too little to count losses
            assert f"keys of {TOPIC} have foreign data" in (adapter.degraded or "")
        place.ask("DEL", settled)
        place.ask("HSET", settled, GROUP, "no number")
        retention._due = [(0.0, TOPIC)]
        await retention.visit()
        assert adapter.degraded is None
        await consumer.close()


@pytest.mark.parametrize("strange", ["stream", "settled", "inbox", "parked"])
async def test_a_group_beside_a_strange_key_is_forgotten(redis_server: SharedServer, strange: str) -> None:
    """Its entries in other places of the topic go with it."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(3))
        released, parked, noted = [each.receipt for each in await receive(consumer, 3)]
        outcomes = [
            Outcome("release", released),
            Outcome("retry", parked, 600.0, 2),
            Outcome("hold", noted, 0.0, 2),
        ]
        assert await consumer.settle(outcomes) == [None] * 3
        await consumer.close()
        keys = place.keys
        own = {
            "inbox": keys.inbox(TOPIC, GROUP),
            "parked": keys.parked(TOPIC, GROUP),
            "notes": keys.notes(TOPIC, GROUP),
        }
        assert place.ask("EXISTS", *own.values()) == 3
        others = {"stream": keys.stream(TOPIC), "settled": keys.settled(TOPIC)}
        place.ask("DEL", {**own, **others}[strange])
        place.ask("SET", {**own, **others}[strange], "mine")
        await adapter.groups.forget(GROUP, force=True)
        assert place.ask("EXISTS", *own.values()) == 0
        if strange != "stream":
            assert place.ask("XINFO", "GROUPS", keys.stream(TOPIC)) == []


async def test_strange_names_among_the_topics(
    redis_server: SharedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Names that are no topics are left alone, and told once."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(topic_refresh="20ms")
        place.ask("SADD", place.keys.topics, FORGED, b"\xff", "", "tests.*.happened", "a}b{c", "x" * 1_000)
        consumer = await adapter.open_consumer(spec("#"))
        await place.publish(1)
        batch = await receive(consumer, 1)
        await consumer.settle(acks(batch))
        assert await adapter.backlog(spec("#")) == 0
        assert await adapter._running.registry.refresh() == {TOPIC}
        assert caplog.text.count("among the topics") == 1
        await consumer.close()


async def test_a_strange_letter_harms_itself(redis_server: SharedServer) -> None:
    """Among dead letters there may be anything: the others are listed, redriven and purged all the same."""
    async with place_on(redis_server) as place:
        fails = True
        handled = asyncio.Event()

        async def handle(_event: BaseEvent) -> None:
            if fails:
                raise ValueError("no")
            handled.set()

        async with place.bus(bus={"retry": {"policy": "none"}}) as bus:
            await bus.subscribe(TOPIC, handle, name="listener").ready()
            dead = place.keys.dead(TOPIC)
            with place.server.client() as client:
                for fields in STRANGE.values():
                    client.xadd(
                        dead, {**fields, "history": "x\n[1]", "event_id": b"\xff", "dead_at": "9" * 40}
                    )
            await bus.publish(TOPIC, BaseEvent("thing.happened", uuid4()))
            await bus.drain()
            letters = await bus.dead_letters.list(limit=100)
            assert len(letters) == len(STRANGE) + 1
            (good,) = [letter for letter in letters if letter.subscription == "listener"]
            strange = next(letter for letter in letters if letter is not good)
            for absurd in (f"{TOPIC}/{10**19}-{10**19 * 9}", f"{TOPIC}/٣-٣", f"{TOPIC}/1-1", "", FORGED):
                with pytest.raises(DeadLetterNotFound):
                    await bus.dead_letters.get(absurd)
                assert await bus.dead_letters.redrive([absurd]) == 0
            with pytest.raises(UnknownSubscription):
                await bus.dead_letters.redrive([strange.id])
            fails = False
            assert await bus.dead_letters.redrive([f"{TOPIC}/{10**19 * 9}-1", good.id]) == 1
            async with asyncio.timeout(10):
                await handled.wait()
            assert await bus.dead_letters.purge(DeadLetterFilter()) == len(STRANGE)
