from __future__ import annotations

import logging
from typing import Any

import pytest

from bus_core import Outcome
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.retention import Retention
from promenade_bus_redis.streams.service_record import Demand
from redis_support.binaries import ServerBinary
from redis_support.fixtures import SharedServer, StartServer
from redis_support.streams import GROUP, TOPIC, Place, acks, message, numbers, place_on, receive, spec, until

OTHER = "tests.other.happened"


def keeping(**retention: Any) -> dict[str, Any]:
    ages = {"min_age": "20ms", "unsubscribed_max_age": "1h"}
    return {"retention": {**ages, **retention}, "topic_refresh": "10ms"}


def length(place: Place, topic: str = TOPIC) -> int:
    return int(place.ask("XLEN", place.keys.stream(topic)))


def job(adapter: StreamsAdapter) -> Retention:
    retention = adapter._retention
    assert retention is not None
    return retention


async def look(adapter: StreamsAdapter) -> None:
    """Has retention look at every topic, and at who wants what, now."""
    retention = job(adapter)
    await until(lambda: retention._active_lock.is_taken, "it is its turn")
    retention._read_at = 0.0
    retention._due = [(0.0, topic) for topic in retention._pauses]
    await retention.visit()


async def test_a_topic_is_looked_at_again_whatever_fails(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that fails when its topics were trimmed, or before, is not the last one at them."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        retention = job(adapter)
        await retention.stop()
        await place.publish(1)
        await retention.visit()

        async def fail(*_: object) -> None:
            raise RedisFailure(Kind.LOST, "the node of the counts")

        monkeypatch.setattr(adapter._running.locator, "is_cluster", True)
        for name in ("_copy_losses", "_clock_for"):
            with monkeypatch.context() as broken:
                broken.setattr(retention, name, fail)
                retention._due = [(0.0, topic) for topic in retention._pauses]
                with pytest.raises(RedisFailure):
                    await retention.visit()
            assert [topic for _, topic in retention._due] == [TOPIC]


async def test_settled_events_go(redis_server: SharedServer) -> None:
    """Only events that every group has settled are removed, when they are old enough, and counted."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        fast, slow = await adapter.open_consumer(spec()), await adapter.open_consumer(spec(name="slow"))
        await place.publish(*range(300))
        await fast.settle(acks(await receive(fast, 300)))
        batch = await receive(slow, 300)
        await slow.settle(acks([*batch[:100], *batch[101:]]))
        await until(lambda: length(place) == 200, "those before the slowest group are removed")
        await look(adapter)
        assert length(place) == 200
        assert place.ask("GET", place.keys.trimmed(TOPIC)) == "100"
        await slow.settle(acks([batch[100]]))
        await until(lambda: length(place) == 0, "all are removed")
        await place.publish(300)
        assert numbers(await receive(slow, 1)) == [300]
        assert adapter.lost == 0
        assert adapter.degraded is None
        for consumer in (fast, slow):
            await consumer.close()


async def test_young_events_stay(redis_server: SharedServer) -> None:
    """Events younger than ``min_age`` stay, and the longest time that a service wants counts for all."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        await look(adapter)  # it is the one that removes events, before another could be
        careful = await place.adapter(service="careful", **keeping(min_age="1h"))
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(10))
        await consumer.settle(acks(await receive(consumer, 10)))
        await look(adapter)
        assert length(place) == 10
        place.adapters.remove(careful)
        await careful.close()
        await adapter.groups.forget_service("careful")
        await until(lambda: length(place) == 0, "they are old enough for the others", 60)
        await consumer.close()


async def test_a_group_that_has_just_begun_is_no_stranger(redis_server: SharedServer) -> None:
    """A group that begins after it was read who wants what is not one that nobody declared."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        await place.publish(1)
        await look(adapter)
        consumer = await adapter.open_consumer(spec(topic="tests.thing.*"))
        await until(
            lambda: GROUP in str(place.ask("XINFO", "GROUPS", place.keys.stream(TOPIC))), "it is made"
        )
        job(adapter)._demand = Demand()  # as it was read before
        await job(adapter)._trim([TOPIC])
        await look(adapter)
        assert await parts_of(adapter) == ["'tests.listener' on 'tests.thing.*'"]
        await consumer.close()


async def test_a_stranger_is_noted_once(redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that nobody declared is noted, also when it comes again, and costs no reading of the record."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        retention, records = job(adapter), adapter._running.records
        await place.publish(1)
        await look(adapter)
        await retention.stop()
        read, readings = records.read, 0

        async def counted(alive: Any) -> Any:
            nonlocal readings
            readings += 1
            return await read(alive)

        monkeypatch.setattr(records, "read", counted)
        for _ in range(2):
            place.ask("XGROUP", "CREATE", place.keys.stream(TOPIC), "by-hand", "0")
            readings = 0
            for _ in range(5):
                await retention._trim([TOPIC])
            assert readings == 0
            await look(adapter)
            assert await parts_of(adapter) == [f"'by-hand' on {TOPIC!r}"]
            await look(adapter)
            await adapter.groups.forget("by-hand", force=True)
            assert await parts_of(adapter) == []
            await look(adapter)


async def parts_of(adapter: StreamsAdapter) -> list[str]:
    """The subscriptions that are owed events by the record."""
    return [str(part) for part in (await adapter._running.records.read(frozenset())).parts]


async def test_what_is_parked_or_came_back_is_kept(redis_server: SharedServer) -> None:
    """A message that waits for a retry, or was released, outlives its entry in the stream."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        consumer = await adapter.open_consumer(spec())
        await place.publish(1, 2)
        first, second = await receive(consumer, 2)
        await consumer.settle([Outcome("retry", first.receipt, 0.5, 2), Outcome("release", second.receipt)])
        await until(lambda: length(place) == 0, "their entries are removed")
        assert sorted(numbers(await receive(consumer, 2))) == [1, 2]
        await consumer.close()


async def test_a_topic_without_groups(redis_server: SharedServer) -> None:
    """A topic that nobody subscribes to keeps its events for ``unsubscribed_max_age``, broadcast or not."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        await place.publish(*range(10))
        consumer = await adapter.open_consumer(spec(mode="broadcast"))
        await look(adapter)
        assert length(place) == 10
        await consumer.close()
        await adapter.close()
        place.adapters.clear()
        place.ask("DEL", place.keys.record)
        await place.adapter(**keeping(unsubscribed_max_age="20ms"))
        await until(lambda: length(place) == 0, "they go after that time")


async def test_a_pattern_that_has_no_group_there_yet(redis_server: SharedServer) -> None:
    """Nothing goes before each pattern that covers the topic has its group there, whoever runs it."""
    async with place_on(redis_server) as place:
        trimming = await place.adapter(**keeping(unsubscribed_max_age="20ms"))
        asleep = await place.adapter(service="audit", **keeping(unsubscribed_max_age="20ms"))
        await asleep._running.records.enter(spec("tests.*.happened", name="audit"))
        await place.publish(*range(5))
        consumer = await trimming.open_consumer(spec())
        await consumer.settle(acks(await receive(consumer, 5)))
        await look(trimming)
        assert length(place) == 5
        late = await asleep.open_consumer(spec("tests.*.happened", name="audit"))
        assert numbers(await receive(late, 5)) == [0, 1, 2, 3, 4]
        await look(trimming)
        assert length(place) == 5
        await late.settle(acks(await receive(late, 0)))
        await late.close()
        await consumer.close()


async def test_one_instance_trims(redis_server: SharedServer) -> None:
    """One instance trims at a time, and another one goes on when it is gone; who is late is refused."""
    async with place_on(redis_server) as place:
        first = await place.adapter(**keeping())
        await until(lambda: job(first)._active_lock.is_taken, "the first one has its turn")
        second = await place.adapter(**keeping())
        assert not await job(second)._active_lock.take()
        await place.publish(1)
        place.ask("SET", place.keys.trim_fence(TOPIC), str(2**52))
        await until(lambda: not job(first)._active_lock.is_taken, "it sees that another one was active since")
        assert length(place) == 1
        place.ask("DEL", place.keys.trim_fence(TOPIC), place.keys.upkeep)
        await first.close()
        place.adapters.remove(first)
        assert await job(second)._active_lock.take()


async def test_a_hard_cap(redis_server: SharedServer, caplog: pytest.LogCaptureFixture) -> None:
    """With ``max_length`` the oldest events give way whatever their state, and what was not read is lost."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping(max_length=50, min_age="1h"))
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(300))
        held = await receive(consumer, 100)
        await until(lambda: length(place) == 50, "the oldest give way")
        await until(lambda: adapter.lost == 150, "what was not read is counted")
        assert await consumer.settle(acks(held)) == [None] * 100
        assert numbers(await receive(consumer, 50)) == [*range(250, 300)]
        await until(
            lambda: place.ask("HGETALL", place.keys.losses) == [f"{TOPIC} {GROUP}", "150"],
            "the count is on the server as well",
        )
        await look(adapter)
        assert adapter.lost == 150
        assert "dropped 100 events: the topic is longer than retention.max_length" in caplog.text
        await consumer.close()


async def test_dead_letters_expire_when_asked(redis_server: SharedServer) -> None:
    """Dead letters stay, unless there is an age from which on they need not."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        dead = place.keys.dead(TOPIC)
        await place.publish(1)
        for entry_id in ("1000-0", "2000-0"):
            place.ask("XADD", dead, entry_id, "body", "x")
        await look(adapter)
        assert place.ask("XLEN", dead) == 2
        await adapter.close()
        place.adapters.clear()
        place.ask("DEL", place.keys.record)
        place.ask("XADD", dead, "*", "body", "x")
        adapter = await place.adapter(**keeping(dead_letters_max_age="1h"))
        await until(lambda: place.ask("XLEN", dead) == 1, "the old ones are removed")
        await until(lambda: job(adapter).expired_letters == 2, "and counted")


async def test_somebody_elses_key(redis_server: SharedServer) -> None:
    """A key of another type in the place of one topic does not keep the others from being trimmed."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**keeping())
        consumer = await adapter.open_consumer(spec())
        place.ask("SADD", place.keys.topics, OTHER)
        place.ask("SET", place.keys.stream(OTHER), "something else")
        await place.publish(1)
        await consumer.settle(acks(await receive(consumer, 1)))
        await until(lambda: length(place) == 0, "the other one is trimmed")
        await consumer.close()


# --- what others trim -------------------------------------------------------------------------------------


async def test_trimmed_while_nobody_read(binary: ServerBinary, start_server: StartServer) -> None:
    """Entries trimmed while a group was stopped are counted exactly where the server knows."""
    server = start_server(binary)
    async with place_on(server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(10))
        await consumer.settle(acks(await receive(consumer, 10)))
        await consumer.close()
        await place.publish(*range(10, 100))
        server.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 20)
        consumer = await adapter.open_consumer(spec())
        assert numbers(await receive(consumer, 20)) == [*range(80, 100)]
        expected = 70 if binary.at_least((7, 0)) else 0
        assert adapter.lost == expected
        assert adapter._running.counts_gaps == (expected > 0)
        await consumer.close()
        assert adapter.lost == expected
        # What was counted is stored at the latest when the instance ends.
        place.adapters.remove(adapter)
        await adapter.close()
        stored = place.ask("HGETALL", place.keys.losses)
        assert stored == ([f"{TOPIC} {GROUP}", str(expected)] if expected else [])


@pytest.mark.parametrize("others", [0, 4])
async def test_trimmed_under_a_slow_reader(
    binary: ServerBinary, start_server: StartServer, others: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries trimmed between two reads of a slow group are counted, pending or unread."""
    server = start_server(binary)
    async with place_on(server) as place:
        adapter = await place.adapter(lease="600ms")
        taken = [await adapter.open_consumer(spec(name=f"other{number}")) for number in range(others)]
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(100))
        held = await receive(consumer, 20)
        server.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 10)
        assert numbers(await receive(consumer, 10)) == [*range(90, 100)]
        if binary.at_least((7, 0)):
            assert adapter.lost == 70
            assert f"lost 70 events: trimmed before being read (topic={TOPIC}" in caplog.text
        assert await consumer.settle(acks(held)) == [None] * 20
        await place.publish(100)
        assert numbers(await receive(consumer, 1)) == [100]
        assert adapter.lost == (70 if binary.at_least((7, 0)) else 0)
        for each in (consumer, *taken):
            await each.close()


async def test_retention_sees_what_others_trim(
    binary: ServerBinary, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Retention counts for groups that nobody serves, and says that somebody else trims."""
    server = start_server(binary)
    async with place_on(server) as place:
        adapter = await place.adapter(**keeping(min_age="1h"))
        consumer = await adapter.open_consumer(spec())
        await place.publish(0)
        await consumer.settle(acks(await receive(consumer, 1)))
        await consumer.close()
        await place.publish(*range(1, 50))
        await look(adapter)
        server.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 5)
        await look(adapter)
        if binary.at_least((7, 0)):
            assert adapter.lost == 44
            assert adapter.degraded is not None
            assert f"a foreign program removes events from {TOPIC}" in adapter.degraded
            assert f"a foreign program has removed 45 events (topic={TOPIC})" in caplog.text
        else:
            assert adapter.lost == 0
            assert adapter.degraded is None


# --- data that are gone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["flushed", "restarted"])
async def test_an_epoch_that_ends(
    start_server: StartServer, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """When the server loses its data everything is set up again within seconds, and health and log tell."""
    caplog.set_level(logging.ERROR, "promenade.bus.redis")
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(topic_refresh="100ms")
        names = [f"s{number}" for number in range(20)]
        consumers = [await adapter.open_consumer(spec(name=name)) for name in names]
        await until(lambda: place.ask("GET", place.keys.epoch), "there is an epoch")
        if way == "flushed":
            server.ask("FLUSHALL")
        else:
            server.restart()
        await until(lambda: adapter._losses.ended_epochs == 1, "it is noticed")
        assert adapter.degraded is not None
        assert "the server has lost its data, 1 time since the start" in adapter.degraded
        await until(
            lambda: sum(field.startswith("part ") for field in place.ask("HKEYS", place.keys.record)) == 20,
            "who wants what is known again",
        )
        await adapter.publish([message(1)])
        for consumer in consumers:
            assert numbers(await receive(consumer, 1, timeout=20)) == [1]
        assert adapter._losses.ended_epochs == 1
        lines = [record.created for record in caplog.records if record.name == "promenade.bus.redis"]
        assert lines
        for moment in lines:
            assert len([line for line in lines if moment <= line < moment + 0.99]) <= 6
        assert adapter._losses.unsaid > 0
        for consumer in consumers:
            await consumer.close()


async def test_a_start_is_no_loss(redis_server: SharedServer) -> None:
    """A server that is new, and instances that come and go, end no epoch."""
    async with place_on(redis_server) as place:
        first = await place.adapter(topic_refresh="50ms")
        second = await place.adapter(topic_refresh="50ms")
        await second.close()
        place.adapters.remove(second)
        upkeep = first.upkeep
        for _ in range(2):
            at = upkeep._epoch_at
            await until(lambda at=at: upkeep._epoch_at > at, "it was looked at again")  # type: ignore[misc]
        assert first.degraded is None
