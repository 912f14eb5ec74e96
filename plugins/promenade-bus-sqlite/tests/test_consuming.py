"""Ownership: leases, turns, messages of the dead, and foreign rows."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from bus_core import (
    AdapterError,
    DeadLetterFilter,
    LeaseLost,
    Outcome,
    Received,
    UnknownSubscription,
)
from promenade_bus_sqlite.adapter import SqliteAdapter
from support.consuming import TOPIC, acks, buried, message, receive, spec, until
from support.sqlite_files import ask, started


def keys(received: list[Received]) -> list[str]:
    return [each.message.key for each in received]


async def crash(adapter: SqliteAdapter) -> None:
    """Its process is gone: nothing more is written by it, and nothing of it is taken back."""
    await adapter.upkeep.close()
    services = adapter.running
    services.heartbeats._stopping = True
    services.heartbeats._beat = lambda owners, gone: []
    await services.heartbeats.close()
    await services.worker.close()


async def test_what_the_dead_leave_behind(tmp_path: Path) -> None:
    """It comes to another one after the lease of its owner, as one attempt more, whatever is fresh."""
    path = tmp_path / "events.db"
    async with started(path, lease=0.3) as dying, started(path, lease=30.0) as heir:
        first = await dying.open_consumer(spec())
        await dying.publish([message(number) for number in range(3)])
        held = await receive(first, 2)
        await crash(dying)
        began = time.monotonic()
        second = await heir.open_consumer(spec())
        assert keys(await receive(second, 1)) == ["2"]
        taken = await receive(second, 2)
        assert time.monotonic() - began > 0.25
        assert keys(taken) == ["0", "1"]
        assert [(each.attempt, each.owner_died, each.redelivered) for each in taken] == [(2, True, True)] * 2
        assert [each.history[-1].error_type for each in taken] == ["ConsumerDied"] * 2
        assert await second.settle(acks(taken)) == [None, None]
        results = await second.settle(acks(held))
        assert [type(each) for each in results] == [LeaseLost] * 2
        await until(lambda: len(ask(path, "SELECT 1 FROM promenade_owner")) == 1, "the dead are forgotten")
        await second.close()


@pytest.mark.once
async def test_an_owner_that_lives_after_all(tmp_path: Path) -> None:
    """Events that it claims after it was taken for dead come to another one when it dies indeed."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        stalled: Any = await adapter.open_consumer(spec())
        heir: Any = await adapter.open_consumer(spec())
        name, now = stalled.owner.name, adapter.running.file.now()

        async def taken_for_dead(beats: int, later: float) -> list[str]:
            """The keys that the heir gets, when the heartbeats of the other one have stopped there."""

            def run(db: sqlite3.Connection) -> Any:
                db.execute("UPDATE promenade_owner SET beats = ? WHERE name = ?", (beats, name))
                dead = {name: beats}
                return heir._claims.peek(db, now + later, dead) or heir._claims.claim(
                    db, 9, now + later, dead
                )

            return keys((await adapter.running.worker.write(run)).received)

        await adapter.publish([message(0)])
        assert keys(await receive(stalled, 1)) == ["0"]
        assert await taken_for_dead(5, 0.0) == ["0"]
        for number, beats, later in ((1, 9, 1.0), (2, 9, 100.0)):
            await adapter.publish([message(number)])
            assert keys(await receive(stalled, 1)) == [str(number)]
            assert len(ask(path, "SELECT 1 FROM promenade_owner WHERE name = ?", name)) == 1
            assert await taken_for_dead(beats, later) == [str(number)]
        for each in (stalled, heir):
            await each.close()


@pytest.mark.once
@pytest.mark.parametrize("is_ordered", [True, False])
async def test_a_death_while_a_retry_waits(tmp_path: Path, is_ordered: bool) -> None:
    """The next owner begins no earlier, and counts the death only when the attempt may have begun."""
    asked = spec(ordered=is_ordered)
    path = tmp_path / "events.db"
    async with (
        started(path, lease=0.3) as one,
        started(path, lease=0.3) as other,
        started(path, lease=30.0) as heir,
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


@pytest.mark.once
async def test_a_retry_that_was_given_back_in_order(tmp_path: Path) -> None:
    """It comes before what follows it, with the rest of its delay, and however the clock was set."""
    ordered = spec(ordered=True)
    path = tmp_path / "events.db"
    async with started(path) as one, started(path) as other:
        first = await one.open_consumer(ordered)
        await one.publish([message(number) for number in range(3)])
        held = await receive(first, 3)
        delays = [60.0, 0.0, 0.0]
        outcomes = [Outcome("release", each.receipt, delay) for each, delay in zip(held, delays, strict=True)]
        await first.settle(outcomes)
        await first.close()
        ask(path, "UPDATE promenade_delivery SET due = due + 1000 WHERE due > 0")
        second = await other.open_consumer(ordered)
        received = await receive(second, 2)
        assert keys(received) == ["0", "1"]
        assert 30.0 < received[0].delay <= 60.0
        assert received[1].delay == 0.0
        assert keys(await receive(second, 1)) == ["2"]
        await second.close()


async def test_a_consumer_that_leaves_without_settling(tmp_path: Path) -> None:
    """Its messages come free after its lease, while its process lives on."""
    async with started(tmp_path / "events.db", lease=0.3) as adapter:
        first = await adapter.open_consumer(spec())
        await adapter.publish([message(1)])
        await receive(first, 1)
        await first.close()
        second = await adapter.open_consumer(spec())
        (taken,) = await receive(second, 1)
        assert (taken.attempt, taken.owner_died) == (2, True)
        await second.close()


async def test_settling_twice(tmp_path: Path) -> None:
    """A settlement that comes again changes nothing, in whatever company."""
    async with started(tmp_path / "events.db") as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(6)])
        received = await receive(consumer, 6)
        assert await consumer.settle(acks(received[1:3])) == [None, None]
        results = await consumer.settle([*acks(received), buried(received[0]), *acks(received[5:])])
        lost = [index for index, each in enumerate(results) if each is not None]
        # What is buried first is no more to be acknowledged.
        assert lost == [0, 1, 2, 7]
        assert all(isinstance(results[index], LeaseLost) for index in lost)
        assert await adapter.backlog(spec()) == 0
        await consumer.close()


async def test_turns(tmp_path: Path) -> None:
    """Of an ordered subscription one instance receives; the next takes over in order, and knows who waits."""
    path = tmp_path / "events.db"
    ordered = spec(ordered=True)
    async with started(path) as one, started(path) as other:
        active = await one.open_consumer(ordered)
        await one.publish([message(number) for number in range(4)])
        received = await receive(active, 2)
        assert not await active.has_standby()  # type: ignore[attr-defined]
        standby = await other.open_consumer(ordered)
        assert await active.has_standby()  # type: ignore[attr-defined]
        waiting = asyncio.create_task(receive(standby, 4))
        rest = await receive(active, 2)
        assert keys(rest) == ["2", "3"]
        assert not waiting.done()
        await active.settle([Outcome("release", each.receipt) for each in [*received, *rest]])
        await active.close()
        assert keys(await waiting) == ["0", "1", "2", "3"]
        await standby.close()


@pytest.mark.once
@pytest.mark.parametrize("topic", [TOPIC, "test.#"])
async def test_a_retry_of_before_the_order_holds_its_key_and_no_other(tmp_path: Path, topic: str) -> None:
    """It comes first, with the rest of its delay, for which the engine holds the key."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        unordered = await adapter.open_consumer(spec(topic=topic))
        await adapter.publish([message(1)])
        (failed,) = await receive(unordered, 1)
        later = Outcome("retry", failed.receipt, delay=600.0, attempt=2)
        assert await unordered.settle([later]) == [None]
        await unordered.close()
        consumer: Any = await adapter.open_consumer(spec(topic=topic, ordered=True))
        await adapter.publish([message(number) for number in (1, 2, 1, 3)])
        got = await receive(consumer, 5)
        assert keys(got) == ["1", "1", "2", "1", "3"]
        assert [each.delay > 500 for each in got] == [True, False, False, False, False]
        assert got[0].message.id == failed.message.id
        assert await consumer.settle(acks(got)) == [None] * 5
        await consumer.close()


async def test_the_turn_of_a_dead_instance(tmp_path: Path) -> None:
    """The next owner begins with the messages of the dead one, and goes on with fresh ones."""
    path = tmp_path / "events.db"
    ordered = spec(ordered=True)
    async with started(path, lease=0.3) as one, started(path, lease=0.3) as other:
        active, standby = await one.open_consumer(ordered), await other.open_consumer(ordered)
        await one.publish([message(number) for number in range(3)])
        held = await receive(active, 2)
        waiting = asyncio.create_task(receive(standby, 2))
        await active.settle(acks(held[:1]))
        await crash(one)
        assert keys(await waiting) == ["1", "2"]
        await standby.close()


async def test_after_a_standstill(tmp_path: Path) -> None:
    """A consumer that may have lost its lease is in doubt, and asks which messages are its own still."""
    path = tmp_path / "events.db"
    async with started(path, lease=0.4) as adapter:
        consumer: Any = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(2)])
        received = await receive(consumer, 2)
        await until(lambda: not consumer.in_doubt, "it is sure")
        beat = adapter._heartbeats.beat

        def fails(owners: object, gone: object) -> Any:
            raise OSError("no")

        adapter.running.heartbeats._beat = fails
        await until(lambda: consumer.in_doubt, "its heart does not beat")
        with pytest.raises(AdapterError, match="cannot be renewed: OSError"):
            await consumer.confirm([each.receipt for each in received])
        ask(path, "UPDATE promenade_delivery SET owner = 99 WHERE seq = 2")
        adapter.running.heartbeats._beat = beat
        assert await consumer.confirm([each.receipt for each in received]) == [True, False]
        await until(lambda: not consumer.in_doubt, "it is sure again")
        await consumer.close()


async def test_strange_rows_harm_themselves(tmp_path: Path) -> None:
    """Rows that somebody else has written are dead letters with their bytes; the others arrive."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(4)])
        ask(path, "UPDATE promenade_event SET body = 'text' WHERE seq = 1")
        ask(path, "UPDATE promenade_event SET headers = '[1' WHERE seq = 2")
        ask(path, "UPDATE promenade_event SET key = x'ff' WHERE seq = 3")
        received = await receive(consumer, 4)
        assert [each.fault is None for each in received] == [False, False, False, True]
        assert [each.message.body for each in received] == [b"text", b"{}", b"{}", b"{}"]
        assert await consumer.settle([*map(buried, received[:3]), *acks(received[3:])]) == [None] * 4
        ask(path, "UPDATE promenade_letter SET text = 'nothing' WHERE number = 1")
        letters = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert len(letters) == 2
        assert await adapter.dead_letters.count(DeadLetterFilter(topic=TOPIC)) == 2
        await consumer.close()


async def test_events_that_somebody_deleted_are_counted(tmp_path: Path) -> None:
    """An event that is gone when it is to come again is lost, and that is counted in the file."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(3)])
        received = await receive(consumer, 3)
        await consumer.settle([Outcome("release", each.receipt) for each in received])
        ask(path, "DELETE FROM promenade_event WHERE seq = 2")
        assert keys(await receive(consumer, 2)) == ["0", "2"]
        assert ask(path, "SELECT service_group, topic, reason, events FROM promenade_loss") == [
            ("tests.audit", TOPIC, "missing", 1)
        ]
        await adapter.running.worker.write(adapter.upkeep.look)
        assert adapter.lost == 1
        await consumer.close()


async def test_a_broadcast_ends_with_its_instance(tmp_path: Path) -> None:
    """Nothing of it is left, whether the instance closes or dies; its letters have nowhere to go then."""
    path = tmp_path / "events.db"
    everywhere = spec(mode="broadcast")
    async with started(path, lease=0.3) as one, started(path, lease=0.3) as other:
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
        await first.close()
        assert len(ask(path, "SELECT 1 FROM promenade_subscription")) == 1
        await crash(other)
        await until(lambda: len(one.running.heartbeats.dead) > 0, "its death is noticed")
        await one.running.worker.write(one.upkeep.look)
        assert ask(path, "SELECT 1 FROM promenade_subscription") == []
        (letter,) = await one.dead_letters.list(DeadLetterFilter(), 9)
        with pytest.raises(UnknownSubscription, match="cannot redrive dead letter"):
            await one.dead_letters.redrive([letter.id])
        assert await one.dead_letters.count(DeadLetterFilter()) == 1


def end_broadcasts(path: Path) -> None:
    """Others took the instance for dead."""
    for table in ("subscription", "delivery", "owner"):
        ask(path, f"DELETE FROM promenade_{table}")


@pytest.mark.parametrize("first", ["settle", "receive", "confirm"])
@pytest.mark.parametrize("pattern", [TOPIC, "test.#"])
async def test_a_broadcast_that_was_taken_for_dead(tmp_path: Path, pattern: str, first: str) -> None:
    """It goes on where it had left off: it gets what it missed, settles what it holds, and loses nothing."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        consumer: Any = await adapter.open_consumer(spec(topic=pattern, mode="broadcast"))
        await adapter.publish([message(number) for number in range(3)])
        held, failed, done = await receive(consumer, 3)
        assert await consumer.settle(acks([done])) == [None]
        end_broadcasts(path)
        await adapter.publish([message(3)])
        if first == "settle":
            assert await consumer.settle([buried(failed)]) == [None]
        if first == "confirm":
            assert await consumer.confirm([held.receipt, done.receipt]) == [True, False]
        assert keys(await receive(consumer, 1)) == ["3"]
        if first != "settle":
            assert await consumer.settle([buried(failed)]) == [None]
        assert await consumer.settle(acks([held])) == [None]
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        assert keys(await receive(consumer, 1)) == [failed.message.key]
        await adapter.running.heartbeats.renewed()
        assert ask(path, "SELECT name FROM promenade_owner") == [(consumer.owner.name,)]
        await adapter.running.worker.write(adapter.upkeep.look)
        assert adapter.lost == 0
        await consumer.close()
        assert ask(path, "SELECT 1 FROM promenade_subscription") == []


async def test_a_broadcast_that_was_away_for_too_long(tmp_path: Path) -> None:
    """When events may have been removed meanwhile, that is counted as a loss, once."""
    path = tmp_path / "events.db"
    async with started(path, retention={"min_age": 0.0}) as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        end_broadcasts(path)
        await adapter.publish([message(1)])
        assert keys(await receive(consumer, 1)) == ["1"]
        await adapter.running.worker.write(adapter.upkeep.look)
        assert adapter.lost == 1
        losses = ask(path, "SELECT service_group, topic, reason FROM promenade_loss")
        assert losses == [("tests.audit", TOPIC, "away")]
        await consumer.close()


@pytest.mark.once
@pytest.mark.parametrize("has_backlog", [True, False])
async def test_a_broadcast_that_had_left_old_events_unread(tmp_path: Path, has_backlog: bool) -> None:
    """They go when others take it for dead, however short it was away, and that counts as a loss."""
    path = tmp_path / "events.db"
    async with started(path, retention={"min_age": 100.0, "unsubscribed_max_age": 100.0}) as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        await adapter.publish([message(number) for number in range(2)])
        await adapter.running.worker.write(adapter.upkeep.look)
        adapter.running.file.epoch += 150
        await receive(consumer, 1)
        if not has_backlog:
            await receive(consumer, 1)
            assert (await consumer._claim(1)).received == []
        end_broadcasts(path)
        await adapter.running.worker.write(adapter.upkeep.look)
        await adapter.publish([message(2)])
        assert keys(await receive(consumer, 1)) == ["2"]
        await adapter.running.worker.write(adapter.upkeep.look)
        assert adapter.lost == has_backlog
        await consumer.close()


@pytest.mark.once
async def test_a_broadcast_whose_new_number_was_rolled_back(tmp_path: Path) -> None:
    """A group gets the number that was rolled back: each of them has its own events, and its own end."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        consumer: Any = await adapter.open_consumer(spec(mode="broadcast"))
        end_broadcasts(path)

        def fails(db: sqlite3.Connection) -> None:
            consumer._subscribe_again(db)
            raise RuntimeError("rolled back")

        with pytest.raises(RuntimeError, match="rolled back"):
            await adapter.running.worker.write(fails)
        group: Any = await adapter.open_consumer(spec("ledger"))
        assert group.owner.subscription == consumer.owner.subscription
        await adapter.publish([message(1)])
        for each in (consumer, group):
            received = await receive(each, 1)
            assert keys(received) == ["1"]
            assert await each.settle(acks(received)) == [None]
        end_broadcasts(path)
        with pytest.raises(RuntimeError, match="rolled back"):
            await adapter.running.worker.write(fails)
        later: Any = await adapter.open_consumer(spec("mail"))
        assert later.owner.subscription == consumer.owner.subscription
        await consumer.close()
        assert ask(path, "SELECT service_group FROM promenade_subscription") == [("tests.mail",)]
        await later.close()


@pytest.mark.once
async def test_a_broadcast_with_a_redriven_event_before_its_backlog(tmp_path: Path) -> None:
    """A redriven event has a later number than the backlog, and does not hide it from one taken for dead."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        consumer = await adapter.open_consumer(spec(mode="broadcast"))
        await adapter.publish([message(0)])
        assert await consumer.settle([buried(each) for each in await receive(consumer, 1)]) == [None]
        await adapter.publish([message(number) for number in (1, 2)])
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        redriven = await receive(consumer, 1)
        assert keys(redriven) == ["0"]
        end_broadcasts(path)
        assert keys(await receive(consumer, 2)) == ["1", "2"]
        assert await consumer.settle(acks(redriven)) == [None]
        await consumer.close()


@pytest.mark.parametrize("action", ["ack", "dead_letter", "retry", "release", "hold"])
async def test_a_late_owner_changes_nothing(tmp_path: Path, action: Any) -> None:
    """An entry that another consumer has taken over is that one's, whatever the former owner settles."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        late, heir = await adapter.open_consumer(spec()), await adapter.open_consumer(spec())
        await adapter.publish([message(number) for number in range(3)])
        received = await receive(late, 3)
        number = heir.owner.number  # type: ignore[attr-defined]
        ask(path, "UPDATE promenade_delivery SET owner = ? WHERE seq = 2", number)
        outcomes = [
            buried(each) if action == "dead_letter" else Outcome(action, each.receipt) for each in received
        ]
        results = await late.settle(outcomes)
        assert [type(each) for each in results] == [type(None), LeaseLost, type(None)]
        assert ask(path, "SELECT owner, attempt FROM promenade_delivery WHERE seq = 2") == [(number, 1)]
        assert ask(path, "SELECT count(*) FROM promenade_letter") == [(2 * (action == "dead_letter"),)]
        for each in (late, heir):
            await each.close()
