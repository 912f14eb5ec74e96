"""Retention: events that are removed from the table, and those that never are."""

from __future__ import annotations

import asyncio

import pytest

from bus_core import DeadLetterFilter
from promenade_bus_postgres.adapter import PostgresAdapter
from support.consuming import TOPIC, acks, buried, message, receive, spec, until
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once


def stored(schema: Schema) -> list[str]:
    rows = schema.ask("SELECT convert_from(key, 'UTF8') FROM promenade_event ORDER BY tx, seq")
    return [key for (key,) in rows]


async def look(adapter: PostgresAdapter, schema: Schema, *, later: float = 0.0) -> None:
    """One look, as so many seconds later."""
    schema.ask("UPDATE promenade_event SET published = published - %s", later)
    while await adapter.running.database.run(adapter.upkeep.look):
        pass


async def test_what_is_settled_goes_when_it_is_old(schema: Schema) -> None:
    """Events stay until the slowest group has settled them, and until they are older than min_age."""
    async with schema.started(retention={"min_age": 100.0}) as adapter:
        quick = await adapter.open_consumer(spec("quick"))
        slow = await adapter.open_consumer(spec("slow", "test.#"))
        await adapter.publish([message(number) for number in range(4)])
        assert await quick.settle(acks(await receive(quick, 4))) == [None] * 4
        held = await receive(slow, 4)
        await slow.settle(acks([held[0], held[1], held[3]]))
        await look(adapter, schema, later=50)
        assert stored(schema) == ["0", "1", "2", "3"]
        await look(adapter, schema, later=60)
        assert stored(schema) == ["2", "3"]  # one that is not settled keeps those behind it
        await slow.settle(acks(held[2:3]))
        await look(adapter, schema)
        assert stored(schema) == []
        late = await adapter.open_consumer(spec("late"))
        now_on = await adapter.open_consumer(spec("now-on", start="latest"))
        await adapter.publish([message(5)])
        for each in (late, now_on, quick):
            assert [got.message.key for got in await receive(each, 1)] == ["5"]
        for each in (quick, slow, late, now_on):
            await each.close()


async def test_what_nobody_subscribes_to(schema: Schema) -> None:
    """Events of topics without a subscription stay for unsubscribed_max_age."""
    async with schema.started(retention={"min_age": 10.0, "unsubscribed_max_age": 100.0}) as adapter:
        await adapter.publish([message(0)])
        await look(adapter, schema, later=50)
        assert stored(schema) == ["0"]
        await look(adapter, schema, later=60)
        assert stored(schema) == []


@pytest.mark.parametrize("received", [False, True])
async def test_a_cap_counts_what_it_drops(schema: Schema, received: bool) -> None:
    """Beyond max_length the oldest events go, whatever their state, and count as lost where unsettled."""
    async with schema.started(lease=0.3, poll=0.1, retention={"max_length": 3}) as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(8)])
        if received:
            await receive(consumer, 2)
            await consumer.close()
        await look(adapter, schema)
        assert stored(schema) == ["5", "6", "7"]
        if received:
            consumer = await adapter.open_consumer(spec())
        left = await receive(consumer, 3)
        assert [each.message.key for each in left] == ["5", "6", "7"]
        await consumer.settle(acks(left))
        while await adapter.backlog(spec()):
            assert await consumer.receive(1) == []
        await look(adapter, schema)
        assert adapter.lost == 5
        await consumer.close()


@pytest.mark.parametrize("topic", [TOPIC, "test.#"])
async def test_a_claim_during_a_cap_gets_nothing_that_was_counted(schema: Schema, topic: str) -> None:
    """An event that is lost is not handled as well, although the claim began before it was removed."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%turn AS MAT%'"
    async with schema.started(retention={"max_length": 3}) as adapter:
        consumer = await adapter.open_consumer(spec(topic=topic))
        await adapter.publish([message(number) for number in range(8)])
        with schema.server.connect(schema.database) as another, another.transaction():
            adapter.upkeep.retention.step(another)
            claiming = asyncio.create_task(receive(consumer, 3))
            await until(lambda: schema.ask(waits), "the claim waits")
        assert [each.message.key for each in await claiming] == ["5", "6", "7"]
        await look(adapter, schema)
        assert adapter.lost == 5
        await consumer.close()


async def test_a_letter_outlives_its_event(schema: Schema) -> None:
    """It is redriven with all that it was, and nothing of it is left in the end."""
    async with schema.started(retention={"min_age": 10.0}) as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(7, body=b'{"n":7}')])
        (received,) = await receive(consumer, 1)
        await consumer.settle([buried(received)])
        await look(adapter, schema, later=20)
        assert stored(schema) == []
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id, letter.id, "unknown"]) == 1
        assert await adapter.backlog(spec()) == 1
        (again,) = await receive(consumer, 1)
        assert (again.message, again.published_at) == (received.message, received.published_at)
        assert (again.attempt, again.redelivered) == (1, True)
        await look(adapter, schema, later=20)
        assert stored(schema) == ["7"]
        await consumer.settle(acks([again]))
        assert stored(schema) == []
        await consumer.close()


async def test_a_clock_that_was_set_back(schema: Schema) -> None:
    """A delivery that would wait for longer than its delay is due after its delay."""
    async with schema.started() as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(1)])
        await receive(consumer, 1)
        schema.ask("UPDATE promenade_delivery SET owner = 0, due = 9e9, delay = 0.01")
        await look(adapter, schema)
        assert len(await receive(consumer, 1)) == 1
        await consumer.close()
