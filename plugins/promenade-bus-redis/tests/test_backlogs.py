"""The backlog of many subscriptions at once, and how few commands it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bus_core import CountingAdapter, Outcome
from promenade_bus_redis.pubsub.subscriber import Subscriber
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.scripts import AHEAD, BACKLOG
from redis_support.binaries import ServerBinary
from redis_support.clusters import Cluster
from redis_support.fixtures import SharedServer
from redis_support.pubsub import air_on
from redis_support.streams import TOPIC, Place, acks, message, place_on, receive, spec

OTHER = "tests.other.happened"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The scripts that count, as they are sent: the keys that come first, batch by batch."""
    sent: list[list[str]] = []
    call_many = Pipe.call_many

    async def noting(pipe: Pipe, commands: Sequence[Any]) -> list[Any]:
        counting = [key for key, command in commands if {BACKLOG.digest, AHEAD.digest} & {*command}]
        if counting:
            sent.append(counting)
        return await call_many(pipe, commands)

    monkeypatch.setattr(Pipe, "call_many", noting)
    return sent


async def test_each_of_many_gets_its_own(redis_server: SharedServer) -> None:
    """Unread, pending, parked and released entries count, for groups at any position, and for patterns."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        assert isinstance(adapter, CountingAdapter)
        await place.publish(*range(10))
        await place.publish(*range(3), topic=OTHER)
        for name in ("behind", "ahead", "stuck"):
            consumer = await adapter.open_consumer(spec(name=name))
            batch = await receive(consumer, {"behind": 2, "ahead": 10, "stuck": 10}[name])
            if name == "stuck":
                await consumer.settle([Outcome("retry", each.receipt, 60.0, 2) for each in batch[:3]])
                await consumer.settle([Outcome("release", each.receipt) for each in batch[3:5]])
                await consumer.settle(acks(batch[5:9]))
            else:
                await consumer.settle(acks(batch))
            await consumer.close()
        wanted = {
            spec(name="behind"): 8,
            spec(name="ahead"): 0,
            spec(name="stuck"): 6,
            spec(name="nobody"): 10,
            spec("tests.*.happened", name="ahead"): 3,
            spec("tests.*.happened", name="nobody"): 13,
            spec("elsewhere.#", name="ahead"): 0,
            spec("tests.nothing.happened", name="ahead"): 0,
        }
        assert await adapter.backlogs([*wanted]) == [*wanted.values()]
        assert await adapter.backlogs([*reversed(wanted)]) == [*reversed(wanted.values())]
        assert await adapter.backlogs([spec(name="behind")] * 2) == [8, 8]
        assert await adapter.backlogs([]) == []


async def test_more_than_is_counted_at_once(redis_server: SharedServer) -> None:
    """Unread entries that the server does not count are counted in steps, from the place of each group."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await place.publish(*range(2500))
        stream = place.keys.stream(TOPIC)
        ids = [entry[0] for entry in place.ask("XRANGE", stream, "-", "+")]
        for read in (0, 400, 1400, 2500):
            # A group that is put in the middle of a stream has no lag.
            place.ask("XGROUP", "CREATE", stream, f"tests.after{read}", ids[read - 1] if read else "0-0")
        specs = [spec(name=f"after{read}") for read in (2500, 400, 1400, 0, 400)]
        assert await adapter.backlogs(specs) == [0, 2100, 1100, 2500, 2100]


async def test_what_others_removed_is_not_left_to_do(redis_server: SharedServer) -> None:
    """Entries that somebody else trimmed before a group read them are not in its backlog, on any server."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await place.publish(*range(5))
        consumer = await adapter.open_consumer(spec())
        await consumer.settle(acks(await receive(consumer, 1)))
        await consumer.close()
        assert await adapter.backlog(spec()) == 4
        place.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 0)
        assert await adapter.backlog(spec()) == 0
        await place.publish(5)
        assert await adapter.backlog(spec()) == 1


async def test_one_look_at_each_stream(redis_server: SharedServer, batches: list[list[str]]) -> None:
    """However many groups a topic has, its stream is looked at once, and all streams in one batch."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        topics = [f"tests.topic{index}.happened" for index in range(5)]
        specs = [spec(topic, name=f"group{index}") for index in range(20) for topic in topics]
        for each in specs:
            await (await adapter.open_consumer(each)).close()
        await adapter.publish([message(0, topic) for topic in topics])
        assert await adapter.backlogs(specs) == [1] * 100
        assert batches == [[place.keys.stream(topic) for topic in topics]]
        batches.clear()
        reports = await adapter.groups.list(count=True)
        assert [report.backlog for report in reports] == [1] * 100
        assert [sorted(batch) for batch in batches] == [[place.keys.stream(topic) for topic in topics]]


async def test_drain_of_many_subscriptions(redis_server: SharedServer, batches: list[list[str]]) -> None:
    """A drain of many idle subscriptions is one batch for each of its two looks."""
    async with place_on(redis_server) as place, place.bus() as bus:

        async def handle(event: object) -> None: ...

        for index in range(50):
            await bus.subscribe(TOPIC, handler=handle, name=f"group{index}").ready()
        await bus.drain()
        assert batches == [[place.keys.stream(TOPIC)]] * 2


async def test_broadcasts(redis_server: SharedServer, batches: list[list[str]]) -> None:
    """Broadcast subscriptions count what each has not read; those at the same place are counted together."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await place.publish(0)
        specs = [spec(name=f"each{index}", mode="broadcast") for index in range(20)]
        consumers = [await adapter.open_consumer(each) for each in specs]
        await place.publish(1, 2, 3)
        await receive(consumers[0], 1)
        await receive(consumers[1], 3)
        group = spec(name="group")
        batches.clear()
        assert await adapter.backlogs([group, *specs]) == [4, 2, 0, *[3] * 18]
        assert await adapter.backlogs([specs[1], specs[0]]) == [0, 2]
        (stream,) = batches[0]
        assert stream == place.keys.stream(TOPIC)
        assert batches[1].count(stream) <= 3
        for consumer in consumers:
            await consumer.close()
        assert await adapter.backlogs(specs) == [0] * 20


async def test_on_a_cluster(binary: ServerBinary, batches: list[list[str]]) -> None:
    """On a cluster each node is asked about the topics that it has, all at once."""
    with Cluster(binary) as cluster:
        place = Place(cluster.servers[0], "bus", cluster.addresses[0])
        adapter = await place.adapter(cluster=True)
        try:
            topics = [f"tests.topic{index}.happened" for index in range(12)]
            assert len({cluster.owner_of(place.keys.stream(topic)).port for topic in topics}) == 3
            specs = [spec(topic, name=name) for topic in topics for name in ("one", "two")]
            await adapter.publish([message(index, topic) for index, topic in enumerate(topics)])
            everything = spec("tests.#", name="one")
            assert await adapter.backlogs([everything, *specs]) == [12, *[1] * 24]
            assert len(batches) == 1
            assert sorted(batches[0]) == sorted(map(place.keys.stream, topics))
        finally:
            await adapter.close()


async def test_many_that_listen(redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pub/sub one question to the server tells of all subscriptions what is on its way to them."""
    asked: list[str] = []
    fence = Subscriber.fence

    async def noting(subscriber: Subscriber) -> None:
        asked.append("fence")
        await fence(subscriber)

    monkeypatch.setattr(Subscriber, "fence", noting)
    async with air_on(redis_server) as air:
        adapter = await air.adapter()
        assert isinstance(adapter, CountingAdapter)
        specs = [spec(name=f"each{index}", mode="broadcast") for index in range(20)]
        assert await adapter.backlogs(specs) == [0] * 20
        assert asked == []
        consumers = [await adapter.open_consumer(each) for each in specs]
        await air.publish(adapter, 1, 2)
        await receive(consumers[0], 2)
        await receive(consumers[3], 1)
        counts = await adapter.backlogs([*specs, specs[0]])
        assert counts == [0, 2, 2, 1, *[2] * 16, 0]
        assert asked == ["fence"]
        for consumer in consumers:
            await consumer.close()
