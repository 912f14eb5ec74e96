"""A loss is counted in the step that makes it, once: whatever reply is lost, and whoever removes events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from bus_core import HealthStatus, SystemClock
from bus_core.abc import BuildContext
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.scripts import CLAIM, COUNT, FORGET_LOST, GAP, TRIM, Script
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.group_consumer import GroupConsumer
from promenade_bus_redis.streams.losses import UnreportedLosses
from redis_support.binaries import newest_binary
from redis_support.clusters import Cluster
from redis_support.connecting import make_options
from redis_support.faults import CutAtReply
from redis_support.fixtures import StartProxy, StartServer
from redis_support.servers import Server
from redis_support.streams import (
    GROUP,
    TOPIC,
    Place,
    acks,
    die,
    message,
    numbers,
    place_on,
    receive,
    spec,
    until,
)

pytestmark = pytest.mark.timeout(60)

OTHER = "tests.other.happened"
QUICK: dict[str, Any] = {"topic_refresh": "10ms", "block": "100ms"}


def keeping(**retention: Any) -> dict[str, Any]:
    return {**QUICK, "retention": {"min_age": "1h", "unsubscribed_max_age": "1h", **retention}}


def counted(place: Place) -> dict[str, int]:
    """The counts that everybody can read."""
    found = place.ask("HGETALL", place.keys.losses)
    return {name: int(count) for name, count in zip(found[::2], found[1::2], strict=True)}


async def look(adapter: StreamsAdapter) -> None:
    """Has retention look at every topic now."""
    retention = adapter._retention
    assert retention is not None
    await until(lambda: retention._active_lock.is_taken, "it is its turn")
    await retention.stop()  # a look of its own would come first, and meet the planned fault
    retention._read_at = 0.0
    retention._due = [(0.0, topic) for topic in retention._pauses]
    await retention.visit()


async def whose_turn(adapters: Sequence[StreamsAdapter]) -> StreamsAdapter:
    """The adapter that looks after the topics."""

    def found() -> list[StreamsAdapter]:
        return [each for each in adapters if each._retention and each._retention._active_lock.is_taken]

    await until(found, "one of them has its turn")
    return found()[0]


def cut(server: Server, script: Script) -> CutAtReply:
    """The script is run, and nobody hears what it says."""
    server.ask("SCRIPT", "LOAD", script.source)
    return CutAtReply(f"EVALSHA {script.digest}")


async def leave_behind(place: Place, adapter: StreamsAdapter, *numbers: int) -> None:
    """A group that nobody serves, and events that it has not read."""
    await (await adapter.open_consumer(spec())).close()
    await place.publish(*numbers)


# --- replies that are lost --------------------------------------------------------------------------------


async def test_trimming_counts_though_nobody_hears(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """Events that the cap drops are counted once, also when the reply is lost, and health names them."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        probes = {"health": {"probes": [{"redis": {"slow": "1m"}}]}}
        adapter = await place.adapter(address=proxy.address, **keeping(max_length=50))
        await leave_behind(place, adapter, *range(40))
        await look(adapter)
        async with place.bus(bus=probes, **keeping()) as bus:
            fault = cut(server, TRIM)
            proxy.use(fault)
            await place.publish(*range(40, 80))
            with pytest.raises(RedisFailure):
                await look(adapter)
            assert fault.done
            assert adapter.lost == 0
            assert counted(place) == {f"{TOPIC} {GROUP}": 30}
            await look(adapter)
            assert counted(place) == {f"{TOPIC} {GROUP}": 30}
            found = (await bus.health()).checks["redis"]
            assert found.status is HealthStatus.DEGRADED
            assert f"30 events lost since the start ('{TOPIC} {GROUP}')" in found.summary


async def test_a_gap_counts_though_nobody_hears(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Events that were trimmed unread are counted by whoever reads on; a lost reply counts them as well."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address, **keeping())
        await leave_behind(place, adapter, *range(100))
        server.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 20)
        consumer = await adapter.open_consumer(spec())
        proxy.use(fault := cut(server, GAP))
        with pytest.raises(RedisFailure):
            await receive(consumer, 20)
        assert fault.done
        assert counted(place) == {f"{TOPIC} {GROUP}": 80}
        assert numbers(await receive(consumer, 20)) == [*range(80, 100)]
        await consumer.close()
        assert counted(place) == {f"{TOPIC} {GROUP}": 80}


async def test_a_claim_counts_though_nobody_hears(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Deleted entries of the dead are counted by the claim that finds them gone."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        dying = await place.adapter(lease="600ms", **keeping())
        held = await dying.open_consumer(spec())
        await place.publish(*range(5))
        assert len(await receive(held, 5)) == 5
        next_owner = await place.adapter(address=proxy.address, lease="600ms", **keeping())
        place.adapters.remove(dying)
        await die(dying)
        server.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 2)
        consumer = await next_owner.open_consumer(spec())
        proxy.use(fault := cut(server, CLAIM))
        batch: list[Any] = []
        async with asyncio.timeout(20):
            while len(batch) < 2:
                try:
                    batch += await consumer.receive(5)
                except RedisFailure:
                    pass
        assert fault.done
        assert sorted(numbers(batch)) == [3, 4]
        await consumer.settle(acks(batch))
        await until(lambda: counted(place) == {f"{TOPIC} {GROUP}": 3}, "the three that are gone are counted")
        await look(next_owner)
        assert counted(place) == {f"{TOPIC} {GROUP}": 3}
        await consumer.close()


async def test_what_is_found_gone_counts_once(start_server: StartServer, start_proxy: StartProxy) -> None:
    """An own entry whose delivery was lost, and that is gone, is counted in the step that forgets it."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address, lease="1h", topic_refresh="10ms")
        consumer = await adapter.open_consumer(spec())
        assert isinstance(consumer, GroupConsumer)
        await place.publish(*range(3))
        await receive(consumer, 3)
        for feed in consumer.feeds.values():
            feed.main.held.clear()
            feed.must_sweep = True
        server.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 1)
        proxy.use(fault := cut(server, FORGET_LOST))
        with pytest.raises(RedisFailure):
            await receive(consumer, 1)
        assert fault.done
        assert counted(place) == {f"{TOPIC} {GROUP}": 2}
        assert numbers(await receive(consumer, 1)) == [2]
        await look(adapter)
        assert counted(place) == {f"{TOPIC} {GROUP}": 2}
        await consumer.close()


async def test_what_a_process_counts_is_told_once(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Losses that no script can see are reported until they arrive, and count once."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address, **keeping())
        proxy.use(fault := cut(server, COUNT))
        adapter._losses.miss(3, TOPIC, GROUP)
        await until(lambda: fault.done, "the first reply is lost")
        adapter._losses.miss(4, TOPIC, GROUP)
        adapter._losses.forgotten(5, TOPIC, is_all=True)
        want = {f"{TOPIC} {GROUP}": 7, f"{TOPIC} *": 5}
        await until(lambda: counted(place) == want, "it is told again, once")
        await until(lambda: not adapter._losses.unreported.batches(), "nothing is left to tell")
        assert counted(place) == want
        assert adapter.lost == 12


def test_one_number_at_a_time() -> None:
    """A report that may have arrived keeps its number and counts until it is known to have arrived."""
    unreported = UnreportedLosses()
    unreported.add(1, TOPIC, "a")
    (first,) = unreported.batches()
    unreported.add(2, TOPIC, "a")
    assert [first] == [*unreported.batches()] == [(TOPIC, 1, {f"{TOPIC} a": 1})]
    unreported.arrived(TOPIC)
    assert [*unreported.batches()] == [(TOPIC, 2, {f"{TOPIC} a": 2})]
    unreported.arrived(TOPIC)
    assert [*unreported.batches()] == []


# --- whoever removes events -------------------------------------------------------------------------------


def add_and_trim(server: Server, stream: str, numbers: range, keep: int) -> None:
    """Adds and trims at once, as a foreign producer does with XADD MAXLEN."""
    with server.client() as client, client.pipeline(transaction=True) as pipeline:
        for number in numbers:
            body = f'{{"specversion": "1.0", "id": "{number}", "data": {{"number": {number}}}}}'
            pipeline.xadd(stream, {"id": str(number), "body": body}, maxlen=keep, approximate=False)
        pipeline.execute()


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("others", [0, 4])
async def test_read_past_a_gap(start_server: StartServer, instances: int, others: int) -> None:
    """A transaction adds and trims while a group waits, which reads on past the gap: it is counted."""
    server = start_server()
    async with place_on(server) as place:
        adapters = [await place.adapter(**keeping()) for _ in range(instances)]
        taken = [await adapters[0].open_consumer(spec(name=f"other{number}")) for number in range(others)]
        consumers = [await each.open_consumer(spec()) for each in adapters]
        await place.publish(*range(5))
        heard: list[int] = []

        async def read(consumer: Any) -> None:
            while True:
                batch = await consumer.receive(3)
                heard.extend(numbers(batch))
                await consumer.settle(acks(batch))

        reading = [asyncio.create_task(read(each)) for each in consumers]
        await until(lambda: len(heard) == 5, "all that there is was read")
        for begin in (100, 300):
            add_and_trim(server, place.keys.stream(TOPIC), range(begin, begin + 100), 10)
            await until(lambda end=begin + 99: max(heard) == end, "what is left was read")  # type: ignore[misc]
        keeper = await whose_turn(adapters)
        await look(keeper)
        about = f"{TOPIC} {GROUP}"
        assert counted(place)[about] == 180
        assert {name: count for name, count in counted(place).items() if name != about} == {
            f"{TOPIC} tests.other{number}": 195 for number in range(others)
        }
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for consumer in (*consumers, *taken):
            await consumer.close()
        await look(keeper)
        assert counted(place)[about] == 180


async def test_deleted_in_the_middle(start_server: StartServer) -> None:
    """Events that are deleted one by one count as lost when nobody had read them, and only then."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(**keeping())
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(10))
        await consumer.settle(acks(await receive(consumer, 5)))
        stream = place.keys.stream(TOPIC)
        ids = [entry[0] for entry in server.ask("XRANGE", stream, "-", "+")]
        server.ask("XDEL", stream, *ids[1:4], *ids[6:8])
        assert numbers(await receive(consumer, 3)) == [5, 8, 9]
        await look(adapter)
        assert counted(place) == {f"{TOPIC} {GROUP}": 2}
        server.ask("XDEL", stream, ids[9])  # which is pending: its handler has it
        await look(adapter)
        assert counted(place) == {f"{TOPIC} {GROUP}": 2}
        await consumer.close()


async def test_positions_that_somebody_moves(start_server: StartServer) -> None:
    """A group that is moved ahead, or was not made by the bus, has lost what it skips, and nothing else."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(**keeping())
        stream = place.keys.stream(TOPIC)
        await leave_behind(place, adapter, *range(10))
        server.ask("XGROUP", "CREATE", stream, "tests.foreign", "0")
        await look(adapter)
        server.ask("XGROUP", "SETID", stream, GROUP, "$")
        await look(adapter)
        assert counted(place) == {f"{TOPIC} {GROUP}": 10}
        server.ask("XGROUP", "DESTROY", stream, GROUP)
        consumer = await adapter.open_consumer(spec())
        await consumer.settle(acks(await receive(consumer, 10)))
        await look(adapter)
        assert counted(place) == {f"{TOPIC} {GROUP}": 10}
        await consumer.close()


async def test_a_group_that_nobody_has_begun_to_count(start_server: StartServer) -> None:
    """Entries settled before they are counted are no loss, and entries lost afterwards are one."""
    async with place_on(start_server()) as place:
        adapter = await place.adapter(**keeping())
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(10))
        await consumer.settle(acks(await receive(consumer, 4)))
        place.ask("DEL", place.keys.settled(TOPIC))
        place.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 6)  # those that are settled
        await consumer.settle(acks(await receive(consumer, 6)))
        await look(adapter)
        assert counted(place) == {}
        await consumer.close()
        await place.publish(*range(5))
        place.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 2)
        await look(adapter)
        assert counted(place) == {f"{TOPIC} {GROUP}": 3}


async def test_what_is_gone_before_the_group_of_a_new_topic_is_made(start_server: StartServer) -> None:
    """A pattern that runs is owed all that is stored in a new topic: what is removed there is lost."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(**keeping())
        consumer = await adapter.open_consumer(spec("tests.#"))
        await place.publish(*range(5), topic=OTHER)
        server.ask("XTRIM", place.keys.stream(OTHER), "MAXLEN", 2)
        assert numbers(await receive(consumer, 2)) == [3, 4]
        assert (counted(place), adapter.lost) == ({f"{OTHER} {GROUP}": 3}, 3)
        await look(adapter)
        assert (counted(place), adapter.lost) == ({f"{OTHER} {GROUP}": 3}, 3)
        await consumer.close()


@pytest.mark.parametrize("most", [0, 8])
async def test_what_is_gone_while_the_service_of_a_pattern_is_away(
    start_server: StartServer, most: int
) -> None:
    """Retention counts what is removed of a new topic before the group is made, once, and the cap's apart."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(**keeping(**({"max_length": most} if most else {})))
        await (await adapter.open_consumer(spec("tests.#"))).close()
        await look(adapter)
        await place.publish(*range(20), topic=OTHER)
        server.ask("XTRIM", place.keys.stream(OTHER), "MAXLEN", 10)
        dropped = 2 if most else 0
        await look(adapter)
        await look(adapter)
        assert counted(place) == {f"{OTHER} {GROUP}": 10 + dropped}
        server.ask("XTRIM", place.keys.stream(OTHER), "MAXLEN", 5)
        removed = 10 + dropped + (3 if most else 5)
        again = await place.adapter(**keeping())
        consumer = await again.open_consumer(spec("tests.#"))
        assert numbers(await receive(consumer, 5)) == [*range(15, 20)]
        assert counted(place) == {f"{OTHER} {GROUP}": removed}
        await look(adapter)
        assert counted(place) == {f"{OTHER} {GROUP}": removed}
        await consumer.close()


async def test_what_was_gone_before_is_nobodys_loss(start_server: StartServer) -> None:
    """A group does not lose what was removed before it was made, with or without other groups."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(**keeping())
        await place.publish(*range(20))
        server.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 5)
        await look(adapter)
        pattern = spec("tests.#", name="pattern")
        await adapter._running.records.enter(pattern)
        await look(adapter)
        adapter._running.records.leave(pattern)
        await (await adapter.open_consumer(pattern)).close()
        consumer = await adapter.open_consumer(spec())
        late = await adapter.open_consumer(spec(name="late", start="latest"))
        assert numbers(await receive(consumer, 5)) == [*range(15, 20)]
        await place.publish(20)
        assert numbers(await receive(late, 1)) == [20]
        await look(adapter)
        assert counted(place) == {}
        for each in (consumer, late):
            await each.close()


async def test_a_broadcast_subscription_counts_what_it_misses(start_server: StartServer) -> None:
    """Also when everything is trimmed that it had not read, and where everybody can read it."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(**keeping())
        consumer = await adapter.open_consumer(spec(mode="broadcast"))
        await place.publish(*range(10))
        await consumer.settle(acks(await receive(consumer, 10)))
        assert await consumer.receive(1) == []
        stream = place.keys.stream(TOPIC)
        add_and_trim(server, stream, range(20, 30), 2)
        assert numbers(await receive(consumer, 2)) == [28, 29]
        add_and_trim(server, stream, range(30, 40), 1)
        server.ask("XTRIM", stream, "MAXLEN", 0)
        await until(lambda: adapter.lost >= 8, "the first gap is counted")
        while await consumer.receive(1):
            pass
        await place.publish(50)
        assert numbers(await receive(consumer, 1)) == [50]
        await until(lambda: counted(place) == {f"{TOPIC} {GROUP}": 18}, "all of it is on the server")
        assert adapter.lost == 18
        await consumer.close()


async def test_a_cluster_counts_in_one_place() -> None:
    """A script reaches one slot: what it counts there is copied to where everybody looks."""
    with Cluster(newest_binary()) as cluster:
        first = cluster.primaries[0]
        options = make_options(cluster=[first.address], prefix="bus", **keeping(max_length=5))
        adapter = StreamsAdapter(options, BuildContext(service="tests", clock=SystemClock()))
        client = redis.RedisCluster(host=first.host, port=first.port)
        await adapter.start()
        try:
            for topic in (TOPIC, OTHER):
                await (await adapter.open_consumer(spec(topic))).close()
            messages = [message(number, topic) for topic in (TOPIC, OTHER) for number in range(9)]
            assert await adapter.publish(messages) == [None] * 18
            losses = adapter._keys.losses
            want = {f"{topic} {GROUP}".encode(): b"4" for topic in (TOPIC, OTHER)}
            await look(adapter)
            assert client.hgetall(losses) == want
            client.hset(losses, f"{TOPIC} {GROUP}", 3)  # as after an older copy
            adapter._retention._copied.clear()  # type: ignore[union-attr]
            await look(adapter)
            assert client.hgetall(losses) == want
            assert await adapter.groups.losses() == {f"{topic} {GROUP}": 4 for topic in (TOPIC, OTHER)}
        finally:
            await adapter.close()
            client.close()
