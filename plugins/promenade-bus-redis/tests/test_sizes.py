"""Bytes and numbers bound what is read and held, whatever there is."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from bus_core import BaseEvent, Consumer, FixedRetry, Outcome, Received
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.scripts import AHEAD, DUE
from promenade_bus_redis.streams import broadcast_consumer
from redis_support.binaries import ServerBinary
from redis_support.clusters import Cluster
from redis_support.faults import Rate
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.streams import GROUP, TOPIC, Place, acks, large, message, numbers, place_on, spec, until

TOPICS = [f"tests.topic{index}.happened" for index in range(40)]


async def receive_all(consumer: Consumer, count: int, limit: int, timeout: float = 30.0) -> list[int]:
    """The numbers of so many events, which are settled; an error is what the engine goes on after."""
    found: list[int] = []
    async with asyncio.timeout(timeout):
        while len(found) < count:
            try:
                batch = await consumer.receive(limit)
            except RedisFailure:
                continue
            assert len(batch) <= limit
            found += numbers(batch)
            assert await consumer.settle(acks(batch)) == [None] * len(batch)
    return found


@pytest.mark.parametrize("mode", ["ordered", "broadcast"])
async def test_a_read_grows_again(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Where each topic is read by itself, a read that became small grows with what all of them bring."""
    monkeypatch.setattr(broadcast_consumer, "_FEEDS_AT_ONCE", 1)
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await adapter.publish([message(0, topic) for topic in TOPICS[:2]])
        more: dict[str, Any] = {"mode": "broadcast"} if mode == "broadcast" else {"ordered": True}
        consumer: Any = await adapter.open_consumer(spec("tests.*.happened", start="latest", **more))
        size = consumer._read_size if mode == "broadcast" else consumer._holdings.read_size
        size._most = 1
        await adapter.publish([message(number, topic) for topic in TOPICS[:2] for number in range(1, 51)])
        await receive_all(consumer, 100, 50)
        assert size._most >= 16
        await consumer.close()


# --- how many ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["group", "broadcast"])
async def test_a_read_takes_what_was_asked_for(redis_server: SharedServer, mode: str) -> None:
    """A consumer takes no more than it is asked for, on however many topics there is something to read."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await adapter.publish([message(0, topic) for topic in TOPICS])
        everything = spec("tests.*.happened", mode=mode)
        consumer = await adapter.open_consumer(everything)
        await adapter.publish([message(number, topic) for topic in TOPICS for number in range(1, 4)])
        held = []
        for limit in (1, 7, 50):
            batch = await consumer.receive(limit)
            held += batch
            assert len(batch) <= limit
            if mode == "group":
                pending = [place.pending(topic, everything.group) for topic in TOPICS]
                assert sum(map(len, pending)) == len(held)
            else:
                assert not consumer._ready  # type: ignore[attr-defined]
        expected = len(TOPICS) * (4 if mode == "group" else 3)
        await receive_all(consumer, expected - len(held), 100)
        await consumer.settle(acks(held))
        assert await adapter.backlog(everything) == 0
        await consumer.close()


async def test_a_read_takes_what_was_asked_for_on_a_cluster(binary: ServerBinary) -> None:
    """On a cluster, where each topic is read by itself, all of them together give what was asked for."""
    with Cluster(binary) as cluster:
        place = Place(cluster.servers[0], "bus", cluster.addresses[0])
        adapter = await place.adapter(cluster=True)
        try:
            await adapter.publish([message(number, topic) for topic in TOPICS for number in range(3)])
            consumer = await adapter.open_consumer(spec("tests.*.happened"))
            batch = await consumer.receive(7)
            assert 0 < len(batch) <= 7
            assert not consumer._holdings.ready  # type: ignore[attr-defined]
            await receive_all(consumer, 3 * len(TOPICS) - len(batch), 7)
            await consumer.close()
        finally:
            await adapter.close()


async def test_a_busy_topic_does_not_starve_the_others(redis_server: SharedServer) -> None:
    """Topics have their turn one after the other, although one of them has enough for every read."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        busy, *others = TOPICS[:5]
        await adapter.publish([message(number, busy) for number in range(200)])
        await adapter.publish([message(1000, topic) for topic in others])
        consumer = await adapter.open_consumer(spec("tests.*.happened"))
        found = await receive_all(consumer, 60, 10)
        assert found.count(1000) == len(others)
        await consumer.close()


async def test_many_subscriptions_share_the_buffer(redis_server: SharedServer) -> None:
    """Many subscriptions that begin together hold at most twice as much as the buffer of their bus."""
    async with place_on(redis_server) as place:
        topics = TOPICS[:30]
        async with place.bus() as bus:
            events = [(topic, BaseEvent("happened", uuid4())) for topic in topics for _ in range(20)]
            await bus.publish_many(events)

        async def hold(event: object) -> None:
            await asyncio.Event().wait()

        def held() -> list[int]:
            return [len(place.pending(topic, f"other.s{index}")) for index, topic in enumerate(topics)]

        settings = {"buffer_size": 60, "worker_pool_size": 2, "shutdown_timeout": 0.1}
        async with place.bus(service="other", bus=settings) as bus:
            subscriptions = [bus.subscribe(topic, hold, name=f"s{i}") for i, topic in enumerate(topics)]
            for subscription in subscriptions:
                await subscription.ready()
            await until(lambda: all(held()), "every subscription has something")
            assert sum(held()) <= 2 * 60


# --- how large --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["group", "broadcast"])
async def test_large_events_over_a_slow_network(
    start_server: StartServer, start_proxy: StartProxy, mode: str
) -> None:
    """Events whose reply takes longer than command_timeout arrive, and none of them is read for ever."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        publisher = await place.adapter()
        reader = await place.adapter(address=proxy.address, command_timeout="200ms", block="100ms")
        await publisher.publish([message(0)])
        consumer = await reader.open_consumer(spec(mode=mode, start=None))
        for number in range(4):
            await publisher.publish([large(10 * number + each, 60_000) for each in range(1, 11)])
        proxy.use(Rate(2_000_000, "replies"))
        found = await receive_all(consumer, 40 + (mode == "group"), 512)
        assert len(found) == len({*found})
        proxy.heal()
        await consumer.close()


@pytest.mark.parametrize("mode", ["group", "broadcast"])
async def test_half_as_many_after_a_read_that_took_too_long(
    start_server: StartServer, start_proxy: StartProxy, mode: str
) -> None:
    """Where a network is too slow for a read, later ones ask for less until they get through."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        publisher = await place.adapter()
        reader = await place.adapter(address=proxy.address, command_timeout="400ms", block="50ms")
        await publisher.publish([message(0)])
        consumer = await reader.open_consumer(spec(mode=mode))
        await publisher.publish([large(number, 10_000) for number in range(1, 17)])
        proxy.use(Rate(100_000, "replies"))
        found = await receive_all(consumer, 16 + (mode == "group"), 512)
        assert {*found} == {*range(mode == "broadcast", 17)}
        proxy.heal()
        await consumer.close()


async def test_large_events_are_read_few_at_a_time(redis_server: SharedServer) -> None:
    """Once it is known how large events are, a read asks for as many as a megabyte holds."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await adapter.publish([large(number, 100_000) for number in range(60)])
        consumer = await adapter.open_consumer(spec())
        first = await consumer.receive(512)
        second = await consumer.receive(512)
        assert len(first) == 16
        assert 5 <= len(second) <= 10
        await adapter.publish([message(number) for number in range(100, 800)])
        found = await receive_all(consumer, 60 + 700 - len(first) - len(second), 512)
        assert len(found) == 60 + 700 - len(first) - len(second)
        await consumer.close()


async def test_what_is_noted_stays_small(redis_server: SharedServer) -> None:
    """However often an event is tried, what is noted of its attempts does not grow with each of them."""
    async with place_on(redis_server) as place:
        sizes: list[int] = []

        async def fail(event: object) -> None:
            sizes.append(sum(map(len, place.ask("HVALS", place.keys.notes(TOPIC, GROUP)))))
            raise ValueError("x" * 3_000)

        async with place.bus() as bus:
            bus.subscribe(TOPIC, fail, name="listener", retry=FixedRetry(attempts=60, delay=0.001))
            await bus.publish(TOPIC, BaseEvent("happened", uuid4()))
            await until(lambda: place.ask("XLEN", place.keys.dead(TOPIC)), "it is a dead letter", 30)
            assert len(sizes) == 60
            assert max(sizes) < 60_000
            assert max(sizes[30:]) < 1.1 * max(sizes[:25])


# --- counting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [0, 3, 25])
@pytest.mark.parametrize("mode", ["group", "broadcast"])
async def test_a_backlog_without_the_help_of_the_server(
    redis_server: SharedServer, mode: str, read: int
) -> None:
    """Where the server does not know how much is unread, because something was deleted, it is counted."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="50ms")
        consumer = await adapter.open_consumer(spec(mode=mode))
        await adapter.publish([message(number) for number in range(40)])
        held: list[Received] = []
        while len(held) < read:
            held += await consumer.receive(read - len(held))
        doomed = place.ask("XREVRANGE", place.keys.stream(TOPIC), "+", "-", "COUNT", "3")[1][0]
        place.ask("XDEL", place.keys.stream(TOPIC), doomed)
        assert await adapter.backlog(spec(mode=mode)) == (39 if mode == "group" else 39 - read)
        await consumer.close()


async def test_counting_carries_few_bodies(redis_server: SharedServer) -> None:
    """A step of a count ends after a megabyte of bodies; what lies all behind, or ahead, needs no step."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        key = place.keys.stream(TOPIC)
        await adapter.publish([large(number, 200_000) for number in range(25)])
        ids = [entry[0] for entry in place.ask("XRANGE", key, "-", "+")]
        pipe = adapter._running.pipe

        async def count(after: str) -> tuple[int, str]:
            found, following = await pipe.run(AHEAD, [key], after, 1000)
            return found, following.decode()

        assert await count("0-0") == (25, "")
        assert await count(ids[-1]) == (0, "")
        assert await count(ids[-3]) == (2, "")
        assert await count(ids[0]) == (10, ids[10])


async def test_handing_on_carries_few_bodies(redis_server: SharedServer) -> None:
    """A step that hands on retries ends after a megabyte, and says that there is more."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([large(number, 100_000) for number in range(30)])
        batch: list[Received] = []
        while len(batch) < 30:
            batch += await consumer.receive(30)
        outcomes = [Outcome("retry", received.receipt, 600.0, 2) for received in batch]
        assert await consumer.settle(outcomes) == [None] * 30
        parked, inbox = place.keys.parked(TOPIC, GROUP), place.keys.inbox(TOPIC, GROUP)
        pipe = adapter._running.pipe
        members = await pipe.call("ZRANGEBYSCORE", parked, "-inf", "+inf", "WITHSCORES", key=parked)
        scores = {*members[1::2]}
        steps: list[int] = []
        more = 1
        while more:
            moved, more, *_ = await pipe.run(DUE, [parked, inbox], 100, *sorted(scores))
            steps.append(moved)
        assert sum(steps) == place.ask("XLEN", inbox) == 30
        assert max(steps) <= 11
        await consumer.close()
