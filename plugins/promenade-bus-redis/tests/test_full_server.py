"""A server whose memory is full: what frees memory needs none, on every server."""

from __future__ import annotations

from typing import Any

import pytest

from bus_core import Consumer, DeadLetterFilter, Outcome, PublishFailed
from promenade_bus_redis.server.failures import Kind, RedisFailure
from redis_support.binaries import ServerBinary
from redis_support.fixtures import StartServer
from redis_support.servers import Server
from redis_support.streams import (
    GROUP,
    TOPIC,
    Place,
    acks,
    buried,
    die,
    large,
    message,
    numbers,
    place_on,
    receive,
    spec,
    until,
)  # fmt: skip

QUICK: dict[str, Any] = {"lease": "600ms", "block": "50ms", "topic_refresh": "10ms"}
KEEP_NOTHING: dict[str, Any] = {"retention": {"min_age": "20ms"}}


def fill(server: Server, share: float = 1.0) -> None:
    """From now on the server uses as much as it may, or more: so many times as much."""
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    used = int(server.ask("INFO", "memory").partition("used_memory:")[2].partition("\r")[0])
    server.ask("CONFIG", "SET", "maxmemory", int(used / share) - 1000)


def make_room(server: Server) -> None:
    server.ask("CONFIG", "SET", "maxmemory", 0)


async def start_full(server: Server, place: Place, count: int = 100) -> None:
    """A topic with a group and events, of which nobody has handled one, on a server that is full."""
    adapter = await place.adapter(**QUICK)
    consumer = await adapter.open_consumer(spec())
    assert await adapter.publish([large(number, 20_000) for number in range(count)]) == [None] * count
    await consumer.close()
    await adapter.close()
    place.adapters.remove(adapter)
    fill(server)


async def drained(consumer: Consumer, count: int) -> list[int]:
    """The numbers of so many events, which are settled."""
    found: list[int] = []
    while len(found) < count:
        batch = await receive(consumer, 1)
        found += numbers(batch)
        assert await consumer.settle(acks(batch)) == [None] * len(batch)
    return found


async def test_a_bus_starts_and_drains(binary: ServerBinary, start_server: StartServer) -> None:
    """On a full server a bus starts, handles what is there, and trims it; then there is room again."""
    server = start_server(binary)
    async with place_on(server) as place:
        await start_full(server, place)
        adapter = await place.adapter(**QUICK, **KEEP_NOTHING)
        (refused,) = await adapter.publish([message(0)])
        assert isinstance(refused, PublishFailed)
        assert "maxmemory" in str(refused)
        consumer = await adapter.open_consumer(spec())
        assert await drained(consumer, 100) == [*range(100)]
        assert await adapter.backlog(spec()) == 0
        await until(lambda: place.ask("XLEN", place.keys.stream(TOPIC)) == 0, "all of it is trimmed", 20)
        assert await adapter.publish([message(0)]) == [None]
        await consumer.close()


@pytest.mark.parametrize("name", ["new", "pattern", "ordered", "broadcast"])
async def test_subscriptions_open(binary: ServerBinary, start_server: StartServer, name: str) -> None:
    """On a full server every kind of subscription opens, also a new one, with a configured consumer."""
    server = start_server(binary)
    async with place_on(server) as place:
        await start_full(server, place, 5)
        adapter = await place.adapter(**QUICK, consumer="worker-1")
        topic = "tests.thing.#" if name == "pattern" else TOPIC
        mode = "broadcast" if name == "broadcast" else "group"
        consumer = await adapter.open_consumer(spec(topic, name, mode=mode, ordered=name == "ordered"))
        if name != "broadcast":
            assert await drained(consumer, 5) == [*range(5)]
        other = await adapter.open_consumer(spec("tests.unheard.of", "other"))
        services = adapter._running
        beats = services.leases.beats
        await until(lambda: services.leases.beats > beats + 2, "the instance says that it lives")
        assert services.leases.problem is None
        assert adapter.degraded is None
        for each in (consumer, other):
            await each.close()


async def test_a_server_without_anything(binary: ServerBinary, start_server: StartServer) -> None:
    """A bus starts on a full server that it has never seen."""
    server = start_server(binary)
    async with place_on(server) as place:
        server.ask("SET", "somebody-else", "x" * 5_000_000)
        fill(server)
        adapter = await place.adapter(**QUICK)
        consumer = await adapter.open_consumer(spec())
        assert place.ask("EXISTS", place.keys.epoch) == 1
        assert await adapter.backlog(spec()) == 0
        await consumer.close()


async def test_every_outcome(binary: ServerBinary, start_server: StartServer) -> None:
    """On a full server dead letters, retries and releases are stored within a reserve; they come back."""
    server = start_server(binary)
    async with place_on(server) as place:
        await start_full(server, place)
        adapter = await place.adapter(**QUICK, **KEEP_NOTHING)
        consumer = await adapter.open_consumer(spec())
        first, second, third, fourth = await receive(consumer, 4)
        assert (
            await consumer.settle(
                [
                    buried(first),
                    Outcome("retry", second.receipt, 0.1, 2),
                    Outcome("release", third.receipt),
                    Outcome("hold", fourth.receipt, 0.0, 2),
                ]
            )
            == [None] * 4
        )
        assert await consumer.settle(acks([fourth])) == [None]
        assert {*await drained(consumer, 98)} == {*range(1, 100)} - {3}
        letters = adapter.dead_letters
        (letter,) = await letters.list(DeadLetterFilter(), 10)
        fill(server)
        assert await letters.redrive([letter.id]) == 1
        (again,) = await receive(consumer, 1)
        assert await consumer.settle([buried(again)]) == [None]
        assert await letters.purge(DeadLetterFilter()) == 1
        await consumer.close()


async def test_a_letter_in_front_of_everything(binary: ServerBinary, start_server: StartServer) -> None:
    """An event that fails for good does not keep a full server full: its letter lets the rest be trimmed."""
    server = start_server(binary)
    async with place_on(server) as place:
        await start_full(server, place)
        adapter = await place.adapter(**QUICK, **KEEP_NOTHING)
        consumer = await adapter.open_consumer(spec())
        (poison,) = await receive(consumer, 1)
        await drained(consumer, 99)
        assert await consumer.settle([buried(poison)]) == [None]
        await until(lambda: place.ask("XLEN", place.keys.stream(TOPIC)) == 0, "all of it is trimmed", 20)
        await consumer.close()


async def test_the_reserve_is_bounded(binary: ServerBinary, start_server: StartServer) -> None:
    """Where more than a tenth beyond its memory is used, a dead letter has to wait, and so does its event."""
    server = start_server(binary)
    async with place_on(server) as place:
        await start_full(server, place)
        fill(server, 1.5)
        adapter = await place.adapter(**QUICK)
        consumer = await adapter.open_consumer(spec())
        (poison,) = await receive(consumer, 1)
        (refused,) = await consumer.settle([buried(poison)])
        assert isinstance(refused, RedisFailure)
        assert refused.kind is Kind.FULL
        assert len(place.pending()) >= 1
        make_room(server)
        assert await consumer.settle([buried(poison)]) == [None]
        await consumer.close()


async def test_what_the_dead_held(binary: ServerBinary, start_server: StartServer) -> None:
    """On a full server what a dead instance held goes to another one, also where the group is ordered."""
    server = start_server(binary)
    async with place_on(server) as place:
        await start_full(server, place, 10)
        for name, ordered in (("listener", False), ("ordered", True)):
            first, second = await place.adapter(**QUICK), await place.adapter(**QUICK)
            dying = await first.open_consumer(spec(name=name, ordered=ordered))
            await receive(dying, 3)
            place.adapters.remove(first)
            await die(first)
            next_owner = await second.open_consumer(spec(name=name, ordered=ordered))
            assert sorted(await drained(next_owner, 10)) == [*range(10)]
            await next_owner.close()


async def test_it_fills_up_while_everything_runs(binary: ServerBinary, start_server: StartServer) -> None:
    """When a server fills up under a running bus, that goes on to handle, and trims until there is room."""
    server = start_server(binary)
    async with place_on(server) as place:
        adapter = await place.adapter(**QUICK, **KEEP_NOTHING)
        consumers = [
            await adapter.open_consumer(spec()),
            await adapter.open_consumer(spec(name="ordered", ordered=True)),
            await adapter.open_consumer(spec("tests.#", "pattern")),
        ]
        assert await adapter.publish([large(number, 20_000) for number in range(60)]) == [None] * 60
        fill(server)
        for consumer in consumers:
            assert await drained(consumer, 60) == [*range(60)]
        await until(lambda: place.ask("XLEN", place.keys.stream(TOPIC)) == 0, "all of it is trimmed", 20)
        assert await adapter.publish([message(0)]) == [None]
        for consumer in consumers:
            await drained(consumer, 1)
            await consumer.close()
        assert adapter.lost == 0
        assert GROUP in {report.name for report in await adapter.groups.list()}
