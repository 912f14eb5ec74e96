"""Retention: events that are removed from the file, and those that never are."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus_core import DeadLetterFilter
from promenade_bus_sqlite.adapter import SqliteAdapter
from support.consuming import TOPIC, acks, buried, message, receive, spec
from support.sqlite_files import ask, started


def stored(path: Path) -> list[str]:
    return [key for (key,) in ask(path, "SELECT key FROM promenade_event ORDER BY seq")]


async def look(adapter: SqliteAdapter, *, later: float = 0.0) -> None:
    """One look, as so many seconds later."""
    file = adapter.running.file
    file.epoch += later
    while await adapter.running.worker.write(adapter.upkeep.look):
        pass


async def test_what_is_settled_goes_when_it_is_old(tmp_path: Path) -> None:
    """Events stay until they are settled by the slowest group, and for min_age after they were seen."""
    path = tmp_path / "events.db"
    async with started(path, retention={"min_age": 100.0}) as adapter:
        quick = await adapter.open_consumer(spec("quick"))
        slow = await adapter.open_consumer(spec("slow", "test.#"))
        await adapter.publish([message(number) for number in range(4)])
        await look(adapter)
        assert await quick.settle(acks(await receive(quick, 4))) == [None] * 4
        held = await receive(slow, 4)
        await slow.settle(acks([held[0], held[1], held[3]]))
        await look(adapter, later=50)
        assert stored(path) == ["0", "1", "2", "3"]
        await look(adapter, later=60)
        assert stored(path) == ["2", "3"]  # one that is not settled keeps those behind it
        await slow.settle(acks(held[2:3]))
        await look(adapter)
        assert stored(path) == []
        for each in (quick, slow):
            await each.close()


async def test_who_comes_later_gets_what_is_left(tmp_path: Path) -> None:
    """A new group begins with the earliest event that is retained, and never with a number used again."""
    path = tmp_path / "events.db"
    async with started(path, retention={"min_age": 100.0}) as adapter:
        first = await adapter.open_consumer(spec("first"))
        await adapter.publish([message(0)])
        await first.settle(acks(await receive(first, 1)))
        await look(adapter)
        await look(adapter, later=110)
        assert stored(path) == []
        await adapter.publish([message(1)])
        late = await adapter.open_consumer(spec("late"))
        now_on = await adapter.open_consumer(spec("now-on", start="latest"))
        await adapter.publish([message(2)])
        assert [each.message.key for each in await receive(late, 2)] == ["1", "2"]
        assert [each.message.key for each in await receive(first, 2)] == ["1", "2"]
        assert [each.message.key for each in await receive(now_on, 1)] == ["2"]
        for each in (first, late, now_on):
            await each.close()


async def test_what_nobody_subscribes_to(tmp_path: Path) -> None:
    """Events of topics without a subscription stay for unsubscribed_max_age."""
    path = tmp_path / "events.db"
    async with started(path, retention={"min_age": 10.0, "unsubscribed_max_age": 100.0}) as adapter:
        await adapter.publish([message(0)])
        await look(adapter)
        await look(adapter, later=50)
        assert stored(path) == ["0"]
        await look(adapter, later=60)
        assert stored(path) == []


@pytest.mark.parametrize("received", [False, True])
async def test_a_cap_counts_what_it_drops(tmp_path: Path, received: bool) -> None:
    """Beyond max_length the oldest events go, whatever their state, and count as lost where unsettled."""
    path = tmp_path / "events.db"
    async with started(path, lease=0.3, retention={"max_length": 3}) as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(8)])
        if received:
            await receive(consumer, 2)
            await consumer.close()
        await look(adapter)
        assert stored(path) == ["5", "6", "7"]
        if received:
            consumer = await adapter.open_consumer(spec())
        left = await receive(consumer, 3)
        assert [each.message.key for each in left] == ["5", "6", "7"]
        await consumer.settle(acks(left))
        while await adapter.backlog(spec()):
            assert await consumer.receive(1) == []
        await look(adapter)
        assert adapter.lost == 5
        await consumer.close()


async def test_a_letter_outlives_its_event(tmp_path: Path) -> None:
    """It is redriven with all that it was, and nothing of it is left in the end."""
    path = tmp_path / "events.db"
    async with started(path, retention={"min_age": 10.0}) as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(7, body=b'{"n":7}')])
        (received,) = await receive(consumer, 1)
        await consumer.settle([buried(received)])
        await look(adapter)
        await look(adapter, later=20)
        assert stored(path) == []
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id, letter.id, "unknown"]) == 1
        assert await adapter.backlog(spec()) == 1
        (again,) = await receive(consumer, 1)
        assert (again.message, again.published_at) == (received.message, received.published_at)
        assert (again.attempt, again.redelivered, again.message.topic) == (1, True, TOPIC)
        await look(adapter, later=20)
        assert stored(path) == ["7"]
        await consumer.settle(acks([again]))
        await look(adapter)
        assert stored(path) == []
        await consumer.close()


async def test_marks_are_few(tmp_path: Path) -> None:
    """However often it looks within an age, it remembers some hundred looks."""
    path = tmp_path / "events.db"
    async with started(path, retention={"min_age": 10_000.0}) as adapter:
        for number in range(500):
            await adapter.publish([message(number)])
            await look(adapter, later=10)
        assert len(ask(path, "SELECT 1 FROM promenade_mark")) < 250
