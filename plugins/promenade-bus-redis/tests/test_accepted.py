from __future__ import annotations

import asyncio
import os

import pytest

from bus_core import Message
from promenade_bus_redis.streams import stored_events as accepted
from promenade_bus_redis.streams.adapter import StreamsAdapter
from redis_support.binaries import ServerBinary
from redis_support.faults import Stall
from redis_support.fixtures import StartProxy, StartServer
from redis_support.servers import Server
from redis_support.streams import TOPIC, acks, message, numbers, place_on, receive, spec, until

OTHER = "tests.other.happened"

WITH_FILE = {"appendonly": "yes", "appendfsync": "everysec"}


def lose_from(server: Server, size: int) -> None:
    """The server dies, and comes back without what it wrote to its file beyond a size."""
    server.kill()
    os.truncate(server.append_only_file, size)
    server.restart()


def written(server: Server) -> int:
    return server.append_only_file.stat().st_size


async def insist(adapter: StreamsAdapter, *messages: Message) -> None:
    """Publishes until the server has all of it: the first try may find that the connection is broken."""
    left = [*messages]
    while left:
        results = await adapter.publish(left)
        left = [each for each, result in zip(left, results, strict=True) if result is not None]


async def looked(adapter: StreamsAdapter) -> None:
    """Waits until nothing is left to be looked for."""
    found = adapter._running.stored_events
    sessions = 1 if adapter._losses.ended_epochs else 2  # what was stored before is apart from what was since
    await until(lambda: not found._must_look and len(found._sessions) == sessions, "it was looked for")


async def test_a_server_that_forgot_the_end(
    binary: ServerBinary, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Stored events that are gone are counted exactly, although others published meanwhile."""
    server = start_server(binary, settings=WITH_FILE)
    async with place_on(server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(10))
        await place.publish(*range(10), topic=OTHER)
        size = written(server)
        await place.publish(*range(10, 25))
        await adapter.publish([message(number, topic) for number in (10, 11) for topic in (TOPIC, OTHER)])
        lose_from(server, size)
        place.ask("XADD", place.keys.stream(TOPIC), "*", "body", message(30).body)
        await insist(adapter, message(31), message(31, OTHER))
        await until(lambda: adapter.lost == 19, "what is gone is counted")
        assert adapter.loss_figures()["forgotten_by_server"] == 19
        assert "no longer has 17 events that it had stored" in caplog.text
        assert "no longer has 2 events that it had stored" in caplog.text
        assert adapter.degraded is not None
        assert f"came back without 19 events of {OTHER}, {TOPIC}" in adapter.degraded
        assert numbers(await receive(consumer, 12)) == [*range(10), 30, 31]
        await until(lambda: place.ask("HGET", place.keys.losses, f"{TOPIC} *") == "17", "all can see it")
        # Once more, and farther back: what was counted is not counted again.
        await place.publish(40)
        lose_from(server, size)
        await insist(adapter, message(50))
        await until(lambda: adapter.lost == 22, "what went with it is counted, too")
        await consumer.close()


async def test_a_publisher_that_has_nothing_to_publish(start_server: StartServer) -> None:
    """The loss is noticed within topic_refresh, also when nothing is published any more."""
    server = start_server(settings=WITH_FILE)
    async with place_on(server) as place:
        adapter = await place.adapter(topic_refresh="50ms")
        await place.publish(0)
        size = written(server)
        await place.publish(1, 2)
        lose_from(server, size)
        await until(lambda: adapter.lost == 2, "the loss is noticed")


async def test_a_publisher_that_closes_at_once(start_server: StartServer) -> None:
    """A publisher that closes before the next check counts the loss, too, where everybody can read it."""
    server = start_server(settings=WITH_FILE)
    async with place_on(server) as place:
        adapter = await place.adapter()
        await place.publish(0)
        size = written(server)
        await place.publish(1, 2)
        links = adapter._running.stored_events._links
        lose_from(server, size)
        await until(lambda: all(link.has_ended for link in links), "the connection is known to be broken")
        await adapter.close()
        assert place.ask("HGET", place.keys.losses, f"{TOPIC} *") == "2"


async def test_a_publisher_of_an_empty_server_that_closes_at_once(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A server without any data is told as that, and not as the loss of each event."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter()
        await place.publish(0, 1)
        links = adapter._running.stored_events._links
        server.kill()
        server.restart()
        await until(lambda: all(link.has_ended for link in links), "the connection is known to be broken")
        await adapter.close()
        assert "the server has lost its data" in caplog.text
        assert place.ask("HGETALL", place.keys.losses) == []


async def test_a_topic_that_is_gone(start_server: StartServer) -> None:
    """All events of a topic that the server does not know any more are counted."""
    server = start_server(settings=WITH_FILE)
    async with place_on(server) as place:
        adapter = await place.adapter()
        await place.publish(0, topic=OTHER)
        size = written(server)
        await place.publish(0, 1)
        lose_from(server, size)
        await insist(adapter, message(2))
        await until(lambda: adapter.lost == 2, "the loss is noticed")


@pytest.mark.parametrize("way", ["killed", "reconnected", "emptied", "trimmed"])
async def test_nothing_is_gone(
    binary: ServerBinary, start_server: StartServer, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A restart that kept everything, a new connection and trimming lose nothing; an epoch is told itself."""
    server = start_server(binary, settings=WITH_FILE if way != "emptied" else {})
    async with place_on(server) as place:
        adapter = await place.adapter(topic_refresh="50ms")
        consumer = await adapter.open_consumer(spec())
        await place.publish(*range(20))
        await consumer.settle(acks(await receive(consumer, 20)))
        await consumer.close()
        if way == "trimmed":
            place.ask("XTRIM", place.keys.stream(TOPIC), "MAXLEN", 0)
            if not binary.at_least((7, 0)):  # there the bus counts what it trims itself
                place.ask("SET", place.keys.trimmed(TOPIC), 20)
        if way in ("killed", "emptied"):
            server.kill()
            server.restart()
        else:
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        if way == "emptied":
            await until(lambda: adapter._losses.ended_epochs, "it is told")
        await insist(adapter, message(21))
        await looked(adapter)
        assert adapter.lost == 0
        assert "that it had stored" not in caplog.text


async def test_everything_is_gone_between_two_questions(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that comes back empty right after it told its epoch has lost its data, and no event."""
    server = start_server()
    async with place_on(server) as place:
        adapter = await place.adapter(topic_refresh="50ms")
        await place.publish(*range(20))
        epoch = adapter._running.epoch
        ask = epoch.has_ended

        async def ask_too_early() -> bool:
            monkeypatch.undo()
            answer = await ask()
            server.kill()
            server.restart()
            await until(lambda: adapter._running.stored_events.is_check_due, "the connection is broken")
            return answer

        monkeypatch.setattr(epoch, "has_ended", ask_too_early)
        await until(lambda: adapter._losses.ended_epochs, "it is told")
        await insist(adapter, message(21))
        assert (adapter.lost, adapter._losses.ended_epochs) == (0, 1)
        assert "that it had stored" not in caplog.text


async def test_only_so_much_is_remembered(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of more events than are remembered the log says that at least those are gone."""
    monkeypatch.setattr(accepted, "_MOST", 10)
    server = start_server(settings=WITH_FILE)
    async with place_on(server) as place:
        adapter = await place.adapter()
        await place.publish(0)
        size = written(server)
        for number in range(1, 31):
            await place.publish(number)
        lose_from(server, size)
        await insist(adapter, message(31))
        await until(lambda: adapter.lost, "the loss is noticed")
        assert adapter.lost in (9, 10)  # the one that came after it may have taken the place of the oldest
        assert f"no longer has at least {adapter.lost} events that it had stored" in caplog.text


async def test_a_server_that_cannot_tell_yet(start_server: StartServer) -> None:
    """Where the look fails, it is looked for again; nothing is forgotten meanwhile."""
    server = start_server(settings=WITH_FILE)
    async with place_on(server) as place:
        adapter = await place.adapter(topic_refresh="50ms")
        await place.publish(0)
        size = written(server)
        await place.publish(1, 2, 3)
        key = place.keys.stream(TOPIC)
        server.kill()
        os.truncate(server.append_only_file, size)
        server.restart()
        place.ask("RENAME", key, "elsewhere")
        place.ask("SET", key, "something of another type")
        found = adapter._running.stored_events
        await until(lambda: found._must_look and len(found._sessions) > 1, "a look has failed")
        assert adapter.lost == 0
        place.ask("RENAME", "elsewhere", key)
        await until(lambda: adapter.lost == 3, "the next one succeeds")


async def test_a_look_while_something_is_published(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """A publisher that was looked at while it published notices later, when it is idle, what is gone."""
    server = start_server(settings=WITH_FILE)
    proxy = start_proxy(server)
    async with place_on(server) as place:
        adapter = await place.adapter(address=proxy.address)
        await place.publish(1)
        size = written(server)
        proxy.use(Stall("replies"))
        publishing = asyncio.create_task(place.publish(2))
        await until(lambda: written(server) > size, "it is stored")
        running = adapter._running
        looking = asyncio.create_task(running.stored_events.look(running.epoch.has_ended))
        await asyncio.sleep(0)
        proxy.heal()
        await asyncio.gather(publishing, looking)
        lose_from(server, size)
        await until(lambda: adapter.lost == 1, "what is gone is counted")
