"""The relay: what it delivers, in which order, and what it does with what the bus does not accept."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, update

from bus_core import (
    Bus,
    BusNotStarted,
    Delivery,
    Message,
    PublishError,
    PublishFailed,
    PublishUncertain,
    open_sync_bus,
)
from outbox_support.stage import MOVED, Moved, Stage, seen, until
from promenade_bus_outbox import Outbox
from promenade_bus_outbox.names import partition_of
from support.remote import Server, make_remote_bus, refuse_events, running_remote_bus

QUICK: dict[str, Any] = {"poll": 0.02, "lease": 1.0}


def moved(number: int = 0, aggregate: UUID | None = None) -> Moved:
    return Moved(aggregate_id=aggregate or uuid4(), number=number)


def sent(server: Server) -> list[str]:
    return [message.id for message in server.log]


def ids(events: Sequence[Moved]) -> list[str]:
    return [str(each.event_id) for each in events]


async def test_an_event_reaches_its_handler_as_it_was_published(bus: Bus, stage: Stage) -> None:
    """Id, time and fields are those of the event that was published; headers are in the delivery."""
    got: list[tuple[Moved, Delivery]] = []

    @bus.subscribe(MOVED, name="looking")
    async def look(event: Moved, delivery: Delivery) -> None:
        got.append((event, delivery))

    first = moved(7)
    async with Outbox(bus, stage.sessions, stage.tables):
        if stage.is_async:
            async with stage.sessions.begin() as session:
                await Outbox(bus, stage.sessions, stage.tables).publish(
                    session, MOVED, first, headers={"trace": "1"}
                )
        else:
            with stage.sessions.begin() as session:
                Outbox(bus, stage.sessions, stage.tables).publish_sync(
                    session, MOVED, first, headers={"trace": "1"}
                )
        await until(lambda: bool(got), "the event is handled")
        await until(lambda: stage.waiting() == 0, "its row is deleted")
    [(event, delivery)] = got
    assert event == first
    assert (event.event_id, event.occurred_at) == (first.event_id, first.occurred_at)
    assert (delivery.topic, delivery.headers, delivery.message_id) == (
        MOVED.name,
        {"trace": "1"},
        str(first.event_id),
    )


async def test_a_commit_wakes_the_relay_of_the_process(
    bus: Bus, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event does not wait until the relay looks again by itself."""
    monkeypatch.setattr("promenade_bus_outbox.relay._FIRST_LOOK", 3600.0)
    got: list[Moved] = []
    bus.subscribe(MOVED, got.append, name="looking")
    async with Outbox(bus, stage.sessions, stage.tables, poll=3600, lease=3600) as outbox:
        await until(lambda: outbox.relay is not None and bool(outbox.relay.owned), "the relay owns something")
        for number in range(3):
            await stage.publish(outbox, moved(number))
            await until(lambda: len(got) == number + 1, "the event is handled")  # noqa: B023


async def test_what_another_process_has_written_is_found_by_looking(bus: Bus, async_stage: Stage) -> None:
    """Nobody wakes the relay there."""
    got: list[Moved] = []
    bus.subscribe(MOVED, got.append, name="looking")
    writing = Outbox(bus, async_stage.sessions, async_stage.tables, relay=False)
    async with Outbox(bus, async_stage.sessions, async_stage.tables, **QUICK):
        await async_stage.publish(writing, moved(1))
        await until(lambda: bool(got), "the event is handled")


async def test_without_a_relay_events_wait_for_one(bus: Bus, async_stage: Stage) -> None:
    """They are there when somebody starts one, in another process or later."""
    got: list[Moved] = []
    bus.subscribe(MOVED, got.append, name="looking")
    events = [moved(number) for number in range(5)]
    async with Outbox(bus, async_stage.sessions, async_stage.tables, relay=False) as outbox:
        await async_stage.publish(outbox, *events)
        assert outbox.relay is None
    assert async_stage.waiting() == 5
    async with Outbox(bus, async_stage.sessions, async_stage.tables):
        await until(lambda: len(got) == 5, "the events are handled")


async def test_the_events_of_a_key_leave_in_the_order_of_their_transactions(async_stage: Stage) -> None:
    """Also when there are many in one batch, and of other keys."""
    server = Server()
    keys = [uuid4() for _ in range(7)]
    async with running_remote_bus(server) as bus:
        outbox = Outbox(bus, async_stage.sessions, async_stage.tables, relay=False)
        for number in range(6):
            await async_stage.publish(outbox, *(moved(number, key) for key in keys))
        async with Outbox(bus, async_stage.sessions, async_stage.tables, batch=10, **QUICK):
            await until(lambda: async_stage.waiting() == 0, "everything is delivered")
    for key in keys:
        bodies = [message.body for message in server.log if message.key == str(key)]
        assert [number for body in bodies for number in range(6) if b'"number":%d' % number in body] == [
            *range(6)
        ]


async def test_several_relays_share_the_work_and_deliver_each_event_once(async_stage: Stage) -> None:
    """While all of them live, no two deliver the same key."""
    server = Server()
    async with running_remote_bus(server) as bus:
        several = [Outbox(bus, async_stage.sessions, async_stage.tables, **QUICK) for _ in range(3)]
        events = [moved(number) for number in range(300)]
        async with several[0], several[1], several[2]:
            relays = [outbox.relay for outbox in several]
            await until(
                lambda: sorted(len(relay.owned) for relay in relays if relay is not None) == [10, 11, 11],
                "each relay has its share",
            )
            for some in range(0, 300, 30):
                await async_stage.publish(several[0], *events[some : some + 30])
            await until(lambda: async_stage.waiting() == 0, "everything is delivered")
            assert all(relay is not None and relay.delivered for relay in relays)
    assert sorted(sent(server)) == sorted(ids(events))


async def test_a_failure_does_not_change_the_order_of_a_key_and_holds_up_no_other(
    async_stage: Stage,
) -> None:
    """The later events of the key wait until the bus accepts the first one."""
    server = Server()
    bad, good = uuid4(), uuid4()
    while partition_of(str(good)) == partition_of(str(bad)):
        good = uuid4()
    events = [moved(number, key) for number in range(4) for key in (bad, good)]
    failing = True

    def publish(messages: Sequence[Message]) -> Sequence[PublishError | None] | None:
        results: list[PublishError | None] = []
        for message in messages:
            if failing and message.id == str(events[0].event_id):
                results.append(PublishUncertain("nobody knows"))
            else:
                server.store(message)
                results.append(None)
        return results

    server.faults["publish"] = publish
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, async_stage.sessions, async_stage.tables, **QUICK) as outbox,
    ):
        await async_stage.publish(outbox, *events)
        await until(lambda: len(server.log) == 4, "the other key is delivered")
        assert {message.key for message in server.log} == {str(good)}
        await until(lambda: outbox.problem is not None, "the relay says so")
        failing = False
        await until(lambda: async_stage.waiting() == 0, "everything is delivered")
        assert outbox.relay is not None
        await until(lambda: outbox.problem is None, "all is well")
    assert sent(server)[4:] == ids([each for each in events if each.aggregate_id == bad])


async def test_an_event_that_the_bus_cannot_store_for_now_waits(async_stage: Stage) -> None:
    """It is not set aside when the bus has tried for as long as it does."""
    server = Server()
    full = True
    server.faults["publish"] = lambda messages: (
        [PublishFailed("full", transient=True) for _ in messages] if full else None
    )
    async with (
        running_remote_bus(server, publish_timeout="50ms") as bus,
        Outbox(bus, async_stage.sessions, async_stage.tables, **QUICK) as outbox,
    ):
        await async_stage.publish(outbox, moved())
        await until(lambda: outbox.problem is not None, "the bus gives up")
        status = await outbox.status()
        assert (status.waiting, status.refused) == (1, 0)
        full = False
        await until(lambda: async_stage.waiting() == 0, "the event is delivered")


async def test_a_fault_of_the_storage_refuses_no_event(async_stage: Stage) -> None:
    """A table that is gone holds up the events of a key, which then leave in order."""
    server, key = Server(), uuid4()
    broken = True
    server.faults["publish"] = lambda messages: (
        [PublishFailed("the table is gone", permanent=False) for _ in messages] if broken else None
    )
    events = [moved(number, key) for number in range(3)]
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, async_stage.sessions, async_stage.tables, **QUICK) as outbox,
    ):
        await async_stage.publish(outbox, *events[:2])
        await until(lambda: outbox.problem is not None, "the relay says so")
        await async_stage.publish(outbox, events[2])
        status = await outbox.status()
        assert (status.waiting, status.refused) == (3, 0)
        broken = False
        await until(lambda: async_stage.waiting() == 0, "everything is delivered")
    assert sent(server) == ids(events)


async def test_an_event_that_the_bus_refuses_for_good_is_set_aside_with_its_cause(async_stage: Stage) -> None:
    """Everything else goes on, later events of its key too; it can be delivered again, or discarded."""
    server, key = Server(), uuid4()
    events = [moved(number, key) for number in range(4)]
    refused = {str(events[1].event_id), str(events[2].event_id)}
    refuse_events(server, refused)
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, async_stage.sessions, async_stage.tables, **QUICK) as outbox,
    ):
        await async_stage.publish(outbox, *events)
        await until(lambda: async_stage.waiting() == 2, "the others are delivered")
        assert sent(server) == ids([events[0], events[3]])
        status = await outbox.status()
        assert (status.waiting, status.refused) == (0, 2)
        first = status.refusals[0]
        assert (first.event_id, first.cause) == (ids(events)[1], "PublishFailed: too large")
        assert (datetime.now(UTC) - first.refused_at).total_seconds() < 60
        refused.clear()
        assert await outbox.retry_refused([first.position]) == 1
        await until(lambda: async_stage.waiting() == 1, "it is delivered")
        assert await outbox.discard_refused([status.refusals[1].position]) == 1
        assert async_stage.waiting() == 0
    assert sent(server) == ids([events[0], events[3], events[1]])


async def test_an_event_that_is_refused_can_hold_its_key(async_stage: Stage) -> None:
    """The later ones of the key wait for it, by option; others do not."""
    server, key = Server(), uuid4()
    events = [moved(number, key) for number in range(3)]
    refused = {str(events[1].event_id)}
    refuse_events(server, refused)
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, async_stage.sessions, async_stage.tables, after_refusal="hold_key", **QUICK) as outbox,
    ):
        await async_stage.publish(outbox, *events[:2])
        await until(lambda: len(server.log) == 1, "the first one is delivered")
        other = moved()
        await async_stage.publish(outbox, events[2], other)
        await until(lambda: len(server.log) == 2, "the other key is delivered")
        await async_stage.publish(outbox, moved())
        await until(lambda: len(server.log) == 3, "another one is delivered")
        assert sent(server)[:2] == ids([events[0], other])
        await seen(outbox, lambda status: status.waiting == 1)  # a row is deleted after the bus has its event
        refused.clear()
        assert await outbox.retry_refused() == 1
        await until(lambda: async_stage.waiting() == 0, "everything is delivered")
    assert sent(server)[3:] == ids(events[1:])


async def test_a_topic_that_is_no_topic_is_refused(bus: Bus, async_stage: Stage) -> None:
    """A row that somebody else has written wrongly does not hold up the others."""
    table = async_stage.tables.events
    with async_stage.connect() as connection, connection.begin():
        row = {"partition": 0, "event_id": "1", "topic": "No Topic", "key": "k", "body": b"{}"}
        connection.execute(insert(table), {**row, "written_at": datetime.now(UTC)})
    async with Outbox(bus, async_stage.sessions, async_stage.tables, **QUICK) as outbox:
        await until(lambda: async_stage.scalar(select(table.c.cause)) is not None, "it is set aside")
        status = await outbox.status()
    assert status.refusals[0].cause.startswith("InvalidTopic: ")


async def test_delivered_events_are_kept_for_a_time_by_option(bus: Bus, async_stage: Stage) -> None:
    """They are not delivered again, and are deleted when that time is over."""
    got: list[Moved] = []
    bus.subscribe(MOVED, got.append, name="looking")
    table = async_stage.tables.events
    async with Outbox(bus, async_stage.sessions, async_stage.tables, keep=3600, **QUICK) as outbox:
        await async_stage.publish(outbox, moved(1), moved(2))
        await until(lambda: len(got) == 2, "they are handled")
        await until(
            lambda: async_stage.scalar(select(func.count()).where(table.c.delivered_at.is_not(None))) == 2,
            "they are marked",
        )
        status = await outbox.status()
        assert (status.waiting, status.kept) == (0, 2)
    with async_stage.connect() as connection, connection.begin():
        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        connection.execute(update(table).where(table.c.position == 1).values(delivered_at=long_ago))
    async with Outbox(bus, async_stage.sessions, async_stage.tables, keep=3600, **QUICK):
        await until(lambda: async_stage.waiting() == 1, "the old one is deleted", 10)
        assert len(got) == 2


async def test_the_relay_goes_on_when_every_task_is_cancelled(bus: Bus, sqlite: Stage) -> None:
    """A program may do that; what is committed later is delivered all the same."""
    got: list[Moved] = []
    bus.subscribe(MOVED, got.append, name="looking")
    async with Outbox(bus, sqlite.sessions, sqlite.tables, **QUICK) as outbox:
        await sqlite.publish(outbox, moved(1))
        await until(lambda: len(got) == 1, "the first one is handled")
        for task in asyncio.all_tasks():
            if task.get_name().startswith("promenade-outbox"):
                task.cancel()
        await sqlite.publish(outbox, moved(2))
        await until(lambda: len(got) == 2, "the second one is handled")


async def test_the_relay_outlives_a_database_that_fails(postgres: Stage) -> None:
    """It says so, tries again, and delivers when it can."""
    server = Server()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, postgres.sessions, postgres.tables, **QUICK) as outbox,
    ):
        await postgres.publish(outbox, moved(1))
        await until(lambda: len(server.log) == 1, "the first one is delivered")
        await asyncio.to_thread(postgres.execute, "ALTER TABLE promenade_outbox RENAME TO away")
        await until(lambda: outbox.problem is not None, "the relay says so")
        await asyncio.to_thread(postgres.execute, "ALTER TABLE away RENAME TO promenade_outbox")
        await postgres.publish(outbox, moved(2))
        await until(lambda: len(server.log) == 2, "the second one is delivered")


async def test_the_bus_has_to_be_started_before_the_relay(async_stage: Stage) -> None:
    """The order is bus, outbox."""
    bus = make_remote_bus(Server())
    with pytest.raises(BusNotStarted, match="start the relay of the outbox"):
        await Outbox(bus, async_stage.sessions, async_stage.tables).start()
    await Outbox(bus, async_stage.sessions, async_stage.tables, relay=False).start()


async def test_a_bus_in_memory_is_said_to_lose_events(
    bus: Bus, async_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The relay works, and its log says what a durable adapter would do better."""
    with caplog.at_level(logging.WARNING, "promenade.outbox"):
        async with Outbox(bus, async_stage.sessions, async_stage.tables):
            pass
    assert "which does not outlive this process" in caplog.text


async def test_an_application_of_threads_uses_a_sync_bus(tmp_path: Any) -> None:
    """With plain calls from the first to the last; the relay works on the loop of the bus."""
    stage = Stage(f"sqlite:///{tmp_path}/app.db")
    stage.create()
    got: list[Moved] = []
    handled = threading.Event()

    def handle(event: Moved) -> None:
        got.append(event)
        handled.set()

    def run() -> None:
        with open_sync_bus({"bus": {"adapter": "memory"}}) as bus:
            bus.subscribe(MOVED, handle, name="looking")
            with Outbox(bus, stage.sessions, stage.tables) as outbox:
                with stage.sessions.begin() as session:
                    outbox.publish_sync(session, MOVED, moved(1))
                assert handled.wait(60)

    await asyncio.to_thread(run)
    assert [event.number for event in got] == [1]
    assert stage.waiting() == 0
    await stage.close()
