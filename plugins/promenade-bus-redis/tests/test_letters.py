"""Dead letters on the server: pages over many topics, and what of them travels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from bus_core import DeadLetter, DeadLetterFilter, Message, Outcome, UnknownSubscription
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.wire import letter_fields
from redis_support.binaries import ServerBinary
from redis_support.clusters import Cluster
from redis_support.fixtures import SharedServer, StartProxy, StartServer
from redis_support.streams import GROUP, TOPIC, Place, buried, die, message, place_on, receive, spec

TOPICS = [f"tests.topic{index}.happened" for index in range(5)]
ALL = DeadLetterFilter()


def store(
    place: Place, topic: str, entry_id: str = "*", subscription: str = "listener", size: int = 10
) -> str:
    """Puts a letter of a group where the adapter keeps them; returns its id."""
    dead = Message("e-1", topic, "k", b"x" * size)
    letter = DeadLetter(
        "x", topic, subscription, None, "k", "gave up", (), dead.body, dead_at=datetime.now(UTC)
    )
    fields = letter_fields(letter, dead, letter.dead_at, f"tests.{subscription}")
    return f"{topic}/{place.ask('XADD', place.keys.dead(topic), entry_id, *fields)}"


async def register(place: Place, adapter: StreamsAdapter, topics: Sequence[str] = TOPICS) -> None:
    """Makes the topics known."""
    assert await adapter.publish([message(0, topic) for topic in topics]) == [None] * len(topics)


async def all_pages(adapter: StreamsAdapter, where: DeadLetterFilter, limit: int) -> list[list[str]]:
    """The ids of the letters of each page."""
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = await adapter.dead_letters.page(where, cursor, limit)
        pages.append([letter.id for letter in page])
        cursor = page.next_cursor
        if cursor is None:
            return pages


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_pages_over_many_topics(redis_server: SharedServer, limit: int) -> None:
    """Letters of all topics come in the order in which they were stored, also within one millisecond."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await register(place, adapter)
        ids = [
            store(place, TOPICS[index % 3], f"{1000 + index // 4}-{index}", f"s{index % 2}")
            for index in range(14)
        ]
        pages = await all_pages(adapter, ALL, limit)
        assert [letter_id for page in pages for letter_id in page] == ids
        assert all(len(page) <= limit for page in pages)
        of_one = await all_pages(adapter, DeadLetterFilter(subscription="s1"), limit)
        assert [letter_id for page in of_one for letter_id in page] == ids[1::2]
        assert await adapter.dead_letters.count(ALL) == 14
        assert await adapter.dead_letters.count(DeadLetterFilter(subscription="s1")) == 7
        assert [letter.id for letter in await adapter.dead_letters.list(ALL, 5)] == ids[:5]
        with pytest.raises(ValueError, match="invalid cursor for dead letters: 'nonsense'"):
            await adapter.dead_letters.page(ALL, "nonsense", 5)


async def test_pages_on_a_cluster(binary: ServerBinary) -> None:
    """On a cluster the letters of all nodes are told."""
    with Cluster(binary) as cluster:
        place = Place(cluster.servers[0], "bus", cluster.addresses[0])
        adapter = await place.adapter(cluster=True)
        try:
            consumer = await adapter.open_consumer(spec("tests.#"))
            await register(place, adapter)
            batch = await receive(consumer, len(TOPICS))
            assert await consumer.settle([buried(each) for each in batch]) == [None] * len(TOPICS)
            pages = await all_pages(adapter, ALL, 2)
            assert len({letter_id for page in pages for letter_id in page}) == len(TOPICS)
            assert await adapter.dead_letters.count(ALL) == len(TOPICS)
            await consumer.close()
        finally:
            await adapter.close()


async def test_a_page_is_bounded_in_bytes(redis_server: SharedServer) -> None:
    """A page of large letters ends after a megabyte, and has one in any case."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await register(place, adapter, [TOPIC])
        ids = [store(place, TOPIC, size=size) for size in (400_000, 400_000, 400_000, 3_000_000, 10, 10)]
        assert await all_pages(adapter, ALL, 100) == [ids[:3], [ids[3]], ids[4:]]


async def test_bodies_travel_only_where_they_are_wanted(
    start_server: StartServer, start_proxy: StartProxy
) -> None:
    """Looking for some letters, counting, redriving and purging leave the bodies on the server."""
    server = start_server()
    proxy = start_proxy(server)
    async with place_on(server) as place:
        opening = await place.adapter()
        consumer = await opening.open_consumer(spec())
        await consumer.close()
        ids = [store(place, TOPIC, size=100_000) for _ in range(30)]
        adapter = await place.adapter(address=proxy.address)
        letters = adapter.dead_letters
        before = proxy.counts["reply_bytes"]
        nobody = DeadLetterFilter(subscription="nobody")
        assert await letters.list(nobody, 1) == []
        assert await letters.count(DeadLetterFilter(subscription="listener")) == 30
        assert await letters.redrive(ids[:10]) == 10
        assert await letters.purge(DeadLetterFilter(subscription="listener")) == 20
        assert proxy.counts["reply_bytes"] - before < 100_000
        assert place.ask("XLEN", place.keys.inbox(TOPIC, GROUP)) == 10


async def test_a_key_of_somebody_else(redis_server: SharedServer) -> None:
    """Where somebody uses the key of one topic's letters otherwise, those of the others are told."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await register(place, adapter)
        place.ask("SET", place.keys.dead(TOPICS[0]), "something else")
        ids = [store(place, topic) for topic in TOPICS[1:3]]
        assert [letter.id for letter in await adapter.dead_letters.list(ALL, 9)] == ids
        assert await adapter.dead_letters.count(ALL) == 2


async def test_a_redrive_moves_all_or_none(redis_server: SharedServer) -> None:
    """When the last of many letters has no subscription any more, none of them moves."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        ids = [store(place, TOPIC) for _ in range(250)]
        ids.append(store(place, TOPIC, subscription="gone"))
        with pytest.raises(UnknownSubscription, match="gone"):
            await adapter.dead_letters.redrive(ids)
        assert await adapter.dead_letters.count(ALL) == 251
        assert await adapter.dead_letters.redrive(ids[:-1]) == 250
        await consumer.close()


@pytest.mark.parametrize("action", ["retry", "release", "hold", "die"])
async def test_how_long_it_has_waited_is_kept(redis_server: SharedServer, action: Any) -> None:
    """The next delivery of a message shows its outcome; after a redrive it shows nothing."""
    async with place_on(redis_server) as place:
        adapter, other = await place.adapter(), await place.adapter(lease="600ms")
        consumer = await (other if action == "die" else adapter).open_consumer(spec())
        await place.publish(1)
        [received] = await receive(consumer, 1)
        assert received.waited == 0
        outcome = Outcome("hold" if action == "die" else action, received.receipt, 0.001, 2, waited=7.5)
        assert await consumer.settle([outcome]) == [None]
        if action == "die":
            place.adapters.remove(other)
            await die(other)
            consumer = await adapter.open_consumer(spec())
        elif action == "hold":
            assert await consumer.settle([Outcome("release", received.receipt, 0.0, 2, waited=7.5)]) == [None]
        [again] = await receive(consumer, 1)
        assert (again.waited, again.attempt) == (7.5, 3 if action == "die" else 2)
        await consumer.settle([buried(again)])
        letters = await adapter.dead_letters.list(ALL, 9)
        assert await adapter.dead_letters.redrive([letter.id for letter in letters]) == 1
        [redriven] = await receive(consumer, 1)
        assert redriven.waited == 0
        await consumer.settle([buried(redriven)])
        await consumer.close()
