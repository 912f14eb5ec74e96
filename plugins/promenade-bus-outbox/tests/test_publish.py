"""Publishing in a session: what becomes of events with the transaction that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from bus_core import (
    Bus,
    Envelope,
    EventTypeMismatch,
    Handler,
    PublishFailed,
    Topic,
    UnknownTopic,
    event,
    open_bus,
)
from outbox_support.stage import MOVED, Moved, Publish, Stage, Thing, until
from promenade_bus_outbox import Outbox, WrongSession


def moved(number: int = 0, aggregate: UUID | None = None) -> Moved:
    return Moved(aggregate_id=aggregate or uuid4(), number=number)


def outbox_of(bus: Bus, stage: Stage, **options: Any) -> Outbox:
    return Outbox(bus, stage.sessions, stage.tables, relay=False, **options)


def written(stage: Stage) -> list[str]:
    events = stage.tables.events.c
    return [row.event_id for row in stage.rows(select(events.event_id).order_by(events.position))]


async def test_an_event_exists_when_its_transaction_is_committed(bus: Bus, stage: Stage) -> None:
    """A row is there after the commit, with the event's id, and not before."""
    outbox, first = outbox_of(bus, stage), moved(1)
    before: list[int] = []

    def work(session: Session, publish: Publish) -> None:
        publish(MOVED, first)
        before.append(stage.waiting())

    await stage.transact(outbox, work)
    assert before == [0]
    assert written(stage) == [str(first.event_id)]


async def test_an_event_of_a_transaction_that_is_rolled_back_never_exists(bus: Bus, stage: Stage) -> None:
    """Neither it nor what the transaction did is there."""
    outbox = outbox_of(bus, stage)

    def work(session: Session, publish: Publish) -> None:
        session.add(Thing(id=1, name="a"))
        publish(MOVED, moved())

    await stage.transact(outbox, work, fail=True)
    assert written(stage) == []
    assert stage.rows(select(Thing.id)) == []


async def test_publishing_neither_flushes_nor_commits(bus: Bus, stage: Stage) -> None:
    """An object added to the session is as new as before, and nothing was sent to the database."""
    outbox = outbox_of(bus, stage)
    statements: list[str] = []
    sqlalchemy_event.listen(
        stage.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )
    seen: list[Any] = []

    def work(session: Session, publish: Publish) -> None:
        thing = Thing(id=1, name="a")
        session.add(thing)
        publish(MOVED, moved())
        seen.append((thing in session.new, [*statements]))

    await stage.transact(outbox, work)
    assert seen == [(True, [])]


async def test_rows_are_written_after_the_last_flush(bus: Bus, stage: Stage) -> None:
    """The lock of a row that a flush takes has ordered two transactions before the outbox does."""
    outbox = outbox_of(bus, stage)
    tables: list[str] = []

    def note(*arguments: Any) -> None:
        statement: str = arguments[2]
        if statement.startswith("INSERT"):
            tables.append(statement.split()[2])

    sqlalchemy_event.listen(stage.engine, "before_cursor_execute", note)

    def work(session: Session, publish: Publish) -> None:
        publish(MOVED, moved())
        session.add(Thing(id=1, name="a"))

    await stage.transact(outbox, work)
    assert tables == ["thing", "promenade_outbox"]


async def test_the_events_of_a_savepoint_that_is_rolled_back_are_not_written(bus: Bus, stage: Stage) -> None:
    """Those before, after, and of a savepoint that was released are, in the order of publishing."""
    outbox = outbox_of(bus, stage)
    events = [moved(number) for number in range(6)]

    def work(session: Session, publish: Publish) -> None:
        publish(MOVED, events[0])
        with session.begin_nested():
            publish(MOVED, events[1])
            with session.begin_nested() as inner:
                publish(MOVED, events[2])
                inner.rollback()
        with session.begin_nested() as lost:
            publish(MOVED, events[3])
            with session.begin_nested():
                publish(MOVED, events[4])
            lost.rollback()
        publish(MOVED, events[5])

    await stage.transact(outbox, work)
    assert written(stage) == [str(events[number].event_id) for number in (0, 1, 5)]


async def test_a_session_that_is_closed_drops_its_events(bus: Bus, sqlite: Stage) -> None:
    """Nothing of them is left in a session that is used again."""
    outbox = outbox_of(bus, sqlite)
    session = sqlite.sessions()
    await outbox.publish(session, MOVED, moved())
    await session.close()
    kept = moved()
    await outbox.publish(session, MOVED, kept)
    await session.commit()
    await session.close()
    assert written(sqlite) == [str(kept.event_id)]


async def test_a_session_is_used_for_several_transactions(bus: Bus, stage: Stage) -> None:
    """The events of each go with it: those of a rolled-back one do not turn up in the next."""
    outbox = outbox_of(bus, stage)
    events = [moved(number) for number in range(3)]

    if stage.is_async:
        async with stage.sessions() as session:
            for number, each in enumerate(events):
                await outbox.publish(session, MOVED, each)
                await (session.rollback() if number == 1 else session.commit())
    else:

        def run() -> None:
            with stage.sessions() as session:
                for number, each in enumerate(events):
                    outbox.publish_sync(session, MOVED, each)
                    if number == 1:
                        session.rollback()
                    else:
                        session.commit()

        await asyncio.to_thread(run)
    assert written(stage) == [str(events[0].event_id), str(events[2].event_id)]


async def test_what_is_published_during_the_commit_is_written_as_well(bus: Bus, stage: Stage) -> None:
    """A hook of the last flush publishes in time, whenever it is called."""
    outbox, first, late = outbox_of(bus, stage), moved(1), moved(2)

    def work(session: Session, publish: Publish) -> None:
        publish(MOVED, first)

        def hook(flushed: Session) -> None:
            if not flushed.info.get("published"):
                flushed.info["published"] = True
                publish(MOVED, late)

        sqlalchemy_event.listen(session, "before_commit", hook)  # after that of the outbox

    await stage.transact(outbox, work)
    assert written(stage) == [str(first.event_id), str(late.event_id)]


async def test_an_event_that_cannot_be_published_is_an_error_at_once(bus: Bus, sqlite: Stage) -> None:
    """The errors are those of the bus, while the transaction can still do something about it."""
    outbox = outbox_of(bus, sqlite)
    async with sqlite.sessions() as session:
        with pytest.raises(UnknownTopic, match=r"unknown topic 'outbox\.thing\.mvoed'"):
            await outbox.publish(session, "outbox.thing.mvoed", moved())

        @event
        class Other(Moved):
            """Something else."""

        with pytest.raises(EventTypeMismatch, match="a subclass"):
            await outbox.publish(session, MOVED, Other(aggregate_id=uuid4()))
        await session.commit()
    assert written(sqlite) == []


async def test_headers_and_the_encoded_document_are_kept_as_they_are(bus: Bus, stage: Stage) -> None:
    """The row holds what the serializer made of the event when it was published."""
    outbox, first = outbox_of(bus, stage), moved(7)

    if stage.is_async:
        async with stage.sessions.begin() as session:
            await outbox.publish(session, MOVED, first, headers={"trace": "é1"})
    else:
        with stage.sessions.begin() as session:
            outbox.publish_sync(session, MOVED, first, headers={"trace": "é1"})
    prepared = bus.prepare_nowait(MOVED, first)
    assert prepared is not None
    events = stage.tables.events.c
    [row] = stage.rows(select(events.body, events.headers, events.topic, events.key))
    assert bytes(row.body) == prepared.body
    assert '"trace"' in row.headers
    assert (row.topic, row.key) == (MOVED.name, str(first.aggregate_id))


async def test_the_publish_middleware_sees_an_event_before_it_is_a_row(sqlite: Stage) -> None:
    """It may change headers, replace the event, and let it go no further; a plain call cannot wait for it."""
    seen: list[str] = []

    def middleware(inner: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            seen.append(envelope.topic)
            assert isinstance(envelope.event, Moved)
            if envelope.event.number == 13:
                return
            if envelope.event.number == 14:
                await asyncio.sleep(0)
            envelope.headers["seen"] = "yes"
            await inner(envelope)

        return handle

    unstarted = open_bus({"bus": {"adapter": "memory"}})
    unstarted.instrument(publish=middleware)
    outbox = outbox_of(unstarted, sqlite)
    async with sqlite.sessions.begin() as session:
        await outbox.publish(session, MOVED, moved(13))
        await outbox.publish(session, MOVED, moved(14))
    events = sqlite.tables.events.c
    assert [row.headers for row in sqlite.rows(select(events.headers))] == ['{"seen": "yes"}']
    assert seen == [MOVED.name, MOVED.name]
    with pytest.raises(PublishFailed, match=r"waited on topic 'outbox.thing.moved'; await prepare\(\)"):
        unstarted.prepare_nowait(MOVED, moved(14))


async def test_scoped_sessions_are_taken_as_well(bus: Bus, tmp_path: Any) -> None:
    """The session of the scope is used."""
    stage = Stage(f"sqlite:///{tmp_path}/app.db")
    stage.create()
    outbox, first = outbox_of(bus, stage), moved()
    scoped = scoped_session(stage.sessions)
    outbox.publish_sync(scoped, MOVED, first)
    scoped.commit()
    scoped.remove()
    assert written(stage) == [str(first.event_id)]
    await stage.close()


async def test_a_session_of_the_wrong_kind_is_an_error_that_names_the_other_call(
    bus: Bus, sqlite: Stage, tmp_path: Any
) -> None:
    """An async session belongs to publish, another one to publish_sync."""
    outbox = outbox_of(bus, sqlite)
    async with sqlite.sessions() as session:
        with pytest.raises(WrongSession, match=r"with an AsyncSession: await outbox.publish"):
            outbox.publish_sync(session, MOVED, moved())
        with pytest.raises(WrongSession, match=r"with a Session call outbox.publish_sync"):
            await outbox.publish(session.sync_session, MOVED, moved())
        wrong: Any = "session"
        with pytest.raises(WrongSession, match="publish takes an AsyncSession, got a str"):
            await outbox.publish(wrong, MOVED, moved())
        with pytest.raises(WrongSession, match="publish_sync takes a Session, got a str"):
            outbox.publish_sync(wrong, MOVED, moved())


async def test_a_session_of_another_database_is_refused(bus: Bus, stage: Stage, tmp_path: Any) -> None:
    """Nobody would look for the event there; another engine of the same database is as good."""
    outbox = outbox_of(bus, stage)
    other = Stage(f"sqlite+{'aio' if stage.is_async else 'py'}sqlite:///{tmp_path}/other.db")
    same = Stage(stage.url)

    def refused() -> Any:
        return pytest.raises(WrongSession, match=r"is one of sqlite.*other\.db.*this outbox looks into")

    if stage.is_async:
        async with other.sessions() as session:
            with refused():
                await outbox.publish(session, MOVED, moved())
    else:
        with other.sessions() as session, refused():
            outbox.publish_sync(session, MOVED, moved())
    await same.publish(outbox, moved())
    assert stage.waiting() == 1
    await other.close()
    await same.close()


async def test_a_session_without_autobegin_needs_a_transaction(bus: Bus, tmp_path: Any) -> None:
    """It says between which calls to publish."""
    stage = Stage(f"sqlite:///{tmp_path}/app.db")
    stage.create()
    sessions = sessionmaker(stage.engine, autobegin=False)
    outbox = Outbox(bus, sessions, stage.tables, relay=False)
    with sessions() as session:
        with pytest.raises(WrongSession, match=r"between session\.begin\(\) and the commit"):
            outbox.publish_sync(session, MOVED, moved())
        with session.begin():
            outbox.publish_sync(session, MOVED, moved())
    assert stage.waiting() == 1
    await stage.close()


async def test_threads_publish_at_once(bus: Bus, tmp_path: Any) -> None:
    """Eight writers on SQLite, each with transactions of its own: every event is there once."""
    stage = Stage(f"sqlite:///{tmp_path}/app.db", connect_args={"timeout": 60})
    stage.create()
    got: list[int] = []

    @bus.subscribe(MOVED, name="counting")
    async def count(event: Moved) -> None:
        got.append(event.number)

    def write(number: int) -> None:
        for step in range(15):
            with stage.sessions() as session:
                outbox.publish_sync(session, MOVED, moved(100 * number + step))
                if step % 5 == 4:
                    session.rollback()
                else:
                    session.commit()

    async with Outbox(bus, stage.sessions, stage.tables) as outbox:
        writing: list[Awaitable[None]] = [asyncio.to_thread(write, number) for number in range(8)]
        await asyncio.gather(*writing)
        await until(lambda: stage.waiting() == 0, "everything is delivered")
    await bus.drain()
    expected = [100 * number + step for number in range(8) for step in range(15) if step % 5 != 4]
    assert sorted(got) == expected
    await stage.close()


def test_a_topic_without_catalogue_is_published_by_its_object(bus: Bus) -> None:
    """The name alone is unknown until then."""
    prepared = bus.prepare_nowait(Topic("outbox.other.moved", Moved), moved())
    assert prepared is not None
    assert prepared.topic == "outbox.other.moved"
