from __future__ import annotations

import asyncio

import pytest

from bus_core import PublishFailed, PublishUncertain
from redis_support.binaries import ServerBinary
from redis_support.child_processes import wait_until
from redis_support.faults import CutAtReply, Drop, Rate
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.servers import Replica
from redis_support.streams import TOPIC, large, message, place_on, until

OTHER = "tests.other.happened"


async def test_what_is_stored(redis_server: SharedServer) -> None:
    """An entry has documented fields; headers are there when there are some; the topic is registered."""
    plain, headed = message(1), message(2, headers={"trace": "ä"})
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        assert await adapter.publish([plain, headed]) == [None, None]
        key = f"{redis_server.prefix}:{{{TOPIC}}}"
        (_, first), (_, second) = place.ask("XRANGE", key, "-", "+")
        assert first == ["id", plain.id, "key", "k", "body", plain.body.decode()]
        assert second == [
            "id", headed.id, "key", "k", "headers", '{"trace":"ä"}', "body", headed.body.decode(),
        ]  # fmt: skip
        assert place.ask("SMEMBERS", f"{redis_server.prefix}:topics") == [TOPIC]


async def test_one_bad_message_does_not_fail_the_others(redis_server: SharedServer) -> None:
    """Each message of a batch has a result of its own."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        place.ask("SET", place.keys.stream(OTHER), "something else")
        first, second, third = await adapter.publish([message(1), message(2, OTHER), message(3)])
        assert (first, third) == (None, None)
        assert isinstance(second, PublishFailed)
        assert not second.transient
        assert "another type at the key" in str(second)
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 2


@pytest.mark.parametrize("occurrence", [1, 3])
async def test_a_lost_reply_is_uncertain(
    start_server: StartServer, start_proxy: StartProxy, occurrence: int
) -> None:
    """Messages whose replies were lost may be stored, and are told so; none is stored twice."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address)
        assert await adapter.publish([message(0)]) == [None]
        proxy.use(CutAtReply("XADD", occurrence))
        results = await adapter.publish([message(number) for number in range(5)])
        assert [type(result) for result in results] == [
            *[type(None)] * (occurrence - 1), *[PublishUncertain] * (6 - occurrence),
        ]  # fmt: skip
        assert await adapter.publish([message(9)]) == [None]
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 7


async def test_a_server_that_is_away(start_server: StartServer) -> None:
    """While the server is away nothing is stored, and it may be tried again; afterwards all is well."""
    server = start_server(settings={"appendonly": "yes", "appendfsync": "always"})
    async with place_on(server) as place:
        adapter = await place.adapter(connect_timeout="1s")
        assert await adapter.publish([message(1)]) == [None]
        server.kill()
        await asyncio.to_thread(wait_until, lambda: not server.is_running, "the server is gone")
        (first,) = await adapter.publish([message(2)])
        (second,) = await adapter.publish([message(3)])
        assert isinstance(first, PublishFailed | PublishUncertain)
        assert isinstance(second, PublishFailed)
        assert second.transient
        server.restart()
        assert await adapter.publish([message(4)]) == [None]


async def test_a_full_server(binary: ServerBinary, start_server: StartServer) -> None:
    """A server without memory takes nothing and says so; it does when it has some again."""
    server = start_server(binary, settings={"maxmemory-policy": "noeviction"})
    async with place_on(server) as place:
        adapter = await place.adapter()
        assert await adapter.publish([message(1)]) == [None]
        server.ask("CONFIG", "SET", "maxmemory", "1")
        (failed,) = await adapter.publish([message(2)])
        assert isinstance(failed, PublishFailed)
        assert failed.transient
        assert "maxmemory" in str(failed)
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await adapter.publish([message(3)]) == [None]


async def test_replicas_are_waited_for(binary: ServerBinary, start_server: StartServer) -> None:
    """With durability ``replicated`` an event is uncertain when too few replicas had it in time."""
    primary = start_server(binary)
    with Replica(primary) as replica:
        async with place_on(primary) as place:
            adapter = await place.adapter(durability="replicated", wait_timeout="200ms")
            assert await adapter.publish([message(1), message(2)]) == [None, None]
            replica.pause()
            first, second = await adapter.publish([message(3), message(4)])
            assert isinstance(first, PublishUncertain)
            assert isinstance(second, PublishUncertain)
            assert "is stored, but 0 of 1 replicas had it within 0.2 s" in str(first)
            replica.resume()
            assert await adapter.publish([message(5)]) == [None]


async def test_disks_are_waited_for(binary: ServerBinary, start_server: StartServer) -> None:
    """With durability ``fsync`` an event is accepted when it is on the server's disk."""
    server = start_server(binary, settings={"appendonly": "yes", "appendfsync": "always"})
    async with place_on(server) as place:
        adapter = await place.adapter(durability="fsync")
        assert await adapter.publish([message(1), message(2)]) == [None, None]
        assert adapter.facts[0].fsync == ("waitaof" if binary.at_least((7, 2)) else "always")


async def test_closing_without_time(
    binary: ServerBinary, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there is no time to close in good order no connection is left all the same."""
    server = start_server(binary)
    begun = asyncio.Event()

    async def hangs() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async with place_on(server) as place:
        adapter = await place.adapter()
        assert await adapter.publish([message(1)]) == [None]
        assert adapter.running is not None
        monkeypatch.setattr(adapter.running.pipe, "close", hangs)
        closing = asyncio.ensure_future(adapter.close())
        await begun.wait()
        assert len(place.ask("CLIENT", "LIST").splitlines()) > 1
        closing.cancel()
        await asyncio.wait((closing,))
        await until(
            lambda: len(place.ask("CLIENT", "LIST").splitlines()) == 1, "only the one that asks is left"
        )


# --- sizes ------------------------------------------------------------------------------------------------


async def test_large_events_over_a_slow_network(start_server: StartServer, start_proxy: StartProxy) -> None:
    """A batch that takes longer than command_timeout because of its size is stored, each event once."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address, command_timeout="300ms")
        proxy.use(Rate(1_500_000, "requests"))
        results = await adapter.publish([large(number, 150_000) for number in range(12)])
        assert results == [None] * 12
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 12


async def test_half_as_much_after_a_batch_that_took_too_long(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """Over a network that is too slow for a batch the next ones are smaller, until they get through."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address, command_timeout="400ms")
        assert await adapter.publish([message(0)]) == [None]
        proxy.use(Rate(100_000, "requests"))
        left = [large(number, 10_000) for number in range(24)]
        rounds = 0
        while left and rounds < 12:
            rounds += 1
            results = await adapter.publish(left)
            left = [each for each, result in zip(left, results, strict=True) if result is not None]
        assert not left


async def test_what_follows_a_lost_batch_is_not_sent(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """Of a large batch only what was sent when the connection failed is uncertain; the rest has failed."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address, command_timeout="200ms")
        assert await adapter.publish([message(0)]) == [None]
        proxy.use(Drop("requests"))
        began = asyncio.get_running_loop().time()
        results = await adapter.publish([large(number, 300_000) for number in range(20)])
        assert asyncio.get_running_loop().time() - began < 10
        kinds = [type(result) for result in results]
        sent = kinds.count(PublishUncertain)
        assert 0 < sent < 10
        assert kinds == [PublishUncertain] * sent + [PublishFailed] * (20 - sent)
        assert all(result.transient for result in results[sent:])  # type: ignore[union-attr]


async def test_text_that_cannot_be_encoded(redis_server: SharedServer) -> None:
    """A message with text that cannot be encoded is refused by itself; the others of its batch are stored."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        first, second, third = await adapter.publish([message(1), message(2, key="\ud800"), message(3)])
        assert (first, third) == (None, None)
        assert isinstance(second, PublishFailed)
        assert second.permanent
        assert not second.transient
        assert "cannot be encoded" in str(second)
        assert place.ask("XLEN", place.keys.stream(TOPIC)) == 2
