"""Ownership: leases, turns, messages of the dead, late commits, and foreign rows."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import pytest

from bus_core import DeadLetterFilter, LeaseLost, Outcome, Received, UnknownSubscription
from promenade_bus_postgres import adapter as adapters
from promenade_bus_postgres.adapter import PostgresAdapter
from promenade_bus_postgres.failures import Kind, PostgresFailure
from support.consuming import TOPIC, acks, buried, message, receive, spec, until
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once


def keys(received: list[Received]) -> list[str]:
    return [each.message.key for each in received]


async def crash(adapter: PostgresAdapter) -> None:
    """Its process is gone: it writes nothing more, and takes nothing back."""
    heartbeats = adapter.running.heartbeats
    heartbeats._stopping = True
    heartbeats._beat = lambda owners, gone: []
    await heartbeats.close()
    await adapter.close()


async def test_what_the_dead_leave_behind(schema: Schema) -> None:
    """It comes to another one after the lease of its owner, as one attempt more, and each death is told."""
    async with (
        schema.started(lease=0.3) as dying,
        schema.started(lease=0.3, poll=0.1) as next_one,
        schema.started(lease=30.0, poll=0.1) as heir,
    ):
        first = await dying.open_consumer(spec())
        await dying.publish([message(number) for number in range(3)])
        held = await receive(first, 2)
        await crash(dying)
        began = time.monotonic()
        second = await next_one.open_consumer(spec())
        assert keys(await receive(second, 3)) == ["2", "0", "1"]
        assert time.monotonic() - began > 0.25
        await crash(next_one)
        third = await heir.open_consumer(spec())
        taken = await receive(third, 3)
        assert [(each.message.key, each.attempt) for each in taken] == [("0", 3), ("1", 3), ("2", 2)]
        assert [[each.number for each in got.history] for got in taken] == [[1, 2], [1, 2], [1]]
        assert {each.history[-1].error_type for each in taken} == {"ConsumerDied"}
        assert all(each.owner_died and each.redelivered for each in taken)
        results = await third.settle([*acks(taken), *acks(held)])
        assert [type(each) for each in results] == [*[type(None)] * 3, LeaseLost, LeaseLost]
        await third.close()


@pytest.mark.parametrize("is_ordered", [True, False])
async def test_a_death_while_a_retry_waits(schema: Schema, is_ordered: bool) -> None:
    """The next owner begins no earlier, and counts the death only when the attempt may have begun."""
    asked = spec(ordered=is_ordered)
    async with (
        schema.started(lease=0.3) as one,
        schema.started(lease=0.3, poll=0.1) as other,
        schema.started(lease=30.0, poll=0.1) as heir,
    ):
        first = await one.open_consumer(asked)
        await one.publish([message(1)])
        (failed,) = await receive(first, 1)
        await first.settle([Outcome("hold", failed.receipt, 60.0, attempt=2)])
        await crash(one)
        second = await other.open_consumer(asked)
        (waiting,) = await receive(second, 1)
        assert (waiting.attempt, waiting.owner_died, waiting.redelivered) == (2, False, True)
        assert 30.0 < waiting.delay < 60.0
        await second.settle([Outcome("hold", waiting.receipt, 0.0, attempt=2)])
        await crash(other)
        third = await heir.open_consumer(asked)
        (begun,) = await receive(third, 1)
        assert (begun.attempt, begun.owner_died, begun.delay) == (3, True, 0.0)
        await third.close()


async def test_a_retry_that_was_given_back_in_order(schema: Schema) -> None:
    """It comes before what follows it, with the rest of its delay, and however the clock was set."""
    ordered = spec(ordered=True)
    async with schema.started() as one, schema.started(poll=0.1) as other:
        first = await one.open_consumer(ordered)
        await one.publish([message(number) for number in range(3)])
        held = await receive(first, 3)
        delays = [60.0, 0.0, 0.0]
        outcomes = [Outcome("release", each.receipt, delay) for each, delay in zip(held, delays, strict=True)]
        await first.settle(outcomes)
        await first.close()
        schema.ask("UPDATE promenade_delivery SET due = due + 1000 WHERE due > 0")
        second = await other.open_consumer(ordered)
        received = await receive(second, 2)
        assert keys(received) == ["0", "1"]
        assert 30.0 < received[0].delay <= 60.0
        assert received[1].delay == 0.0
        assert keys(await receive(second, 1)) == ["2"]
        await second.close()


async def test_a_consumer_that_leaves_without_settling(schema: Schema) -> None:
    """Its messages come free after its lease, while its process lives on."""
    async with schema.started(lease=0.3, poll=0.1) as adapter:
        first = await adapter.open_consumer(spec())
        await adapter.publish([message(1)])
        await receive(first, 1)
        await first.close()
        second = await adapter.open_consumer(spec())
        (taken,) = await receive(second, 1)
        assert (taken.attempt, taken.owner_died) == (2, True)
        await second.close()


async def test_turns(schema: Schema) -> None:
    """Of an ordered subscription one instance receives; the next takes over in order, and knows who waits."""
    ordered = spec(ordered=True)
    async with schema.started() as one, schema.started() as other:
        active: Any = await one.open_consumer(ordered)
        await one.publish([message(number) for number in range(4)])
        received = await receive(active, 2)
        assert not await active.has_standby()
        standby = await other.open_consumer(ordered)
        assert await active.has_standby()
        waiting = asyncio.create_task(receive(standby, 4))
        rest = await receive(active, 2)
        assert keys(rest) == ["2", "3"]
        assert not waiting.done()
        await active.settle([Outcome("release", each.receipt) for each in [*received, *rest]])
        await active.close()
        assert keys(await waiting) == ["0", "1", "2", "3"]
        await standby.close()


async def test_the_turn_of_a_dead_instance(schema: Schema) -> None:
    """The next owner begins with the messages of the dead one, and goes on with fresh ones."""
    ordered = spec(ordered=True)
    async with schema.started(lease=0.3) as one, schema.started(lease=0.3, poll=0.1) as other:
        active, standby = await one.open_consumer(ordered), await other.open_consumer(ordered)
        await one.publish([message(number) for number in range(3)])
        held = await receive(active, 2)
        waiting = asyncio.create_task(receive(standby, 2))
        await active.settle(acks(held[:1]))
        await crash(one)
        assert keys(await waiting) == ["1", "2"]
        await standby.close()


@pytest.mark.parametrize("topic", [TOPIC, "test.#"])
async def test_a_retry_of_before_the_order_holds_its_key_and_no_other(schema: Schema, topic: str) -> None:
    """It is not early, later events of its key come after it, and those of other keys do not wait."""
    async with schema.started() as adapter:
        unordered = await adapter.open_consumer(spec(topic=topic))
        await adapter.publish([message(1)])
        (failed,) = await receive(unordered, 1)
        later = Outcome("retry", failed.receipt, delay=600.0, attempt=2)
        assert await unordered.settle([later]) == [None]
        await unordered.close()
        consumer: Any = await adapter.open_consumer(spec(topic=topic, ordered=True))
        await adapter.publish([message(number) for number in (1, 2, 1, 3)])
        others = await receive(consumer, 2)
        assert keys(others) == ["2", "3"]
        await adapter.publish([message(1)])
        receiving = asyncio.create_task(receive(consumer, 4))
        await until(
            lambda: len(schema.ask("SELECT 1 FROM promenade_delivery WHERE owner = 0")) == 4, "it waits too"
        )
        schema.ask("UPDATE promenade_delivery SET due = due - 600 WHERE owner = 0")
        consumer.look()
        held = await receiving
        assert [(each.message.key, each.attempt) for each in held] == [("1", 2), ("1", 1), ("1", 1), ("1", 1)]
        assert held[0].message.id == failed.message.id
        assert await consumer.settle(acks([*others, *held])) == [None] * 6
        await consumer.close()


@pytest.mark.parametrize("pattern", [TOPIC, "test.#"])
async def test_a_late_commit_is_not_skipped(schema: Schema, pattern: str) -> None:
    """An event whose transaction began early and ended late comes first, and nothing overtakes it."""
    async with schema.started(poll=0.05) as adapter:
        consumer = await adapter.open_consumer(spec(topic=pattern))
        await adapter.publish([message(0)])
        assert keys(await receive(consumer, 1)) == ["0"]
        with schema.server.connect(autocommit=False) as late:
            begin_late(late, schema)
            await adapter.publish([message(1)])
            waiting = asyncio.create_task(receive(consumer, 2))
            calls = adapter.running.database.calls
            await until(lambda: adapter.running.database.calls > calls + 5, "it looked for new events")
            assert not waiting.done()
            assert await adapter.backlog(spec(topic=pattern)) == 2  # 0 is not settled, 1 is held
            late.commit()
        assert keys(await waiting) == ["late", "1"]
        await consumer.close()


def begin_late(late: Any, schema: Schema) -> None:
    """A transaction takes a position for an event, and stays open."""
    late.execute(
        f"INSERT INTO {schema.name}.promenade_event (tx, topic, id, key, body) SELECT"
        f" {schema.name}.promenade_position(), id, 'late', 'late', '{{}}'"
        f" FROM {schema.name}.promenade_topic WHERE name = '{TOPIC}'".encode()
    )


FROM_NOW_ON = pytest.mark.parametrize("more", [{"mode": "broadcast"}, {"start": "latest"}])


@FROM_NOW_ON
async def test_a_subscription_from_now_on_waits_for_what_is_under_way(
    schema: Schema, monkeypatch: pytest.MonkeyPatch, more: Any
) -> None:
    """It gets nothing that was stored before, in whatever order that is committed, and all that follows."""
    monkeypatch.setattr(adapters, "_LONGEST_WAIT", 60.0)
    async with schema.started() as adapter:
        await adapter.publish([message(0)])
        with schema.server.connect(autocommit=False) as late:
            begin_late(late, schema)
            await adapter.publish([message(1)])
            opening = asyncio.create_task(adapter.open_consumer(spec(**more)))
            calls = adapter.running.database.calls
            await until(lambda: adapter.running.database.calls > calls + 3, "it has looked")
            assert not opening.done()
            late.commit()
        consumer = await opening
        await adapter.publish([message(2)])
        assert keys(await receive(consumer, 1)) == ["2"]
        await consumer.close()


async def test_a_group_that_is_there_waits_for_nothing(
    schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from now on goes on where it had left off, whatever transaction is open."""
    monkeypatch.setattr(adapters, "_LONGEST_WAIT", 600.0)
    async with schema.started() as adapter:
        await (await adapter.open_consumer(spec(start="latest"))).close()
        await adapter.publish([message(0)])
        with schema.server.connect(autocommit=False) as late:
            begin_late(late, schema)
            await adapter.publish([message(1)])
            async with asyncio.timeout(60):
                consumer = await adapter.open_consumer(spec(start="latest"))
            late.commit()
        assert keys(await receive(consumer, 3)) == ["0", "late", "1"]
        await consumer.close()


@FROM_NOW_ON
async def test_a_subscription_from_now_on_misses_nothing(
    schema: Schema, monkeypatch: pytest.MonkeyPatch, more: Any
) -> None:
    """Where a transaction stays open for long, it gets what that stores, and what was stored meanwhile."""
    monkeypatch.setattr(adapters, "_LONGEST_WAIT", 0.0)
    async with schema.started() as adapter:
        await adapter.publish([message(0)])
        with schema.server.connect(autocommit=False) as late:
            begin_late(late, schema)
            await adapter.publish([message(1)])
            consumer = await adapter.open_consumer(spec(**more))
            late.commit()
        assert keys(await receive(consumer, 2)) == ["late", "1"]
        await consumer.close()


async def test_a_restored_database(schema: Schema) -> None:
    """Where the ids of transactions begin again below those in the tables, new events come all the same."""
    async with schema.started() as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(0)])
        await adapter.running.database.run(lambda connection: None)
        await consumer.settle(acks(await receive(consumer, 1)))
        await consumer.close()
    schema.ask("UPDATE promenade_event SET tx = tx + 1000000")
    schema.ask("UPDATE promenade_subscription SET cursor_tx = cursor_tx + 1000000")
    async with schema.started() as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(1)])
        assert keys(await receive(consumer, 1)) == ["1"]
        assert schema.ask("SELECT tx_offset > 900000 FROM promenade_state") == [(True,)]
        await consumer.close()


async def test_strange_rows_harm_themselves(schema: Schema) -> None:
    """Rows that somebody else has written are dead letters with their bytes; the others arrive."""
    async with schema.started() as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(3)])
        schema.ask(r"UPDATE promenade_event SET headers = '[1' WHERE key = '0'")
        schema.ask(r"UPDATE promenade_event SET key = '\xff' WHERE key = '1'")
        received = await receive(consumer, 3)
        assert [each.fault is None for each in received] == [False, False, True]
        assert await consumer.settle([*map(buried, received[:2]), *acks(received[2:])]) == [None] * 3
        schema.ask("UPDATE promenade_letter SET text = 'nothing' WHERE number = 1")
        assert len(await adapter.dead_letters.list(DeadLetterFilter(), 9)) == 1
        await consumer.close()


async def test_events_that_somebody_deleted_are_counted(schema: Schema) -> None:
    """An event that is gone when it is to come again is lost, and that is counted in the database."""
    async with schema.started() as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(3)])
        received = await receive(consumer, 3)
        await consumer.settle([Outcome("release", each.receipt) for each in received])
        schema.ask("DELETE FROM promenade_event WHERE key = '1'")
        assert keys(await receive(consumer, 2)) == ["0", "2"]
        assert schema.ask("SELECT service_group, topic, reason, events FROM promenade_loss") == [
            ("tests.audit", TOPIC, "missing", 1)
        ]
        await adapter.running.database.run(adapter.upkeep.look)
        assert adapter.lost == 1
        await consumer.close()


async def test_a_broadcast_ends_with_its_instance(schema: Schema) -> None:
    """Nothing of it is left, whether the instance closes or dies; its letters have nowhere to go then."""
    everywhere = spec(mode="broadcast")
    async with schema.started(lease=0.3) as one, schema.started(lease=0.3) as other:
        await one.publish([message(0)])
        first, second = await one.open_consumer(everywhere), await other.open_consumer(everywhere)
        await one.publish([message(1)])
        assert keys(await receive(first, 1)) == ["1"]
        (received,) = await receive(second, 1)
        assert await second.settle([buried(received)]) == [None]
        (letter,) = await other.dead_letters.list(DeadLetterFilter(), 9)
        assert await one.dead_letters.redrive([letter.id]) == 1
        (again,) = await receive(second, 1)
        assert (again.message.key, again.redelivered) == ("1", True)
        assert await second.settle([buried(again)]) == [None]
        assert schema.ask("SELECT 1 FROM promenade_event WHERE topic < 0") == []
        await first.close()
        assert len(schema.ask("SELECT 1 FROM promenade_subscription")) == 1
        await crash(other)
        await until(lambda: len(one.running.heartbeats.dead) > 0, "its death is noticed")
        await one.running.database.run(one.upkeep.look)
        assert schema.ask("SELECT 1 FROM promenade_subscription") == []
        (letter,) = await one.dead_letters.list(DeadLetterFilter(), 9)
        with pytest.raises(UnknownSubscription, match="is in the database any more; subscribe it first"):
            await one.dead_letters.redrive([letter.id])
        assert await one.dead_letters.count(DeadLetterFilter()) == 1


@pytest.mark.parametrize("action", ["ack", "dead_letter", "retry", "release", "hold"])
async def test_a_late_owner_changes_nothing(schema: Schema, action: Any) -> None:
    """An entry that another consumer has taken over is that one's, whatever the former owner settles."""
    async with schema.started() as adapter:
        late: Any = await adapter.open_consumer(spec())
        heir: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(3)])
        received = await receive(late, 3)
        seq = received[1].receipt.seq
        schema.ask("UPDATE promenade_delivery SET owner = %s WHERE seq = %s", heir.owner.number, seq)
        outcomes = [
            buried(each) if action == "dead_letter" else Outcome(action, each.receipt) for each in received
        ]
        results = await late.settle(outcomes)
        assert [type(each) for each in results] == [type(None), LeaseLost, type(None)]
        left = schema.ask("SELECT owner, attempt FROM promenade_delivery WHERE seq = %s", seq)
        assert left == [(heir.owner.number, 1)]
        for each in (late, heir):
            await each.close()


@pytest.mark.parametrize("listen", [True, False])
async def test_news_of_other_processes(schema: Schema, listen: bool) -> None:
    """Events, and deliveries that came free, are noticed by a notification, or else by looking."""
    poll = 60.0 if listen else 0.05
    async with schema.started() as one, schema.started(poll=poll, listen=listen) as other:
        mine, theirs = await one.open_consumer(spec()), await other.open_consumer(spec())
        await until(
            lambda: not listen or (other._listener is not None and other._listener.connections),
            "it listens",
        )
        waiting = asyncio.create_task(receive(theirs, 1))
        looks = other.running.database.calls
        await until(lambda: other.running.database.calls > looks, "it has looked")
        await one.publish([message(1)])
        (received,) = await waiting
        waiting = asyncio.create_task(receive(mine, 1))
        await theirs.settle([Outcome("retry", received.receipt, delay=0.05, attempt=2)])
        await theirs.close()
        (again,) = await waiting
        assert (again.message.key, again.attempt, again.redelivered) == ("1", 2, True)
        await mine.close()


async def redriven(adapter: Any, consumer: Any) -> Any:
    """A message that was a dead letter, and that a consumer has received again."""
    await adapter.publish([message(1)])
    (received,) = await receive(consumer, 1)
    assert await consumer.settle([buried(received)]) == [None]
    (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 1)
    assert await adapter.dead_letters.redrive([letter.id]) == 1
    (again,) = await receive(consumer, 1)
    assert again.receipt.is_redriven
    return again


@pytest.mark.parametrize("action", ["ack", "dead_letter"])
async def test_a_late_owner_leaves_the_body_of_a_redriven_event(schema: Schema, action: Any) -> None:
    """A redriven event that another consumer has taken over keeps its body when its former owner settles."""
    async with schema.started() as adapter:
        late: Any = await adapter.open_consumer(spec())
        heir: Any = await adapter.open_consumer(spec())
        received = await redriven(adapter, late)
        schema.ask("UPDATE promenade_delivery SET owner = %s", heir.owner.number)
        outcome = buried(received) if action == "dead_letter" else Outcome(action, received.receipt)
        (result,) = await late.settle([outcome])
        assert isinstance(result, LeaseLost)
        schema.ask("UPDATE promenade_delivery SET owner = 0")
        heir.free()
        (taken,) = await receive(heir, 1)
        assert taken.message.body == received.message.body
        for each in (late, heir):
            await each.close()


async def test_a_claim_of_a_cancelled_call_is_returned_by_the_next_one(schema: Schema) -> None:
    """A program may cancel its tasks: what a claim has taken meanwhile comes with the next call."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(3)])
        claim, begun, go_on = consumer._claims.claim, threading.Event(), threading.Event()

        def held_up(*arguments: Any) -> Any:
            begun.set()
            go_on.wait(10)
            return claim(*arguments)

        consumer._claims.claim = held_up
        task = asyncio.create_task(consumer.receive(10))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        go_on.set()
        assert [each.message.key for each in await receive(consumer, 3)] == ["0", "1", "2"]
        await consumer.close()


@pytest.mark.parametrize("limit", [1, 2])
async def test_what_is_received_is_always_held(schema: Schema, limit: int) -> None:
    """A thread that looks while the engine gets messages finds each of them in one place or the other."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(2)])
        looks: list[int] = []

        class Watched(deque[Any]):
            """Looks after each of its changes, as another thread may."""

            def popleft(self) -> Any:
                found = super().popleft()
                looks.append(len(consumer._all_held()))
                return found

            def __setitem__(self, place: Any, value: Any) -> None:
                super().__setitem__(place, value)
                looks.append(len(consumer._all_held()))

        async with asyncio.timeout(30):
            while not any(claim.received for claim in consumer._claimed):
                consumer._claimed.clear()
                await adapter.running.database.run(lambda each: consumer._claim_in_thread(2, {}, each))
        consumer._claimed = Watched(consumer._claimed)
        assert keys(consumer._next(limit).received) == ["0", "1"][:limit]
        assert looks == [2]
        await consumer.close()


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_claim_whose_answer_was_lost_is_given_back(schema: Schema, ordered: bool) -> None:
    """Messages that were claimed and did not arrive come with the next call; those that did do not."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec(ordered=ordered))
        await adapter.publish([message(0)])
        (first,) = await receive(consumer, 1)
        await adapter.publish([message(number) for number in (1, 2)])
        claim = consumer._claims.claim

        def lost(*arguments: Any) -> Any:
            claimed = claim(*arguments)
            if not claimed.received:
                return claimed
            consumer._claims.claim = claim
            raise PostgresFailure("the server", Kind.CUT)

        consumer._claims.claim = lost
        with pytest.raises(PostgresFailure):
            await receive(consumer, 2)
        if ordered:
            assert await consumer.settle([Outcome("ack", first.receipt)]) == [None]
        again = await receive(consumer, 2)
        assert [each.message.key for each in again] == ["1", "2"]
        await consumer.close()


async def test_a_due_delivery_ends_the_look_for_fresh_events(schema: Schema) -> None:
    """It is for the next claim: looking for fresh events again would find nothing new."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(1)])
        (received,) = await receive(consumer, 1)
        await consumer.settle([Outcome("release", received.receipt)])
        statements = 0

        class Counting:
            """A connection that counts its cursors."""

            def __init__(self, connection: Any) -> None:
                self.connection = connection

            def cursor(self, **options: Any) -> Any:
                nonlocal statements
                statements += 1
                return self.connection.cursor(**options)

        claim = await adapter.running.database.run(
            lambda connection: consumer._claims._claim_fresh(Counting(connection), 1)
        )
        assert (claim.received, claim.more, statements) == ([], True, 1)
        await consumer.close()


async def test_deliveries_whose_owner_has_no_row_are_taken_over(schema: Schema) -> None:
    """Deliveries of an owner whose row is gone are claimed by another consumer within a lease."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(1)])
        (received,) = await receive(consumer, 1)
        schema.ask("UPDATE promenade_delivery SET owner = 1000000 WHERE seq = %s", received.receipt.seq)
        consumer._claims._orphans_at = -math.inf
        (again,) = await receive(consumer, 1)
        assert (again.message.key, again.attempt, again.owner_died) == ("1", 2, True)
        await consumer.close()


async def test_a_history_that_cannot_be_read_harms_its_own_message_only(schema: Schema) -> None:
    """A delivery with an unreadable history is a dead letter; those claimed with it arrive."""
    async with schema.started() as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(2)])
        received = await receive(consumer, 2)
        await consumer.settle([Outcome("retry", each.receipt, attempt=2) for each in received])
        schema.ask("UPDATE promenade_delivery SET history = '{' WHERE seq = %s", received[0].receipt.seq)
        again = await receive(consumer, 2)
        assert [each.fault is None for each in again] == [False, True]
        await consumer.close()
