"""The inbox: effects happen once, however often an event is delivered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from bus_core import Bus, Delivery, InvalidHandler, PermanentError, RetryLater, open_bus
from outbox_support.stage import MOVED, Effect, Moved, Stage, until
from promenade_bus_outbox import Inbox, MissingTables, Outbox, WrongSession
from support.remote import Server, running_remote_bus


def moved(number: int = 0) -> Moved:
    return Moved(aggregate_id=uuid4(), number=number)


def effect_of(event: Moved, subscription: str = "book") -> Effect:
    return Effect(subscription=subscription, aggregate=str(event.aggregate_id), number=event.number)


def booking(stage: Stage, inbox: Inbox, after: Callable[[Moved, Any], None] | None = None) -> Any:
    """A handler of the inbox that adds a row, and then does what is asked for."""
    if stage.is_async:

        async def book(event: Moved, session: AsyncSession, delivery: Delivery) -> None:
            session.add(effect_of(event, delivery.subscription))
            await session.flush()
            if after is not None:
                after(event, delivery)

        return inbox.handler(book)

    def book_in_thread(event: Moved, session: Session, delivery: Delivery) -> None:
        session.add(effect_of(event, delivery.subscription))
        session.flush()
        if after is not None:
            after(event, delivery)

    return inbox.handler(book_in_thread)


def effects(stage: Stage) -> list[tuple[str, int]]:
    return [
        (row.subscription, row.number)
        for row in stage.rows(select(Effect.subscription, Effect.number).order_by(Effect.id))
    ]


def marks(stage: Stage) -> int:
    count: int = stage.scalar(select(func.count()).select_from(stage.tables.marks))
    return count


async def test_a_second_delivery_of_an_event_has_no_effect(bus: Bus, stage: Stage) -> None:
    """It is acknowledged, and the handler is not called."""
    inbox = Inbox(stage.sessions, stage.tables)
    bus.subscribe(MOVED, booking(stage, inbox), name="book")
    first, second = moved(1), moved(2)
    for event in (first, first, second, first):
        await bus.publish(MOVED, event)
    await bus.drain()
    assert sorted(effects(stage)) == [("book", 1), ("book", 2)]
    assert marks(stage) == 2
    assert bus.state().subscriptions[0].handled == 4


async def test_each_subscription_and_service_has_marks_of_its_own(stage: Stage) -> None:
    """Two handlers of one event both handle it, and so do two services on one database."""
    inbox, first = Inbox(stage.sessions, stage.tables), moved(1)
    for service in ("shop", "office"):
        async with open_bus({"app": {"name": service}, "bus": {"adapter": "memory"}}) as bus:
            for name in ("book", "count"):
                bus.subscribe(MOVED, booking(stage, inbox), name=name)
            await bus.publish(MOVED, first)
            await bus.publish(MOVED, first)
            await bus.drain()
    assert sorted(effects(stage)) == [("book", 1), ("book", 1), ("count", 1), ("count", 1)]
    table = stage.tables.marks.c
    found = stage.rows(select(table.service, table.subscription, table.topic, table.event_id))
    assert sorted((row.service, row.subscription) for row in found) == [
        ("office", "book"),
        ("office", "count"),
        ("shop", "book"),
        ("shop", "count"),
    ]
    assert {(row.topic, row.event_id) for row in found} == {(MOVED.name, str(first.event_id))}


async def test_an_attempt_that_fails_leaves_neither_effect_nor_mark(bus: Bus, stage: Stage) -> None:
    """The next one is the first that counts."""
    inbox = Inbox(stage.sessions, stage.tables)
    seen: list[tuple[int, int]] = []

    def after(event: Moved, delivery: Delivery) -> None:
        seen.append((delivery.attempt, marks(stage)))
        if delivery.attempt == 1:
            raise RetryLater(after=0.01)

    bus.subscribe(MOVED, booking(stage, inbox, after), name="book")
    await bus.publish(MOVED, moved(1))
    await bus.drain()
    assert seen == [(1, 0), (2, 0)]
    assert effects(stage) == [("book", 1)]
    assert marks(stage) == 1


async def test_deliveries_at_the_same_time_have_one_effect(bus: Bus, stage: Stage) -> None:
    """The second one waits for the first, and then knows."""
    if not stage.is_postgres:
        return  # one writer: there is no such moment
    inbox, first = Inbox(stage.sessions, stage.tables), moved(1)
    for name in ("one", "two"):
        bus.subscribe(MOVED, booking(stage, inbox), name=name, concurrency=10)
    await asyncio.gather(*(bus.publish(MOVED, first) for _ in range(10)))
    await bus.drain()
    assert sorted(effects(stage)) == [("one", 1), ("two", 1)]


async def test_a_dead_letter_that_is_redriven_is_handled_although_it_is_marked(
    bus: Bus, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has asked for that; the log says so."""
    inbox = Inbox(stage.sessions, stage.tables)
    failing = True
    calls: list[bool] = []
    handler = booking(stage, inbox, lambda event, delivery: calls.append(delivery.redriven))

    if stage.is_async:

        async def late_async(event: Moved, delivery: Delivery) -> None:
            await handler(event, delivery)
            if failing:  # after the commit
                raise PermanentError("too late")

        bus.subscribe(MOVED, late_async, name="book")
    else:

        def late(event: Moved, delivery: Delivery) -> None:
            handler(event, delivery)
            if failing:
                raise PermanentError("too late")

        bus.subscribe(MOVED, late, name="book")
    await bus.publish(MOVED, moved(1))
    await bus.drain()
    failing = False
    assert effects(stage) == [("book", 1)]
    [letter] = await bus.dead_letters.list()
    with caplog.at_level(logging.WARNING, "promenade.inbox"):
        assert await bus.dead_letters.redrive(letter) == 1
        await bus.drain()
    assert calls == [False, True]
    assert effects(stage) == [("book", 1), ("book", 1)]
    assert "it was redriven" in caplog.text


async def test_a_retry_after_a_redrive_is_redriven_too_and_a_plain_retry_is_not() -> None:
    """Deliveries tell it, also on an adapter outside of the process."""
    told: list[tuple[int, bool, bool, str]] = []
    async with running_remote_bus(Server(hands_on=True)) as bus:

        @bus.subscribe(MOVED, name="book")
        async def book(event: Moved, delivery: Delivery) -> None:
            told.append((delivery.attempt, delivery.redelivered, delivery.redriven, delivery.group))
            if delivery.attempt == 1:
                raise RetryLater(after=0.001)
            if not delivery.redriven:
                raise PermanentError("no")

        await bus.publish(MOVED, moved())
        await bus.drain()
        [letter] = await bus.dead_letters.list()
        await bus.dead_letters.redrive(letter)
        await bus.drain()
    assert told == [
        (1, False, False, "tests.book"),
        (2, True, False, "tests.book"),
        (1, True, True, "tests.book"),
        (2, True, True, "tests.book"),
    ]


async def test_a_handler_publishes_through_the_outbox_in_its_own_transaction(stage: Stage) -> None:
    """An event that it causes exists exactly when its effects do."""
    if not stage.is_async:
        return
    async with open_bus({"bus": {"adapter": "memory"}}) as bus:
        outbox = Outbox(bus, stage.sessions, stage.tables, poll=0.02)
        inbox = Inbox(stage.sessions, stage.tables)

        @bus.subscribe(MOVED, name="step")
        @inbox.handler
        async def step(event: Moved, session: AsyncSession) -> None:
            session.add(effect_of(event, "step"))
            if event.number < 5:
                following = Moved(aggregate_id=event.aggregate_id, number=event.number + 1)
                await outbox.publish(session, MOVED, following)

        async with outbox:
            async with stage.sessions.begin() as session:
                await outbox.publish(session, MOVED, moved(1))
            await until(lambda: len(effects(stage)) == 5, "the last step is made")
            await until(lambda: stage.waiting() == 0, "nothing is left")
    assert effects(stage) == [("step", number) for number in range(1, 6)]


async def test_old_marks_are_deleted(bus: Bus, stage: Stage) -> None:
    """In chunks, by the age that was given; the others stay."""
    inbox = Inbox(stage.sessions, stage.tables, keep=timedelta(days=1))
    bus.subscribe(MOVED, booking(stage, inbox), name="book")
    for number in range(4):
        await bus.publish(MOVED, moved(number))
    await bus.drain()
    table = stage.tables.marks
    with stage.connect() as connection, connection.begin():
        [kept, *old] = connection.scalars(select(table.c.event_id)).all()
        long_ago = datetime.now(UTC) - timedelta(days=1, minutes=1)
        connection.execute(update(table).where(table.c.event_id.in_(old)).values(handled_at=long_ago))
    assert await inbox.clean() == 3
    assert [row.event_id for row in stage.rows(select(table.c.event_id))] == [kept]


async def test_handlers_clean_by_themselves(bus: Bus, stage: Stage) -> None:
    """With the first event, and then now and then."""
    table = stage.tables.marks
    first = moved(1)
    inbox = Inbox(stage.sessions, stage.tables)
    subscription = bus.subscribe(MOVED, booking(stage, inbox), name="book")
    await bus.publish(MOVED, first)
    await bus.drain()
    await subscription.unsubscribe()
    with stage.connect() as connection, connection.begin():
        connection.execute(update(table).values(handled_at=datetime(2020, 1, 1, tzinfo=UTC)))
    bus.subscribe(MOVED, booking(stage, Inbox(stage.sessions, stage.tables)), name="other")
    await bus.publish(MOVED, moved(2))
    await bus.drain()
    assert [row.subscription for row in stage.rows(select(table.c.subscription))] == ["other"]


def test_a_handler_has_to_fit_the_sessions(sqlite: Stage) -> None:
    """It says what was made with what, and which arguments a handler takes."""
    inbox = Inbox(sqlite.sessions, sqlite.tables)

    def plain(event: Moved, session: Session) -> None: ...

    async def one(event: Moved) -> None: ...

    with pytest.raises(InvalidHandler, match="has to be an async function: the inbox was made with an async"):
        inbox.handler(plain)
    with pytest.raises(InvalidHandler, match=r"takes 1 required arguments; .*\(event, session\) or"):
        inbox.handler(cast("Any", one))
    with pytest.raises(WrongSession, match="async_sessionmaker or a sessionmaker, got sqlalchemy"):
        Inbox(cast("Any", sqlite.engine), sqlite.tables)
    with pytest.raises(ValueError, match="keep must be more than 0"):
        Inbox(sqlite.sessions, sqlite.tables, keep=0)


def test_a_handler_keeps_its_names(sqlite: Stage) -> None:
    """Logs and dead letters name the function that somebody has written."""
    inbox = Inbox(sqlite.sessions, sqlite.tables)

    @inbox.handler
    async def book(event: Moved, session: AsyncSession) -> None:
        """Books it."""

    assert (book.__name__, book.__doc__, book.__module__) == ("book", "Books it.", __name__)


async def test_missing_tables_are_an_error_that_says_what_to_do(bus: Bus, tmp_path: Any) -> None:
    """The event is a dead letter that names the table."""
    empty = Stage(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    inbox = Inbox(empty.sessions, empty.tables)
    bus.subscribe(MOVED, booking(empty, inbox), name="book", give_up_on=MissingTables)
    await bus.publish(MOVED, moved(1))
    await bus.drain()
    [letter] = await bus.dead_letters.list()
    assert "has no table 'promenade_inbox': create the tables" in letter.attempts[-1].error
    await empty.close()
