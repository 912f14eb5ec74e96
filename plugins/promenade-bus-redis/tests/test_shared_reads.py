from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from bus_core import TopicPattern
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import READ, TAIL
from redis_support.binaries import ServerBinary
from redis_support.clusters import Cluster
from redis_support.fixtures import SharedServer, StartServer
from redis_support.streams import Place, acks, message, numbers, place_on, receive, spec

pytestmark = pytest.mark.once


def _connections(place: Place) -> int:
    """The connections of the server, without the asking one."""
    return len(place.ask("CLIENT", "LIST").splitlines()) - 1


@pytest.mark.parametrize("count", [100, 1000])
async def test_an_idle_worker_is_quiet(binary: ServerBinary, start_server: StartServer, count: int) -> None:
    """An idle worker has few connections and sends few commands, however many subscriptions it has."""
    server = start_server(binary)
    async with place_on(server) as place:
        adapter = await place.adapter()
        specs = [spec(f"tests.topic{index % 50}.happened", name=f"s{index}") for index in range(count)]
        consumers = [await adapter.open_consumer(each) for each in specs]
        stop = False

        async def drive(consumer: Any) -> None:
            while not stop:
                await consumer.receive(10)

        tasks = [asyncio.ensure_future(drive(consumer)) for consumer in consumers]
        await adapter.publish([message(0, "tests.nobody.happened")])

        async def sent(seconds: float) -> float:
            """Commands a second that the worker sends; a script is one, whatever it calls."""
            count = 0
            async with server.async_client() as client, client.monitor() as monitor:
                try:
                    async with asyncio.timeout(seconds):
                        while True:
                            count += (await monitor.next_command())["client_type"] != "lua"
                except TimeoutError:
                    return count / seconds

        async with asyncio.timeout(100):  # at first everything is looked through once
            while await sent(1.0) > 30:
                pass
            while await sent(5.0) > 10:
                pass
        assert _connections(place) <= 8
        stop = True
        for consumer in consumers:
            consumer.stop()
        await asyncio.gather(*tasks)
        for consumer in consumers:
            await consumer.close()


async def test_many_wait_together(start_server: StartServer) -> None:
    """Beyond a few, subscriptions wait together, and each gets its own events soon after they are stored."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(block="60s")
        topics = [f"tests.topic{index}.happened" for index in range(20)]
        consumers = [await adapter.open_consumer(spec(topic, name=topic[:9])) for topic in topics]
        for turn in range(3):
            reads = [asyncio.ensure_future(receive(consumer, 1)) for consumer in consumers]
            await adapter.publish([message(turn * 100 + index, topic) for index, topic in enumerate(topics)])
            for index, (consumer, read) in enumerate(zip(consumers, reads, strict=True)):
                batch = await read
                assert numbers(batch) == [turn * 100 + index]
                assert await consumer.settle(acks(batch)) == [None]
        for consumer in consumers:
            await consumer.close()


async def test_a_cluster(binary: ServerBinary) -> None:
    """On a cluster topics lie on all nodes; patterns, retries, and the backlog work over them."""
    with Cluster(binary) as cluster:
        place = Place(cluster.servers[0], "bus", cluster.addresses[0])
        adapter = await place.adapter(cluster=True, topic_refresh="100ms")
        try:
            topics = [f"tests.topic{index}.happened" for index in range(12)]
            owners = {cluster.owner_of(place.keys.stream(topic)).port for topic in topics}
            assert len(owners) == 3
            everything = spec("tests.#", name="pattern")
            consumers = [await adapter.open_consumer(spec(topic, name="one")) for topic in topics[:7]]
            pattern = await adapter.open_consumer(everything)
            batch = [message(index, topic) for index, topic in enumerate(topics)]
            assert await adapter.publish(batch) == [None] * 12
            assert TopicPattern("tests.#").matches(topics[0])
            received = await receive(pattern, 12)
            assert sorted(numbers(received)) == [*range(12)]
            assert await adapter.backlog(everything) == 12
            assert await pattern.settle(acks(received)) == [None] * 12
            for index, consumer in enumerate(consumers):
                assert numbers(await receive(consumer, 1)) == [index]
                await consumer.close()
            assert await adapter.backlog(everything) == 0
            await pattern.close()
        finally:
            await adapter.close()


@pytest.mark.parametrize("mode", ["group", "broadcast"])
async def test_a_pattern_of_many_topics_is_read_where_there_is_room(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """However many topics of a pattern have something, a read goes to as many as entries are wanted."""
    topics = [f"tests.many.t{number}" for number in range(300)]
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await adapter.publish([message(-1, topic) for topic in topics])
        consumer = await adapter.open_consumer(spec("tests.many.*", mode=mode))
        if mode == "group":
            await consumer.settle(acks(await receive(consumer, 300)))
        await adapter.publish([message(number, topic) for number, topic in enumerate(topics)])
        pipe, looked_at = adapter._running.pipe, 0
        call_many = pipe.call_many

        async def counting(commands: Sequence[Routed]) -> list[Any]:
            nonlocal looked_at
            scripts = [command for _, command in commands if command[1] in (READ.digest, TAIL.digest)]
            looked_at += sum(command[2] for command in scripts)
            return await call_many(commands)

        monkeypatch.setattr(pipe, "call_many", counting)
        heard: list[int] = []
        while len(heard) < 300:
            batch = await consumer.receive(10)
            await consumer.settle(acks(batch))
            heard += numbers(batch)
        assert sorted(heard) == [*range(300)]
        assert looked_at < 10_000  # each read of all of them would be 600 streams
        await consumer.close()
