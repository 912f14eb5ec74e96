"""Living instances keep their messages, and no others do: heartbeats, turns, and the rest of the dead."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from bus_core import BaseEvent, Consumer, Outcome, Topic
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.group_consumer import GroupConsumer
from promenade_bus_redis.streams.leases import NO_SESSION
from promenade_bus_redis.streams.names import (
    instance_of,
    is_ordered,
    lease_of,
    name_consumer,
    next_owner_of,
    raw,
    text,
)
from redis_support.clusters import Cluster
from redis_support.faults import Piece, Stall, Write
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.streams import (
    GROUP,
    TOPIC,
    Place,
    acks,
    buried,
    die,
    lose_touch,
    message,
    numbers,
    place_on,
    receive,
    spec,
    until,
)

QUICK = {"lease": "600ms", "block": "200ms"}
SLOW = {"lease": "30s", "block": "200ms"}


def leasing(consumer: Consumer) -> GroupConsumer:
    """The consumer, as what it is."""
    assert isinstance(consumer, GroupConsumer)
    return consumer


async def beat(adapter: StreamsAdapter, times: int = 8) -> None:
    """Waits for heartbeats: more than a lease of ``QUICK``, in which they come six times."""
    leases = adapter._running.leases
    seen = leases.beats
    await until(lambda: leases.beats >= seen + times, "its heart beats")


# --- heartbeats -------------------------------------------------------------------------------------------


async def test_a_heartbeat_is_one_command(start_server: StartServer) -> None:
    """However much an instance holds, nothing of it is touched while handlers are at it."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(lease="600ms", block="10s")
        await place.publish(*range(500))
        consumers = [await adapter.open_consumer(spec(name=f"s{number}")) for number in range(3)]
        held = [await receive(consumer, 500) for consumer in consumers]
        server.ask("CONFIG", "RESETSTAT")
        leases = adapter._running.leases
        seen = leases.beats
        await until(lambda: leases.beats >= seen + 10, "its heart beats")
        sent = server.info("commandstats")
        assert "cmdstat_xclaim" not in sent
        assert sent["cmdstat_zadd"]["calls"] <= leases.beats - seen + 1
        for consumer, batch in zip(consumers, held, strict=True):
            assert await consumer.settle(acks(batch)) == [None] * 500
            await consumer.close()


async def test_what_is_deleted_while_it_is_handled(redis_server: SharedServer) -> None:
    """A letter of an event that somebody deleted meanwhile is stored, and the event is settled."""
    async with place_on(redis_server) as place:
        tries: list[float] = []
        async with place.bus(**QUICK, bus={"retry_attempts": 2, "retry_delay": "10ms"}) as bus:
            topic = Topic(TOPIC, BaseEvent)
            beats = lambda: bus.adapter.running.leases.beats  # type: ignore[union-attr]  # noqa: E731

            async def handle(_event: BaseEvent) -> None:
                tries.append(time.monotonic())
                place.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 0)
                seen = beats()
                await until(lambda: beats() > seen + 8, "its heart beats for more than a lease")
                raise ValueError("no")

            await bus.subscribe(topic, handle, name="listener").ready()
            await bus.publish(topic, BaseEvent("thing.happened", uuid4(), data={"n": 1}))
            async with asyncio.timeout(20):
                while not (letters := await bus.dead_letters.list()):  # noqa: ASYNC110 - a server sets no event
                    await asyncio.sleep(0.01)
            assert len(letters[0].attempts) == 2
            assert b'"n":1' in letters[0].body.replace(b" ", b"")
            await until(lambda: place.pending() == [], "nothing is pending")
        assert len(tries) == 2


async def test_a_lost_list_of_instances_robs_nobody(redis_server: SharedServer) -> None:
    """When all heartbeats are gone from the server they are counted up anew, and nobody is taken for dead."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        owner = await first.open_consumer(spec())
        await place.publish(1)
        batch = await receive(owner, 1)
        rival = await second.open_consumer(spec())
        for _ in range(5):
            place.ask("DEL", place.keys.heartbeats)
            second.upkeep.check_feeds_in(0.0)
            assert await rival.receive(1) == []
            await beat(first, 2)
            second.upkeep.check_feeds_in(0.0)
            assert await rival.receive(1) == []
        assert await rival.receive(1) == []
        assert await owner.settle(acks(batch)) == [None]
        for each in (owner, rival):
            await each.close()


async def test_each_instance_has_its_own_lease(redis_server: SharedServer) -> None:
    """An instance with a short lease waits as long as the lease of those that it watches."""
    async with place_on(redis_server) as place:
        slow = await place.adapter(**SLOW)
        owner = await slow.open_consumer(spec())
        await place.publish(1)
        batch = await receive(owner, 1)
        quick = await place.adapter(lease="90ms", block="50ms")
        rival = await quick.open_consumer(spec())
        await beat(quick, 40)
        quick.upkeep.check_feeds_in(0.0)
        assert await rival.receive(1) == []
        assert await owner.settle(acks(batch)) == [None]
        for each in (owner, rival):
            await each.close()


def test_names_say_who_is_asked() -> None:
    """A consumer's name tells its instance, and that one's its lease, whatever else is there."""
    name = name_consumer("web.9f3a2c1b.30000", 3, ordered=True)
    assert (instance_of(name), is_ordered(name)) == ("web.9f3a2c1b.30000", True)
    assert not is_ordered(name_consumer("web.9f3a2c1b.30000", 3))
    assert lease_of(instance_of(name), 1.0) == 30.0
    assert instance_of(next_owner_of(name)) not in name
    assert next_owner_of(next_owner_of(name)) == next_owner_of(name)
    assert lease_of("somebody", 1.5) == 1.5
    assert instance_of("somebody") == "somebody"
    assert raw(text(b"\xff#")) == b"\xff#"


# --- configured names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("web.1", "web"), ("web", "web.1"), ("a.b", "a"), ("a:1", "a")])
async def test_names_that_begin_alike(redis_server: SharedServer, names: tuple[str, str]) -> None:
    """An instance whose configured name begins that of another one has no right to what that one holds."""
    async with place_on(redis_server) as place:
        first = await place.adapter(consumer=names[0], **SLOW)
        owner = await first.open_consumer(spec())
        await place.publish(1, 2)
        batch = await receive(owner, 2)
        second = await place.adapter(consumer=names[1], **SLOW)
        rival = await second.open_consumer(spec())
        assert await rival.receive(2) == []
        assert {owner for _, owner in place.pending()} == {leasing(owner).name}
        assert await owner.settle(acks(batch)) == [None, None]
        for each in (owner, rival):
            await each.close()


# --- turns ------------------------------------------------------------------------------------------------


async def test_order_is_asked_for_in_a_rolling_deploy(redis_server: SharedServer) -> None:
    """Living instances of before keep what they hold; when they die, what they left is handled."""
    async with place_on(redis_server) as place:
        old, new = await place.adapter(**QUICK), await place.adapter(**QUICK)
        unordered = await old.open_consumer(spec())
        await place.publish(1, 2)
        assert numbers(await receive(unordered, 2)) == [1, 2]
        place.adapters = [new, old]
        ordered = await new.open_consumer(spec(ordered=True))
        await place.publish(3)
        batch = await receive(ordered, 1)
        assert numbers(batch) == [3]
        await ordered.settle(acks(batch))
        await beat(new)
        assert await ordered.receive(1) == []
        place.adapters = [new]
        await die(old)
        left = await receive(ordered, 2)
        attempts = [received.attempt for received in left]
        assert [*zip(attempts, numbers(left), strict=True)] == [(2, 1), (2, 2)]
        await ordered.settle(acks(left))
        assert await new.backlog(spec(ordered=True)) == 0
        await ordered.close()


async def test_who_had_the_turn_before_is_waited_for(redis_server: SharedServer) -> None:
    """Nothing is read while an earlier active instance that lives has something in hand."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        one = await first.open_consumer(spec(ordered=True))
        await place.publish(1, 2)
        batch = await receive(one, 1)
        place.ask("HDEL", place.keys.active(TOPIC, GROUP), "holder")  # as after a failover that lost it
        other = await second.open_consumer(spec(ordered=True))
        for _ in range(5):
            assert await other.receive(2) == []
        assert await one.settle(acks(batch)) == [None]
        assert numbers(await receive(other, 1)) == [2]
        for each in (one, other):
            await each.close()


async def test_a_lock_that_is_lost_is_had_by_one(redis_server: SharedServer) -> None:
    """When a lock is gone from the server, and its tokens begin anew, one instance reads, not two."""
    async with place_on(redis_server) as place:
        adapters = [await place.adapter(**QUICK) for _ in range(2)]
        one = leasing(await adapters[0].open_consumer(spec(ordered=True)))
        await place.publish(1)
        await one.settle(acks(await receive(one, 1)))
        place.ask("DEL", place.keys.active(TOPIC, GROUP))
        other = leasing(await adapters[1].open_consumer(spec(ordered=True)))
        got: list[int] = []
        for number in range(2, 12):
            await place.publish(number)
            while number not in got:
                for consumer in (one, other):
                    batch = await consumer.receive(10)
                    assert await consumer.settle(acks(batch)) == [None] * len(batch)
                    got += numbers(batch)
        assert got == [*range(2, 12)]
        assert sum(consumer._active_lock.is_taken for consumer in (one, other)) == 1
        for each in (one, other):
            await each.close()


async def test_a_token_that_is_behind_is_taken_anew(redis_server: SharedServer) -> None:
    """An instance with the lock, and a token below one that a server has seen, gets a greater one."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        place.ask("SET", place.keys.fence(TOPIC, GROUP), "77 somebody")
        consumer = leasing(await adapter.open_consumer(spec(ordered=True)))
        await place.publish(1)
        assert numbers(await receive(consumer, 1)) == [1]
        assert consumer._active_lock.token == f"78 {consumer.name}"
        await consumer.close()


# --- what is left behind ----------------------------------------------------------------------------------


async def test_a_consumer_that_cannot_say_that_it_leaves(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """The messages of a consumer that closed while the server was away go to others."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        rival = await place.adapter(**QUICK)
        adapter = await place.adapter(address=proxy.address, command_timeout="500ms", **QUICK)
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        await receive(consumer, 1)
        proxy.use(Stall("both"))
        await consumer.close()
        proxy.heal()
        next_owner = await rival.open_consumer(spec())
        (received,) = await receive(next_owner, 1)
        assert received.attempt == 2
        assert await next_owner.settle(acks([received])) == [None]
        await next_owner.close()


async def test_retries_come_in_time_beside_other_services(redis_server: SharedServer) -> None:
    """A parked retry of a dead instance comes when it is due, however many services share the server."""
    async with place_on(redis_server) as place:
        dying = await place.adapter(**SLOW)
        await place.publish(1)
        consumer = await dying.open_consumer(spec())
        (received,) = await receive(consumer, 1)
        began = time.monotonic()
        assert await consumer.settle([Outcome("retry", received.receipt, 2.0, 2)]) == [None]
        await until(lambda: place.ask("ZCARD", place.keys.due) == 1, "others are told")
        others = [await place.adapter(service=f"other{number}", **SLOW) for number in range(8)]
        next_owner = await place.adapter(**SLOW)
        await die(dying)
        place.adapters.remove(dying)
        consumers = [
            await next_owner.open_consumer(spec(f"tests.t{number}.happened")) for number in range(20)
        ]
        consumers.append(await next_owner.open_consumer(spec()))
        assert numbers(await receive(consumers[-1], 1)) == [1]
        assert 2.0 <= time.monotonic() - began < 20.0
        assert len(others) == 8
        for each in consumers:
            await each.close()


STRANGE_RETRIES: dict[str, bytes] = {
    "a text": b"no message",
    "three numbers": b"\x93\x01\x02\x03",
    "no fields": b"\x94\xa1x\xa0\x90\x05",
    "a field without a value": b"\x94\xa1x\xa0\x91\xa1a\x05",
    "fields that are no texts": b"\x94\xa1x\xa0\x92\x90\x90\x05",
    "more fields than a command has": b"\x94\xa1x\xa0\xdc\x40\x00" + b"\xa1a" * 0x4000 + b"\x05",
    "no delay": b"\x93\xa1x\xa0\x92\xa1a\xa1b",
    "a delay without end": b"\x94\xa1x\xa0\x92\xa1a\xa1b\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    "a delay that is none": b"\x94\xa1x\xa0\x92\xa1a\xa1b\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("score", ["1", "+inf", "-inf"])
async def test_parked_entries_that_are_none(redis_server: SharedServer, score: str) -> None:
    """A foreign entry among the parked retries blocks nothing, is a dead letter, and health names it."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        consumer = await adapter.open_consumer(spec())
        parked = place.keys.parked(TOPIC, GROUP)
        await place.publish(1)
        (received,) = await receive(consumer, 1)
        for member in STRANGE_RETRIES.values():
            place.ask("ZADD", parked, score, member)
        await consumer.settle([Outcome("retry", received.receipt, 0.2, 2)])
        batch = await receive(consumer, 1 + len(STRANGE_RETRIES))
        assert place.ask("ZCARD", parked) == 0
        retried = next(each for each in batch if each.attempt == 2)
        assert numbers([retried]) == [1]
        strange = [each for each in batch if each is not retried]
        assert {each.message.body for each in strange} == {*STRANGE_RETRIES.values()}
        await until(lambda: adapter.degraded, "health names it")
        assert adapter.degraded == (
            f"a foreign program has written among the retries of {GROUP} on {TOPIC} "
            f"({len(STRANGE_RETRIES)} so far); these entries become dead letters"
        )
        assert await consumer.settle([*acks([retried]), *map(buried, strange)]) == [None] * len(batch)
        assert await adapter.backlog(spec()) == 0
        await consumer.close()


async def test_a_key_of_somebody_else_in_place_of_retries(redis_server: SharedServer) -> None:
    """Health tells that retries cannot be looked for; other groups of the topic are counted and go on."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        consumer, other = await adapter.open_consumer(spec()), await adapter.open_consumer(spec(name="other"))
        parked = place.keys.parked(TOPIC, GROUP)
        place.ask("SET", parked, "something else")
        await place.publish(1)
        assert await adapter.backlogs([spec(), spec(name="other")]) == [1, 1]
        (received,) = await receive(other, 1)
        await other.settle([Outcome("retry", received.receipt, 0.2, 2)])
        assert numbers(await receive(other, 1)) == [1]
        await until(lambda: adapter.degraded, "it was looked for")
        assert "the upkeep of the Redis adapter cannot do all due work" in (adapter.degraded or "")
        assert "another type" in (adapter.degraded or "")
        place.ask("DEL", parked)
        await until(lambda: adapter.degraded is None, "all is well")
        for each in (consumer, other):
            await each.close()


# --- cancellations ----------------------------------------------------------------------------------------


class StallReads(Stall):
    """Holds what is handed out for as long as it is in use."""

    async def carry(self, piece: Piece, write: Write) -> None:
        if piece.command in ("XREADGROUP", "EVALSHA"):
            await super().carry(piece, write)
        else:
            await write(piece.data)


def waits(consumer: GroupConsumer) -> bool:
    """True when it has nothing to do but wait for events."""
    if consumer._link is not None:
        return consumer._link._is_waiting and not consumer._recovery.is_busy
    return consumer._watch._waiting is not None


async def test_a_read_that_is_cancelled(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Entries handed out to a cancelled read are received by the next one, as a first attempt."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        await place.adapter()
        adapter = await place.adapter(address=proxy.address, block="10s", lease="30s")
        # The last one reads together with others, each other one on a connection of its own.
        consumers = [await adapter.open_consumer(spec(name=f"s{number}")) for number in range(6)]
        for consumer in (consumers[0], consumers[-1]):
            group = consumer.spec.group  # type: ignore[attr-defined]
            reading = asyncio.create_task(receive(consumer, 1))
            await until(lambda: waits(leasing(consumer)), "it waits")  # noqa: B023
            proxy.use(StallReads("replies"))
            await place.publish(1)
            await until(lambda: reading.done() or place.pending(group=group), "it is handed out", 5)  # noqa: B023
            reading.cancel()
            await asyncio.wait([reading])
            proxy.heal()
            if reading.cancelled():
                (received,) = await receive(consumer, 1)
            else:
                (received,) = reading.result()
            assert (received.attempt, *numbers([received])) == (1, 1)
            assert await consumer.settle(acks([received])) == [None]
            await receive_rest(consumers, adapter)
        for each in consumers:
            await each.close()


async def receive_rest(consumers: list[Consumer], adapter: StreamsAdapter) -> None:
    """Settles what is there, for all of them."""
    for consumer in consumers:
        while await adapter.backlog(consumer.spec):  # type: ignore[attr-defined]
            await consumer.settle(acks(await consumer.receive(10)))


async def test_what_nobody_here_knows_of_is_found(redis_server: SharedServer) -> None:
    """Entries pending for a consumer that does not know of them are found at the next look."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**SLOW)
        consumer = leasing(await adapter.open_consumer(spec()))
        await place.publish(1, 2)
        known, forgotten = await receive(consumer, 2)
        del forgotten.receipt.source.held[forgotten.receipt.entry_id]
        adapter.upkeep.check_feeds_in(0.0)
        (again,) = await receive(consumer, 1)
        assert (again.message.id, again.attempt) == (forgotten.message.id, 1)
        assert await consumer.settle(acks([known, again])) == [None, None]
        await consumer.close()


def everything(task: asyncio.Task[Any]) -> bool:
    return task is not asyncio.current_task()


def background(task: asyncio.Task[Any]) -> bool:
    return task.get_name().startswith("promenade-redis")


@pytest.mark.parametrize("chosen", [everything, background])
async def test_every_task_is_cancelled_again_and_again(
    redis_server: SharedServer, chosen: Callable[[asyncio.Task[Any]], bool]
) -> None:
    """A program cancels tasks at any moment, and goes on: every event is handled."""
    chance = random.Random(11)
    got: dict[str, set[int]] = {}
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        # A cancelled handler, and a lease that ends while the machine is busy, count as attempts.
        retry = {"retry_attempts": 100, "retry_delay": "10ms", "retry_max_delay": "100ms"}
        options = {"lease": "2s", "block": "200ms", "topic_refresh": "200ms"}
        async with place.bus(bus=retry, **options) as bus:

            def handler(name: str) -> Callable[[BaseEvent], Awaitable[None]]:
                async def handle(event: BaseEvent) -> None:
                    got.setdefault(name, set()).add(int(event.data["n"]))

                return handle

            topics = [Topic(f"tests.t{number}.happened", BaseEvent) for number in range(3)]
            for number in range(6):
                await bus.subscribe(topics[number % 3], handler(f"s{number}"), name=f"s{number}").ready()
            await bus.subscribe(topics[0], handler("ordered"), name="ordered", ordered=True).ready()
            await bus.subscribe("tests.#", handler("pattern"), name="pattern").ready()
            body = (
                '{"specversion":"1.0","id":"%s","source":"x","type":"thing.happened",'
                '"time":"2026-01-01T00:00:00Z","subject":"0190a0a0-0000-7000-8000-000000000001",'
                '"data":{"n":%d}}'
            )
            for number in range(120):
                topic = topics[number % 3].name
                each = message(number, topic)
                stored = type(each)(each.id, topic, each.key, (body % (each.id, number)).encode())
                while (await adapter.publish([stored])) != [None]:
                    pass
                if number % 3 == 0:
                    for task in asyncio.all_tasks():
                        if task is not asyncio.current_task() and chosen(task) and chance.random() < 0.5:
                            task.cancel()
                await asyncio.sleep(chance.random() / 50)
            wanted = {f"s{number}": {*range(number % 3, 120, 3)} for number in range(6)}
            wanted |= {"ordered": {*range(0, 120, 3)}, "pattern": {*range(120)}}
            await until(lambda: got == wanted, "all are handled", 90)
            await until(lambda: bus.adapter.degraded is None, "all goes on")


async def test_a_shared_connection_whose_task_is_cancelled(redis_server: SharedServer) -> None:
    """A waiting caller hears that no reply comes, at each step of the task; the next call works."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        pipe = adapter._running.pipe
        for steps in range(4):
            call = asyncio.create_task(pipe.call_many([("", ("PING",))]))
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks():
                if task.get_name() == "promenade-redis-pipe":
                    task.cancel()
            async with asyncio.timeout(30):
                await call
                assert await pipe.call("PING") == b"PONG"


async def test_lost_touch_is_noticed_by_others_only(redis_server: SharedServer) -> None:
    """An instance whose heartbeats do not arrive is taken for dead after its lease, and not before."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        owner = await first.open_consumer(spec())
        await place.publish(1)
        await receive(owner, 1)
        next_owner = await second.open_consumer(spec())
        await beat(second)
        began = time.monotonic()
        lose_touch(first)
        (received,) = await receive(next_owner, 1)
        assert time.monotonic() - began >= 0.6 - 0.1  # the last heartbeat was up to a sixth of a lease ago
        assert received.attempt == 2
        for each in (owner, next_owner):
            await each.close()


async def test_the_node_of_the_heartbeats_is_away() -> None:
    """On a cluster topics of other nodes go on: who cannot send heartbeats asks what is its own."""
    with Cluster() as cluster:
        place = Place(cluster.primaries[0], "bus", cluster.primaries[0].address)
        away = cluster.owner_of(place.keys.heartbeats)
        try:
            adapter = await place.adapter(cluster=True, lease="300ms", command_timeout="300ms", block="100ms")
            names = (f"tests.t{number}.happened" for number in range(100))
            topic = next(name for name in names if cluster.owner_of(place.keys.stream(name)) is not away)
            consumer = await adapter.open_consumer(spec(topic))
            await place.publish(1, topic=topic)
            await consumer.settle(acks(await receive(consumer, 1)))
            away.pause()
            leases = adapter._running.leases
            await until(lambda: leases.session == NO_SESSION, "heartbeats do not arrive")
            await place.publish(2, topic=topic)
            (received,) = await receive(consumer, 1, timeout=20)
            assert numbers([received]) == [2]
            assert leasing(consumer).in_doubt
            assert await leasing(consumer).confirm([received.receipt]) == [True]
            assert await consumer.settle(acks([received])) == [None]
            away.resume()
            await until(lambda: leases.session != NO_SESSION, "heartbeats arrive again")
            await consumer.close()
        finally:
            away.resume()
            await place.close()
