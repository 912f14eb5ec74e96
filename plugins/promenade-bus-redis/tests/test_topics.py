from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bus_core import TopicPattern
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.streams import topics as topics_module
from promenade_bus_redis.streams.topics import StoredTopics
from redis_support.fixtures import SharedServer
from redis_support.streams import Place, message, numbers, place_on, receive, spec, until

MANY = [f"tests.many.t{number}" for number in range(2500)]


ASKED = ["SCARD", "SMISMEMBER", "XRANGE"]


class Sent:
    """Counts the commands of a pipe."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
        self.names: list[str] = []
        many = pipe.call_many
        one = pipe.call

        async def call_many(commands: Sequence[Routed]) -> list[Any]:
            self.names += [str(command[0]) for _, command in commands]
            return await many(commands)

        async def call(*command: Any, **more: Any) -> Any:
            self.names.append(str(command[0]))
            return await one(*command, **more)

        monkeypatch.setattr(pipe, "call_many", call_many)
        monkeypatch.setattr(pipe, "call", call)


async def registries(place: Place) -> tuple[StoredTopics, StoredTopics]:
    """Two of their own, each with a pipe that nobody else uses."""
    found: list[StoredTopics] = []
    for _ in range(2):
        adapter = await place.adapter(topic_refresh="60s")
        found.append(StoredTopics(Pipe(adapter._running.locator), adapter._running.keys))
    return found[0], found[1]


async def test_new_topics_are_read_alone(redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that knows the topics reads only new ones, however many there are."""
    async with place_on(redis_server) as place:
        one, other = await registries(place)
        assert await one.know(MANY) == {}
        assert await other.refresh() == {*MANY}
        sent = Sent(monkeypatch, other._pipe)
        await other.update(at_once=True)
        assert sent.names == ASKED
        await one.know(["tests.new.one", "tests.new.two"])
        await other.update(at_once=True)
        assert sent.names == ASKED * 2
        assert other.order[-2:] == ["tests.new.one", "tests.new.two"]
        assert await other.matching(TopicPattern("tests.new.*")) == ["tests.new.one", "tests.new.two"]


async def test_topics_that_others_entered(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics put into the set by hand are found as well: at once where that matters, or later."""
    async with place_on(redis_server) as place:
        one, other = await registries(place)
        await one.know(MANY)
        await other.refresh()
        place.ask("SADD", place.keys.topics, "tests.by.hand")
        await other.update(at_once=False)
        assert "tests.by.hand" not in other.order
        await other.update(at_once=False)
        assert other.order[-1] == "tests.by.hand"
        place.ask("SADD", place.keys.topics, "tests.by.hand.too")
        assert "tests.by.hand.too" in await one.refresh()
        sent = Sent(monkeypatch, one._pipe)
        await one.update(at_once=True)
        assert sent.names == ASKED


async def test_a_registry_that_is_gone(redis_server: SharedServer) -> None:
    """An instance enters its topics again when they are gone; those of others are unknown then."""
    async with place_on(redis_server) as place:
        one, other = await registries(place)
        await one.know(["tests.of.one"])
        await other.know(["tests.of.other"])
        assert await one.refresh() == {"tests.of.one", "tests.of.other"}
        place.ask("DEL", place.keys.topics, place.keys.latest_topics)
        assert await one.refresh() == {"tests.of.one"}
        assert one.order == ["tests.of.one"]
        assert await other.refresh() == {"tests.of.one", "tests.of.other"}
        assert await one.refresh() == {"tests.of.one", "tests.of.other"}


@pytest.mark.parametrize("way", ["by the log", "by hand", "after a loss"])
async def test_patterns_find_topics(
    redis_server: SharedServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A pattern is offered every topic, in parts, however it came into the registry."""
    monkeypatch.setattr(topics_module, "_AT_ONCE", 2)
    async with place_on(redis_server) as place:
        reading = await place.adapter(topic_refresh="10ms", block="50ms")
        place.adapters.insert(0, await place.adapter(topic_refresh="60s"))
        consumer = await reading.open_consumer(spec("tests.new.*"))
        await place.publish(0, topic="tests.old.one")
        await until(lambda: "tests.old.one" in reading._running.registry.order, "the others are known")
        if way == "after a loss":
            place.ask("DEL", place.keys.topics, place.keys.latest_topics)
        if way == "by the log":
            await place.publish(1, topic="tests.new.x")
        else:
            place.ask("SADD", place.keys.topics, "tests.new.x")
            place.ask("XADD", place.keys.stream("tests.new.x"), "*", "body", message(1, "tests.new.x").body)
        assert numbers(await receive(consumer, 1)) == [1]
        await consumer.close()
