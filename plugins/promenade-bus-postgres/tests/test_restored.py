"""Numbers that a running process knows, and a database that has other ones since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bus_core import DeadLetterFilter
from promenade_bus_postgres.failures import Kind, PostgresFailure
from support.consuming import TOPIC, acks, buried, message, receive, spec
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once

OTHER = "test.thing.removed"


def renumber(schema: Schema, table: str, numbers: Mapping[int, int]) -> None:
    """Gives rows other numbers, as a restore from a dump of another history does."""
    schema.ask(f"CREATE TABLE before AS SELECT * FROM {table}")
    schema.ask(f"DELETE FROM {table}")
    for old, new in numbers.items():
        schema.ask("UPDATE before SET id = -%s WHERE id = %s", new, old)
    schema.ask(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM before WHERE id > 0")
    schema.ask("UPDATE before SET id = -id WHERE id < 0")
    schema.ask(
        f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM before WHERE id > 0"
        f" AND id NOT IN (SELECT id FROM {table})"
    )
    schema.ask("DROP TABLE before")


def number_of(schema: Schema, table: str, column: str, name: str) -> int:
    ((number,),) = schema.ask(f"SELECT id FROM {table} WHERE {column} = %s", name)
    return int(number)


@pytest.mark.parametrize("pattern", [TOPIC, "test.thing.happened.#"])
@pytest.mark.parametrize("came_back", ["with other numbers", "without them"])
async def test_topics_that_came_back(schema: Schema, came_back: str, pattern: str) -> None:
    """An event is stored under the number that its topic has now, and comes to its subscriptions only."""
    async with schema.started() as adapter:
        consumer = await adapter.open_consumer(spec("ledger", pattern))
        other = await adapter.open_consumer(spec("mail", OTHER))
        await adapter.publish([message(0), message(0, OTHER)])
        for each in (consumer, other):
            await each.settle(acks(await receive(each, 1)))
        if came_back == "without them":
            schema.ask("DELETE FROM promenade_topic")
        else:
            one, two = (number_of(schema, "promenade_topic", "name", name) for name in (TOPIC, OTHER))
            renumber(schema, "promenade_topic", {one: two, two: one})
        schema.ask("DELETE FROM promenade_event")
        assert await adapter.publish([message(1), message(2, OTHER)]) == [None, None]
        for each, topic, key in ((consumer, TOPIC, "1"), (other, OTHER, "2")):
            (received,) = await receive(each, 1)
            assert (received.message.topic, received.message.key) == (topic, key)
            assert await each.settle([buried(received)]) == [None]
            await each.close()


async def test_a_letter_whose_topic_has_another_number(schema: Schema) -> None:
    """It is redriven under the name that it has, also to a pattern, and whoever receives it."""
    async with schema.started() as adapter, schema.started() as other:
        consumer = await adapter.open_consumer(spec("ledger", "test.#"))
        await adapter.publish([message(0), message(0, OTHER)])
        first, second = await receive(consumer, 2)
        await consumer.settle([buried(first), *acks([second])])
        await consumer.close()
        one, two = (number_of(schema, "promenade_topic", "name", name) for name in (TOPIC, OTHER))
        renumber(schema, "promenade_topic", {one: two, two: one})
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        heir = await other.open_consumer(spec("ledger", "test.#"))
        (again,) = await receive(heir, 1)
        assert again.message.topic == letter.topic == TOPIC
        await heir.close()


async def test_subscriptions_that_have_other_numbers(schema: Schema) -> None:
    """Each of two groups goes on with its own events although each has the number of the other."""
    async with schema.started() as adapter:
        consumers: dict[str, Any] = {
            name: await adapter.open_consumer(spec(name, topic))
            for name, topic in (("ledger", TOPIC), ("mail", OTHER))
        }
        await adapter.publish([message(0)])
        await consumers["ledger"].settle(acks(await receive(consumers["ledger"], 1)))
        one, two = (each.owner.subscription for each in consumers.values())
        renumber(schema, "promenade_subscription", {one: two, two: one})
        await adapter.publish([message(1), message(2, OTHER)])
        for name, key in (("ledger", "1"), ("mail", "2")):
            (received,) = await receive(consumers[name], 1)
            assert received.message.key == key
            assert await consumers[name].settle(acks([received])) == [None]
        assert [each.owner.subscription for each in consumers.values()] == [two, one]
        assert schema.ask("SELECT 1 FROM promenade_delivery") == []
        for each in consumers.values():
            await each.close()


async def test_an_owner_whose_number_somebody_else_has(schema: Schema) -> None:
    """It gets another number, so that its death and that of the other one are told apart."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        number = consumer.owner.number
        schema.ask("UPDATE promenade_owner SET name = 'somebody.30'")
        await adapter.running.heartbeats.renewed()
        ((beats,),) = schema.ask("SELECT beats FROM promenade_owner WHERE name = 'somebody.30'")
        await adapter.running.heartbeats.renewed()
        assert schema.ask("SELECT beats FROM promenade_owner WHERE name = 'somebody.30'") == [(beats,)]
        await adapter.publish([message(1)])
        (received,) = await receive(consumer, 1)
        assert consumer.owner.number != number
        assert await consumer.settle(acks([received])) == [None]
        await adapter.running.heartbeats.renewed()
        owners = schema.ask("SELECT name FROM promenade_owner ORDER BY id")
        assert owners == [("somebody.30",), (consumer.owner.name,)]
        await consumer.close()


async def test_a_settlement_that_a_failover_has_undone(schema: Schema) -> None:
    """An event that is unsettled again comes again, although its owner lives; one that is held does not."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(2)])
        held, settled = await receive(consumer, 2)
        schema.ask(
            "CREATE TABLE before AS SELECT * FROM promenade_delivery WHERE seq = %s", settled.receipt.seq
        )
        assert await consumer.settle(acks([settled])) == [None]
        schema.ask("INSERT INTO promenade_delivery SELECT * FROM before")
        for each in adapter.running.database._idle:  # the server went away, while no statement was running
            each.close()
        (again,) = await receive(consumer, 1)
        assert again.message.key == settled.message.key
        assert await consumer.settle(acks([held, again])) == [None, None]
        assert (await consumer._claim(1)).received == []
        await consumer.close()


async def test_deliveries_of_another_owner_with_the_same_number(schema: Schema) -> None:
    """They stay with that one: a consumer without its number neither frees nor takes them."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(3)])
        received = await receive(consumer, 3)
        number = consumer.owner.number
        schema.ask("UPDATE promenade_owner SET name = 'somebody.30'")
        consumer._held = {received[0].receipt.seq: received[0].receipt.tx}
        consumer._is_unsure = True
        assert await consumer.confirm([each.receipt for each in received]) == [False] * 3
        assert consumer.owner.number != number
        consumer.owner.number, consumer._is_unsure = number, True
        assert (await consumer._claim(1)).received == []
        assert schema.ask("SELECT DISTINCT owner FROM promenade_delivery") == [(number,)]
        await consumer.close()


async def test_deliveries_of_before_a_restore_come_again(schema: Schema) -> None:
    """Those that the owner has under its name, and does not hold, once it knows the numbers of now."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(2)])
        held, settled = await receive(consumer, 2)
        before = consumer.owner.subscription
        schema.ask("CREATE TABLE before AS SELECT * FROM promenade_delivery")
        assert await consumer.settle(acks([settled])) == [None]
        schema.ask("DELETE FROM promenade_delivery")
        schema.ask("INSERT INTO promenade_delivery SELECT * FROM before")
        schema.ask("DROP TABLE before")
        renumber(schema, "promenade_subscription", {before: before + 7})
        for table in ("delivery", "owner"):
            schema.ask(f"UPDATE promenade_{table} SET subscription = subscription + 7")
        (again,) = await receive(consumer, 1)
        assert again.message.key == settled.message.key
        assert await consumer.settle(acks([held, again])) == [None, None]
        await consumer.close()


def end_broadcasts(schema: Schema) -> None:
    """Others took the instance for dead."""
    for table in ("subscription", "delivery", "owner"):
        schema.ask(f"DELETE FROM promenade_{table}")


@pytest.mark.parametrize("settled_first", [True, False])
@pytest.mark.parametrize("pattern", [TOPIC, "test.#"])
async def test_a_broadcast_that_was_taken_for_dead(schema: Schema, pattern: str, settled_first: bool) -> None:
    """It goes on where it had left off: it gets what it missed, settles what it holds, and loses nothing."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(topic=pattern, mode="broadcast"))
        await adapter.publish([message(number) for number in range(3)])
        held, failed, done = await receive(consumer, 3)
        assert await consumer.settle(acks([done])) == [None]
        end_broadcasts(schema)
        await adapter.publish([message(3)])
        if settled_first:
            assert await consumer.settle([buried(failed)]) == [None]
        assert [each.message.key for each in await receive(consumer, 1)] == ["3"]
        assert await consumer.confirm([held.receipt, done.receipt]) == [True, False]
        if not settled_first:
            assert await consumer.settle([buried(failed)]) == [None]
        assert await consumer.settle(acks([held])) == [None]
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        (again,) = await receive(consumer, 1)
        assert again.message.key == failed.message.key
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.lost == 0
        await consumer.close()
        assert schema.ask("SELECT 1 FROM promenade_subscription") == []


async def test_a_broadcast_that_was_away_for_too_long(schema: Schema) -> None:
    """When events may have been removed meanwhile, that is counted as a loss, once."""
    async with schema.started(retention={"min_age": 0.0}) as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        end_broadcasts(schema)
        await adapter.publish([message(1)])
        assert [each.message.key for each in await receive(consumer, 1)] == ["1"]
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.lost == 1
        assert schema.ask("SELECT service_group, topic, reason FROM promenade_loss") == [
            ("tests.audit", TOPIC, "away")
        ]
        await consumer.close()


async def test_a_broadcast_whose_claim_had_lost_its_answer(schema: Schema) -> None:
    """Events of a second attempt come again when it is taken for dead, and hold up nothing."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        await adapter.publish([message(number) for number in range(2)])
        claim = consumer._claims.claim

        def lost(*arguments: Any) -> Any:
            reached = consumer.owner.reached
            claimed = claim(*arguments)
            if not claimed.received:
                return claimed
            consumer._claims.claim, consumer.owner.reached = claim, reached
            raise PostgresFailure("the server", Kind.CUT)

        consumer._claims.claim = lost
        with pytest.raises(PostgresFailure):
            await receive(consumer, 2)
        held = await receive(consumer, 2)
        end_broadcasts(schema)
        await adapter.publish([message(2)])
        again = await receive(consumer, 3)
        assert [each.message.key for each in again] == ["0", "1", "2"]
        results = await consumer.settle(acks([*held, *again]))
        assert [result is None for result in results] == [True, True, False, False, True]
        await consumer.close()


async def test_a_broadcast_that_holds_a_redriven_event(schema: Schema) -> None:
    """It goes on to hold the redriven event, although it had not reached its position."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        await adapter.publish([message(0)])
        assert await consumer.settle([buried(each) for each in await receive(consumer, 1)]) == [None]
        await adapter.publish([message(number) for number in (1, 2)])
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        (redriven,) = await receive(consumer, 1)
        assert redriven.receipt.is_redriven
        end_broadcasts(schema)
        await adapter.running.database.run(adapter.upkeep.look)
        assert [each.message.key for each in await receive(consumer, 2)] == ["1", "2"]
        assert await consumer.confirm([redriven.receipt]) == [True]
        assert await consumer.settle(acks([redriven])) == [None]
        await consumer.close()


@pytest.mark.parametrize("has_backlog", [True, False])
async def test_a_broadcast_that_had_left_old_events_unread(schema: Schema, has_backlog: bool) -> None:
    """They go when others take it for dead, however short it was away, and that counts as a loss."""
    async with schema.started(retention={"min_age": 100.0, "unsubscribed_max_age": 100.0}) as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        await adapter.publish([message(number) for number in range(2)])
        schema.ask("UPDATE promenade_event SET published = published - 150")
        consumer.owner.seen_at -= 200
        await receive(consumer, 1)
        if not has_backlog:
            await receive(consumer, 1)
            assert (await consumer._claim(1)).received == []
        end_broadcasts(schema)
        await adapter.running.database.run(adapter.upkeep.look)
        await adapter.publish([message(2)])
        assert [each.message.key for each in await receive(consumer, 1)] == ["2"]
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.lost == has_backlog
        await consumer.close()


async def test_a_broadcast_of_another_history(schema: Schema) -> None:
    """A position that the database has not reached yet is none to go on from: the next event comes."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        consumer.owner.reached = 2**50, 1
        end_broadcasts(schema)
        assert await adapter.running.database.run(consumer._was_found_again)
        await adapter.publish([message(1)])
        assert [each.message.key for each in await receive(consumer, 1)] == ["1"]
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.lost == 1
        await consumer.close()


async def test_confirming_while_a_claim_finds_the_subscription_again(schema: Schema) -> None:
    """A broadcast that was taken for dead keeps what it holds, whichever of its calls notices first."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        await adapter.publish([message(0)])
        (held,) = await receive(consumer, 1)
        end_broadcasts(schema)
        was_found_again = consumer._was_found_again

        def late(connection: Any) -> bool:
            consumer._claim_in_thread(1, {}, connection)
            return bool(was_found_again(connection))

        consumer._was_found_again = late
        assert await consumer.confirm([held.receipt]) == [True]
        assert await consumer.settle(acks([held])) == [None]
        await consumer.close()
