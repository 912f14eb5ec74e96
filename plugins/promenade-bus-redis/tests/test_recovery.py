from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from bus_core import AdapterError, Attempt, Consumer, LeaseLost, Outcome, Received
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.scripts import DONE
from promenade_bus_redis.streams.group_consumer import GroupConsumer
from promenade_bus_redis.streams.leases import NO_SESSION
from promenade_bus_redis.streams.names import instance_of
from promenade_bus_redis.streams.wire import message_fields
from redis_support.faults import CutAtReply, LoseReplies
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.streams import (
    GROUP,
    TOPIC,
    acks,
    die,
    lose_touch,
    message,
    numbers,
    place_on,
    receive,
    spec,
    stand_still,
    until,
)

FAILED = Attempt(1, datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC), "ValueError: no")
QUICK = {"lease": "600ms"}


# --- owners that die --------------------------------------------------------------------------------------


async def test_what_the_dead_held(redis_server: SharedServer) -> None:
    """The messages of a dead instance go to another one when its lease ends, counted as an attempt."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        dying, staying = await first.open_consumer(spec()), await second.open_consumer(spec())
        await place.publish(1)
        receiving = asyncio.ensure_future(receive(dying, 1))
        if not (await asyncio.wait([receiving], timeout=0.2))[0]:
            receiving.cancel()
        await die(first)
        (received,) = await receive(staying, 1)
        assert numbers([received]) == [1]
        await staying.settle(acks([received]))
        assert await second.backlog(spec()) == 0
        await staying.close()


async def test_deaths_count(redis_server: SharedServer) -> None:
    """Each death adds an attempt; what the owner had noted before goes on from there."""
    async with place_on(redis_server) as place:
        history: list[str] = []
        publisher = await place.adapter()
        await place.publish(1)
        for expected in (1, 3, 4):
            adapter = await place.adapter(**QUICK)
            consumer = await adapter.open_consumer(spec())
            (received,) = await receive(consumer, 1)
            assert received.attempt == expected
            history = [attempt.error.partition(":")[0] for attempt in received.history]
            if expected == 1:
                await consumer.settle([Outcome("hold", received.receipt, 0.0, 2, (FAILED,))])
            else:
                assert received.owner_died
                assert received.redelivered
            await die(adapter)
        assert history == ["ValueError", "ConsumerDied", "ConsumerDied"]
        assert await publisher.backlog(spec()) == 1


async def test_suspects_are_few(redis_server: SharedServer) -> None:
    """Of what the dead held only a few are taken at once, and what outlived two owners is taken alone."""
    async with place_on(redis_server) as place:
        await place.adapter()
        await place.publish(*range(40))
        first = await place.adapter(**QUICK)
        await receive(await first.open_consumer(spec()), 40)
        await die(first)
        second = await place.adapter(**QUICK)
        consumer = await second.open_consumer(spec())
        suspects = await receive(consumer, 16)
        assert [received.attempt for received in suspects] == [2] * 16
        assert await consumer.receive(40) == []
        await die(second)
        third = await place.adapter(**QUICK)
        consumer = await third.open_consumer(spec())
        got: list[int] = []
        while len(got) < 40:
            batch = await receive(consumer, 1)
            batch += await consumer.receive(100)
            twice = [received for received in batch if received.attempt == 3]
            assert len(batch) <= 16
            assert not twice or len(batch) == 1
            got += numbers(batch)
            await consumer.settle(acks(batch))
        assert sorted(got) == [*range(40)]
        assert await third.backlog(spec()) == 0
        await consumer.close()


async def test_what_the_dead_held_and_was_deleted(redis_server: SharedServer) -> None:
    """Entries that were trimmed while nobody had handled them are counted as lost, and forgotten."""
    async with place_on(redis_server) as place:
        first = await place.adapter(**QUICK)
        await place.publish(*range(5))
        await receive(await first.open_consumer(spec()), 5)
        await die(first)
        place.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 2)
        second = await place.adapter(**QUICK)
        consumer = await second.open_consumer(spec())
        batch = await receive(consumer, 2)
        assert numbers(batch) == [3, 4]
        await consumer.settle(acks(batch))
        await until(lambda: second.lost == 3, "the others are counted")
        assert place.pending() == []
        await consumer.close()


async def test_a_living_owner_is_not_robbed(redis_server: SharedServer) -> None:
    """While an instance lives it keeps what it holds for many leases, although its event loop is blocked."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        await place.publish(1)
        owner = await first.open_consumer(spec())
        batch = await receive(owner, 1)
        time.sleep(2.0)  # noqa: ASYNC251 - a handler that blocks the loop
        rival = await second.open_consumer(spec())
        assert await rival.receive(1) == []
        assert await owner.settle(acks(batch)) == [None]
        for each in (owner, rival):
            await each.close()


async def test_a_reply_that_is_read_too_late(redis_server: SharedServer) -> None:
    """Entries handed out while the loop was blocked, and claimed by others, are not received any more."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(lease="300ms", block="10s")
        await place.publish()
        consumer = await adapter.open_consumer(spec())
        receiving = asyncio.ensure_future(receive(consumer, 1))
        stream = place.keys.stream(TOPIC)
        publisher = await place.adapter()

        def waits() -> bool:
            return any(fields["cmd"] == "xreadgroup" for fields in redis_server.client().client_list())

        await until(waits, "the read waits at the server")
        stored = message(1)
        claimed = place.ask("XADD", stream, "*", "id", stored.id, "body", stored.body)
        deadline = time.monotonic() + 5
        while not place.pending() and time.monotonic() < deadline:
            pass  # the loop is blocked: it cannot read the reply
        place.ask("XCLAIM", stream, GROUP, "rival", 0, claimed)
        leases = adapter._services.leases  # type: ignore[union-attr]
        leases._renewed_at -= 60  # the process stood still
        beats = leases.beats
        while leases.beats == beats and time.monotonic() < deadline:
            pass
        assert await publisher.publish([message(2)]) == [None]
        assert numbers(await receiving) == [2]
        assert {owner for entry, owner in place.pending() if entry == claimed} == {"rival"}
        await consumer.close()


async def test_a_former_owner_does_not_steal_back(redis_server: SharedServer) -> None:
    """An instance without its lease does not renew it; its later settlements are refused as late."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        await place.publish(1, 2, 3)
        zombie = await first.open_consumer(spec())
        batch = await receive(zombie, 3)
        lose_touch(first)
        owner = await second.open_consumer(spec())
        taken = await receive(owner, 3)
        assert [received.attempt for received in taken] == [2, 2, 2]
        await stand_still(first)
        assert {name for _, name in place.pending()} == {leasing(owner).name}
        outcomes = [
            *acks(batch[:1]),
            Outcome("retry", batch[1].receipt, 5.0),
            Outcome("release", batch[2].receipt),
        ]
        assert [type(result) for result in await zombie.settle(outcomes)] == [LeaseLost] * 3
        assert len(place.pending()) == 3
        assert await owner.settle(acks(taken)) == [None] * 3
        await zombie.close()
        await owner.close()


def leasing(consumer: Consumer) -> GroupConsumer:
    """The consumer, as what it is."""
    assert isinstance(consumer, GroupConsumer)
    return consumer


async def test_what_others_own_is_not_begun(redis_server: SharedServer) -> None:
    """After beats that came too late a consumer is in doubt, until it has asked what it owns still."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        await place.publish(1, 2, 3, 4)
        consumer = leasing(await first.open_consumer(spec()))
        batch = await receive(consumer, 4)
        lose_touch(first)
        owner = await second.open_consumer(spec())
        taken = await receive(owner, 2)
        assert await owner.settle(acks(taken[:1])) == [None]
        assert not consumer.in_doubt  # it beats in time, for all that it knows

        await stand_still(first)
        leases = first._running.leases
        beats = leases.beats
        await until(lambda: leases.beats > beats + 1, "it beats in time again")
        assert consumer.in_doubt
        lost = {received.message.id for received in taken}
        owned = await consumer.confirm([received.receipt for received in batch])
        assert [*owned] == [received.message.id not in lost for received in batch]
        assert not consumer.in_doubt

        rest = [received for received in batch if received.message.id not in lost]
        assert await consumer.settle(acks(rest)) == [None, None]
        assert await owner.settle(acks(taken[1:])) == [None]
        assert await second.backlog(spec()) == 0
        await consumer.close()
        await owner.close()


async def test_what_lies_ready_is_asked_about(redis_server: SharedServer) -> None:
    """Messages received before a process pause are not handed out when others own them."""
    async with place_on(redis_server) as place:
        first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
        consumer = leasing(await first.open_consumer(spec()))
        await place.publish(1)
        place.ask("XADD", place.keys.inbox(TOPIC, GROUP), "*", *message_fields(message(2)))
        await receive(consumer, 1)
        assert len(consumer._holdings.ready) == 1  # the server counts for each of the two streams
        lose_touch(first)
        owner = await second.open_consumer(spec())
        taken: list[Received] = []
        while len(taken) < 2:
            taken += await receive(owner, 2)
        for received in consumer._holdings.ready:
            received.receipt.session = NO_SESSION
        consumer.stop()
        assert await consumer.receive(10) == []
        assert await owner.settle(acks(taken)) == [None, None]
        await consumer.close()
        await owner.close()


async def test_a_group_that_is_gone_owns_nothing(redis_server: SharedServer) -> None:
    """Nothing is held back for ever when the group is gone: what it held belongs to nobody."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        await place.publish(1, 2)
        consumer = leasing(await adapter.open_consumer(spec()))
        batch = await receive(consumer, 2)
        leases = adapter._services.leases  # type: ignore[union-attr]
        await stand_still(adapter)
        place.ask("DEL", place.keys.stream(TOPIC))
        assert await consumer.confirm([received.receipt for received in batch]) == [False, False]
        session, beats = leases.session, leases.beats
        await until(lambda: leases.beats > beats + 2, "beats go on")
        assert leases.session == session
        assert not consumer.in_doubt
        await consumer.close()


async def test_confirming_fails(redis_server: SharedServer) -> None:
    """A question without an answer is repeated: the consumer stays in doubt."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        await place.publish(1)
        consumer = leasing(await adapter.open_consumer(spec()))
        (received,) = await receive(consumer, 1)
        await stand_still(adapter)
        stream = place.keys.stream(TOPIC)
        place.ask("RENAME", stream, f"{stream}-elsewhere")
        place.ask("SET", stream, "of another type")
        with pytest.raises(RedisFailure, match="type"):
            await consumer.confirm([received.receipt])
        assert consumer.in_doubt
        place.ask("RENAME", f"{stream}-elsewhere", stream)
        assert await consumer.confirm([received.receipt]) == [True]
        assert not consumer.in_doubt
        assert await consumer.settle(acks([received])) == [None]
        await consumer.close()


async def test_consumers_of_the_dead_are_removed(redis_server: SharedServer) -> None:
    """A consumer that died leaves its group when it holds nothing any more, and never before."""
    async with place_on(redis_server) as place:
        first = await place.adapter(lease="90ms")
        await place.publish(1)
        await receive(await first.open_consumer(spec()), 1)
        dead = first._services.name  # type: ignore[union-attr]
        await die(first)
        second = await place.adapter(lease="90ms")
        consumer = await second.open_consumer(spec())
        batch = await receive(consumer, 1)

        def names() -> list[str]:
            infos = place.ask("XINFO", "CONSUMERS", place.keys.stream(TOPIC), GROUP)
            return [instance_of(info[info.index("name") + 1]) for info in infos]

        assert dead in names()
        await consumer.settle(acks(batch))
        upkeep = second.upkeep
        upkeep._rounds = 9
        await until(lambda: dead not in names(), "it is removed", 20)
        await consumer.close()


# --- replies that are lost --------------------------------------------------------------------------------


async def test_a_read_whose_reply_is_lost(start_server: StartServer, start_proxy: StartProxy) -> None:
    """Entries of a reply that never arrived are received after all, once, as a first attempt."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address)
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(10))
        held = await receive(consumer, 3)
        proxy.use(CutAtReply("XREADGROUP"))
        got: list[int] = []
        failures = 0
        while len(got) < 7:
            try:
                batch = await consumer.receive(4)
            except Exception:
                failures += 1
                continue
            assert {received.attempt for received in batch} <= {1}
            got += numbers(batch)
            await consumer.settle(acks(batch))
        assert failures == 1
        assert sorted(got) == [*range(3, 10)]
        assert await consumer.settle(acks(held)) == [None] * 3
        assert await adapter.backlog(spec()) == 0
        await consumer.close()


async def test_an_acknowledgement_whose_reply_is_lost(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """An outcome that was carried out, and whose reply was lost, is not late when it is repeated."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address)
        consumer = await adapter.open_consumer(spec())
        await place.publish(1, 2)
        first, second = await receive(consumer, 2)
        proxy.use(CutAtReply(f"EVALSHA {DONE.digest}"))
        (failed,) = await consumer.settle(acks([first]))
        assert failed is not None
        assert await consumer.settle(acks([first])) == [None]
        proxy.use(CutAtReply("EVALSHA"))
        (failed,) = await consumer.settle([Outcome("release", second.receipt)])
        assert failed is not None
        assert await consumer.settle([Outcome("release", second.receipt)]) == [None]
        assert numbers(await receive(consumer, 1)) == [2]
        assert place.ask("XLEN", place.keys.inbox(TOPIC, GROUP)) == 1
        await consumer.close()


async def test_replies_are_lost_all_the_time(start_server: StartServer, start_proxy: StartProxy) -> None:
    """With many lost replies every event is handled, and no more is handled twice than replies were lost."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        publisher = await place.adapter()
        async with place.bus(address=proxy.address) as bus:
            got: list[str] = []

            async def handle(event: object, delivery: object) -> None:
                got.append(delivery.message_id)  # type: ignore[attr-defined]

            bus.subscribe(TOPIC, handle, name="listener")
            await bus.subscriptions[0].ready()
            proxy.use(LoseReplies(0.05, 1, ("XREADGROUP", "XACK", "EVALSHA")))
            body = (
                '{"specversion":"1.0","id":"%s","source":"x","type":"x.y","time":"2026-01-01T00:00:00Z",'
                '"subject":"0190a0a0-0000-7000-8000-000000000001","data":{}}'
            )
            sent = [message(number) for number in range(500)]
            for each in sent:
                stored = type(each)(each.id, each.topic, each.key, (body % each.id).encode())
                assert await publisher.publish([stored]) == [None]
            await until(lambda: len({*got}) == 500, "all are handled", 30)
            proxy.heal()
            await bus.drain()
        assert {*got} == {each.id for each in sent}
        assert await publisher.backlog(spec()) == 0
        assert len(got) - 500 <= 16 * max(1, proxy.counts["lost_replies"])


# --- groups that are gone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("others", [0, 5])
async def test_a_group_that_is_gone_while_nothing_comes(
    redis_server: SharedServer, ordered: bool, others: int
) -> None:
    """A waiting consumer whose group is gone makes it again, and reads its entries, with nothing new."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="100ms")
        taken = [await adapter.open_consumer(spec(name=f"other{number}")) for number in range(others)]
        consumer = await adapter.open_consumer(spec(ordered=ordered))
        await place.publish(1, 2)
        await consumer.settle(acks(await receive(consumer, 2)))
        assert await consumer.receive(1) == []
        place.ask("XGROUP", "DESTROY", place.keys.stream(TOPIC), GROUP)
        assert numbers(await receive(consumer, 2, 20.0)) == [1, 2]
        for each in (consumer, *taken):
            await each.close()


async def test_a_group_that_is_destroyed(redis_server: SharedServer) -> None:
    """A group that somebody destroyed is made again from the beginning, at once, and health says so."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="100ms")
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        batch = await receive(consumer, 1)
        place.ask("XGROUP", "DESTROY", place.keys.stream(TOPIC), GROUP)
        assert isinstance((await consumer.settle(acks(batch)))[0], LeaseLost)
        await place.publish(2)
        assert numbers(await receive(consumer, 2, timeout=20)) == [1, 2]
        assert adapter.degraded is not None
        assert f"{GROUP} on {TOPIC}" in adapter.degraded
        await consumer.close()


async def test_a_server_that_lost_everything(start_server: StartServer) -> None:
    """After FLUSHALL what is published next is received within two seconds, by patterns too."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(block="100ms", topic_refresh="200ms")
        consumers = [
            await adapter.open_consumer(spec()),
            await adapter.open_consumer(spec("tests.#", name="pattern")),
        ]
        await place.publish(1)
        for consumer in consumers:
            await consumer.settle(acks(await receive(consumer, 1)))
        server.ask("FLUSHALL")
        await place.publish(2)
        for consumer in consumers:
            assert numbers(await receive(consumer, 1, timeout=20)) == [2]
        assert adapter.degraded is not None
        await until(lambda: server.ask("SMEMBERS", place.keys.topics) == [TOPIC], "the topic is known again")
        for consumer in consumers:
            await consumer.close()


# --- names ------------------------------------------------------------------------------------------------


async def test_a_configured_name(redis_server: SharedServer) -> None:
    """A restart with the same configured name takes over at once what the process before held."""
    async with place_on(redis_server) as place:
        first = await place.adapter(consumer="worker-1", lease="2s")
        await place.publish(1)
        await receive(await first.open_consumer(spec()), 1)
        await die(first)
        second = await place.adapter(consumer="worker-1", lease="2s")
        consumer = await second.open_consumer(spec())
        batch: list[object] = []
        refused: set[str] = set()
        async with asyncio.timeout(10):
            while not batch:
                try:
                    batch = [*await consumer.receive(1)]
                except AdapterError as error:
                    refused.add(str(error).partition(",")[0])
                    await asyncio.sleep(0.05)
        assert refused == {"another instance has the consumer name 'worker-1'"}
        assert batch[0].attempt == 2  # type: ignore[attr-defined]
        await consumer.close()
