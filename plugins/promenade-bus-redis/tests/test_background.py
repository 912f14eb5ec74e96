"""Background work goes on, whatever happens in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import _NodePipe
from promenade_bus_redis.streams import leases, retention, upkeep, wakeups
from promenade_bus_redis.streams.adapter import StreamsAdapter
from redis_support.fixtures import SharedServer, StartServer
from redis_support.streams import message, numbers, place_on, receive, spec, until


def failing(real: Callable[..., Awaitable[Any]], left: list[BaseException]) -> Callable[..., Awaitable[Any]]:
    """Raises what is left, one after the other, and then does what it always did."""

    async def fail(*arguments: Any) -> Any:
        if left:
            raise left.pop(0)
        return await real(*arguments)

    return fail


PARTS = [
    (upkeep.Upkeep, "_announce_again", "the upkeep of the Redis adapter cannot do all due work"),
    (retention.Retention, "visit", "the retention of the Redis adapter cannot trim"),
    (wakeups.Wakeups, "_read", "the shared blocking read cannot wait"),
]


@pytest.mark.parametrize(("part", "method", "told"), PARTS, ids=["upkeep", "retention", "wakeups"])
async def test_a_fault_in_a_task(
    redis_server: SharedServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: type[Any],
    method: str,
    told: str,
) -> None:
    """A task survives what nobody expected; the log says what and where, and health tells while it lasts."""
    monkeypatch.setattr(retention, "_FIRST", 0.0)
    left: list[BaseException] = [KeyError("secret"), asyncio.CancelledError(), KeyError("secret")]
    monkeypatch.setattr(part, method, failing(getattr(part, method), left))
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="50ms")
        # More than have connections of their own, so that the last one waits together with others.
        consumers = [await adapter.open_consumer(spec(name=f"s{number}")) for number in range(5)]
        waiting = asyncio.create_task(receive(consumers[-1], 1))
        degraded: set[str] = set()
        await until(lambda: degraded.add(adapter.degraded or "") or not left, "it went on")
        assert any(f"{told}: KeyError" in each for each in degraded)
        await until(lambda: adapter.degraded is None, "it works again")
        assert re.search(
            rf"{told}: KeyError at \S*test_background\.py:\d+ in fail; trying again", caplog.text
        )
        assert "works again" in caplog.text
        assert "secret" not in caplog.text
        await adapter.publish([message(7)])
        assert numbers(await waiting) == [7]
        for consumer in consumers:
            await consumer.close()


async def test_one_thing_that_fails_holds_up_no_other(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While something that is done from time to time fails again and again, the rest is done."""

    async def fail(*_: Any) -> None:
        raise KeyError("always")

    monkeypatch.setattr(upkeep.Upkeep, "_look_for_losses", fail)
    async with place_on(redis_server) as place:
        adapter = await place.adapter(topic_refresh="50ms")
        consumer = await adapter.open_consumer(spec("tests.#"))
        await (await place.adapter()).publish([message(1)])
        assert numbers(await receive(consumer, 1)) == [1]
        assert adapter.degraded is not None
        await consumer.close()


@pytest.mark.parametrize(("part", "method", "told"), PARTS[:2], ids=["upkeep", "retention"])
async def test_what_the_server_refuses_for_good_is_told(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, part: type[Any], method: str, told: str
) -> None:
    """Health names what fails until somebody changes something, and not what passes by itself."""
    monkeypatch.setattr(retention, "_FIRST", 0.0)
    passing = RedisFailure(Kind.LOADING, "the server")
    left: list[BaseException] = [
        passing,
        passing,
        RedisFailure(Kind.FORBIDDEN, "the server", command="XTRIM"),
    ]
    monkeypatch.setattr(part, method, failing(getattr(part, method), left))
    async with place_on(redis_server) as place:
        monkeypatch.setattr(retention, "_STANDBY", 0.05)
        adapter = await place.adapter()
        degraded: set[str] = set()
        await until(lambda: degraded.add(adapter.degraded or "") or not left, "it went on")
        await until(lambda: degraded.add(adapter.degraded or "") or "" in degraded, "it works again")
        assert {each for each in degraded if each} == {
            f"{told}: RedisFailure: Redis at the server denies this to the user; grant the permission "
            "with ACL SETUSER (XTRIM)"
        }


async def test_a_fault_in_a_shared_connection(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting caller gets a fault of the adapter, not a cancellation; the next call works."""
    left: list[BaseException] = [KeyError("a fault")]
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        assert isinstance(adapter, StreamsAdapter)
        monkeypatch.setattr(_NodePipe, "_replies", failing(_NodePipe._replies, left))
        pipe = adapter._running.pipe
        replies = await asyncio.gather(pipe.call("PING"), return_exceptions=True)
        while left:
            replies = await asyncio.gather(pipe.call("PING"), return_exceptions=True)
        assert isinstance(replies[0], KeyError) or replies == [b"PONG"]
        assert await pipe.call("PING") == b"PONG"


@pytest.mark.parametrize("opens_anew", [False, True], ids=["beating", "connecting"])
async def test_the_thread_ends_when_closing_is_cut_short(start_server: StartServer, opens_anew: bool) -> None:
    """A close that has no time left ends the thread, although the server does not answer."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(command_timeout="30s", connect_timeout="30s", lease="600ms")
        leases = adapter._running.leases
        thread = leases._thread
        assert thread is not None
        await until(lambda: leases.beats, "it renews")
        if opens_anew:
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        server.pause()
        try:
            closing = asyncio.create_task(adapter.close())
            await until(lambda: adapter._services is None, "closing has begun")
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            await until(lambda: not thread.is_alive(), "the thread has ended", 2.0)
        finally:
            server.resume()


async def test_the_thread_that_renews_goes_on(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread begins again when its loop ends by a fault, and health tells until it renews."""
    left: list[BaseException] = [KeyError("secret"), asyncio.CancelledError()]
    monkeypatch.setattr(
        leases.Leases, "_beat_until_stopped", failing(leases.Leases._beat_until_stopped, left)
    )
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await until(lambda: adapter.degraded, "health tells")
        assert "cannot renew leases: " in (adapter.degraded or "")
        await until(lambda: adapter.degraded is None, "it renews")
        assert not left
        assert "cannot renew leases: KeyError; trying again" in caplog.text
        assert "secret" not in caplog.text
