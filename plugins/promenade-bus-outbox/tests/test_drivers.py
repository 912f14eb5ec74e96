"""The relay on a driver alone, without SQLAlchemy: ``sqlite3`` and psycopg 3."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData, Table, create_engine, func, insert, select, text, update
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.orm import sessionmaker

from bus_core import Message, open_sync_bus
from outbox_support.stage import MOVED, Moved, Stage, seen, until
from postgres_support.servers import PostgresServer
from promenade_bus_outbox import (
    DriverDatabase,
    MissingTables,
    Outbox,
    OutboxError,
    OutboxRelay,
    outbox_tables,
)
from promenade_bus_outbox.command import _connected
from promenade_bus_outbox.database import Database
from promenade_bus_outbox.errors import MissingExtra
from promenade_bus_outbox.names import TableNames
from support.remote import Server, refuse_events, running_remote_bus

pytestmark = pytest.mark.once

QUICK: dict[str, Any] = {"poll": 0.02, "lease": 1.0}


def moved(number: int = 0, aggregate: UUID | None = None) -> Moved:
    return Moved(aggregate_id=aggregate or uuid4(), number=number)


def ids(messages: Sequence[Message]) -> list[str]:
    return [message.id for message in messages]


@pytest.fixture
async def database(async_stage: Stage) -> AsyncIterator[DriverDatabase]:
    """The stage's database through its driver."""
    made = async_stage.driver_database()
    yield made
    made.close()


async def test_it_delivers_the_events_of_a_key_in_their_order(
    async_stage: Stage, database: DriverDatabase
) -> None:
    """SQLAlchemy has written them; rows of delivered events are deleted."""
    server, key = Server(), uuid4()
    events = [moved(number, key) for number in range(5)]
    async with running_remote_bus(server) as bus:
        writing = Outbox(bus, async_stage.sessions, async_stage.tables, relay=False)
        for each in events:
            await async_stage.publish(writing, each, moved(9))
        async with OutboxRelay(bus, database, batch=3, **QUICK) as outbox:
            await until(lambda: async_stage.waiting() == 0, "everything is delivered")
            status = await seen(outbox, lambda status: status.relays == 1)
    assert (status.waiting, status.oldest) == (0, 0.0)
    own = [str(each.event_id) for each in events]
    assert [found for found in ids(server.log) if found in own] == own
    assert len(server.log) == 10


async def test_refused_events_hold_their_key_and_are_retried_or_discarded(
    async_stage: Stage, database: DriverDatabase
) -> None:
    """With the cause, and with the time at which the bus refused them."""
    server, key = Server(), uuid4()
    events = [moved(number, key) for number in range(2)]
    refused = {str(events[0].event_id)}
    refuse_events(server, refused)
    async with running_remote_bus(server) as bus:
        writing = Outbox(bus, async_stage.sessions, async_stage.tables, relay=False)
        await async_stage.publish(writing, *events, moved())
        async with OutboxRelay(bus, database, after_refusal="hold_key", **QUICK) as outbox:
            status = await seen(outbox, lambda status: (status.waiting, status.refused) == (1, 1))
            [refusal] = status.refusals
            assert (refusal.event_id, refusal.cause) == (*refused, "PublishFailed: too large")
            assert abs((datetime.now(UTC) - refusal.refused_at).total_seconds()) < 60
            assert await outbox.retry_refused([refusal.position + 1000]) == 0
            assert await outbox.retry_refused() == 1
            await seen(outbox, lambda status: status.refused == 1)
            assert await outbox.discard_refused([refusal.position]) == 1
            await until(lambda: async_stage.waiting() == 0, "the others are delivered")
    assert str(events[1].event_id) in ids(server.log)


async def test_delivered_events_are_kept_and_cleaned(async_stage: Stage, database: DriverDatabase) -> None:
    """Rows of any age, as SQLAlchemy has written their time."""
    server, table = Server(), async_stage.tables.events
    async with running_remote_bus(server) as bus:
        writing = Outbox(bus, async_stage.sessions, async_stage.tables, relay=False)
        await async_stage.publish(writing, moved(1), moved(2))
        async with OutboxRelay(bus, database, keep=3600, **QUICK) as outbox:
            await seen(outbox, lambda status: (status.waiting, status.kept) == (0, 2))
        with async_stage.connect() as connection, connection.begin():
            long_ago = datetime(2020, 1, 1, tzinfo=UTC)
            connection.execute(update(table).where(table.c.position == 1).values(delivered_at=long_ago))
        async with OutboxRelay(bus, database, keep=3600, **QUICK):
            await until(lambda: async_stage.waiting() == 1, "the old one is deleted")
    assert len(server.log) == 2


async def test_a_late_transaction_keeps_its_place(postgres: Stage) -> None:
    """The status names the transaction that events wait for."""
    server, database = Server(), postgres.driver_database()
    async with running_remote_bus(server) as bus:
        writing = Outbox(bus, postgres.sessions, postgres.tables, relay=False)
        async with OutboxRelay(bus, database, **QUICK) as outbox:
            with postgres.connect() as connection, connection.begin():
                pid = connection.exec_driver_sql("SELECT pg_backend_pid(), pg_current_xact_id()").one()[0]
                await postgres.publish(writing, moved(1))
                status = await seen(outbox, lambda status: status.held == 1)
                assert status.blocked_by is not None
                assert status.blocked_by.pid == pid
                assert server.log == []
            await until(lambda: postgres.waiting() == 0, "it is delivered")
    database.close()


async def test_it_connects_again_when_its_connections_are_cut(postgres: Stage) -> None:
    """As after a restart of the server."""
    server, database = Server(), postgres.driver_database()
    async with running_remote_bus(server) as bus:
        writing = Outbox(bus, postgres.sessions, postgres.tables, relay=False)
        async with OutboxRelay(bus, database, **QUICK) as outbox:
            await postgres.publish(writing, moved(1))
            await until(lambda: len(server.log) == 1, "the first one is delivered")
            await asyncio.to_thread(
                postgres.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            with postgres.connect() as connection, connection.begin():
                table = postgres.tables.events
                row = {"partition": 0, "event_id": "e2", "topic": MOVED.name, "key": "k", "body": b"{}"}
                connection.execute(insert(table), {**row, "written_at": datetime.now(UTC)})
            await until(lambda: "e2" in ids(server.log), "the second one is delivered")
            await until(lambda: outbox.problem is None, "all is well")
    database.close()


async def test_missing_tables_and_columns_are_told_at_start(
    async_stage: Stage, database: DriverDatabase
) -> None:
    """All of them together."""
    async_stage.execute("DROP TABLE promenade_inbox")
    async_stage.execute("ALTER TABLE promenade_outbox DROP COLUMN headers")
    async with running_remote_bus(Server()) as bus:
        with pytest.raises(MissingTables) as caught:
            await OutboxRelay(bus, database).start()
    assert caught.value.missing == ("column 'headers' of 'promenade_outbox'", "table 'promenade_inbox'")
    assert database.shown in str(caught.value)


@pytest.mark.parametrize("driver", ["sqlite3", "psycopg", "pysqlite", "sqlalchemy-psycopg"])
def test_tables_may_have_any_name(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Text inside of a name that looks like a parameter is none."""
    if "sqlite" in driver:
        url = f"sqlite:///{tmp_path}/app.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url("psycopg", request.getfixturevalue("postgres_database"))
    prefix = 'Odd ":name" %s '
    tables = outbox_tables(MetaData(), prefix=prefix)
    engine = create_engine(url)
    tables.events.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with open_sync_bus({"bus": {"adapter": "memory"}}) as bus:
        writing = Outbox(bus, sessions, tables, relay=False, poll=0.02)
        with sessions.begin() as session:
            writing.publish_sync(session, MOVED, moved())
        alone = DriverDatabase.from_url(url, prefix=prefix)
        assert alone is not None
        relay = writing if driver not in ("sqlite3", "psycopg") else OutboxRelay(bus, alone, poll=0.02)
        assert bus.run_on_loop("look", relay.status).waiting == 1

        async def deliver() -> None:
            await relay.start(relay=True)
            await until(lambda: relay.relay is not None and relay.relay.delivered == 1, "it is delivered")
            await relay.close()

        bus.run_on_loop("deliver", deliver)
        alone.close()
    engine.dispose()


async def test_a_schema_that_the_engine_translates_is_that_of_the_relay(postgres: Stage) -> None:
    """As for the statements of the application."""
    postgres.execute("CREATE SCHEMA tenant")
    postgres.execute("CREATE TABLE tenant.promenade_outbox (LIKE promenade_outbox INCLUDING ALL)")
    for name in ("outbox_partition", "outbox_relay", "inbox"):
        postgres.execute(f"CREATE TABLE tenant.promenade_{name} (LIKE promenade_{name} INCLUDING ALL)")
    translated = Stage(postgres.url, execution_options={"schema_translate_map": {None: "tenant"}})
    server = Server()
    async with running_remote_bus(server) as bus:
        writing = Outbox(bus, translated.sessions, translated.tables, relay=False)
        await translated.publish(writing, moved())
        assert postgres.scalar(text("SELECT count(*) FROM tenant.promenade_outbox")) == 1
        async with Outbox(bus, translated.sessions, translated.tables, **QUICK) as outbox:
            await until(lambda: len(server.log) == 1, "it is delivered")
            await seen(outbox, lambda status: status.waiting == 0)
    await translated.close()


def test_the_relay_knows_the_tables_that_are_made() -> None:
    """By name, with every column in its place."""
    for prefix, schema in (("promenade_", None), ("my_", "events")):
        made: list[Table] = [*outbox_tables(MetaData(), prefix=prefix, schema=schema)]
        names = TableNames.of(prefix, schema)
        assert [(name.shown, columns) for name, columns in names] == [
            (table.fullname, tuple(column.name for column in table.columns)) for table in made
        ]


def test_an_url_names_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other drivers, and with options for SQLite, are left to SQLAlchemy."""
    found = DriverDatabase.from_url("postgresql+psycopg://app:secret@db:5432/app?password=other")
    assert found is not None
    assert found.shown == "postgresql+psycopg://app:***@db:5432/app"
    assert "secret" not in repr(found)
    for url in (
        "postgresql+asyncpg://db/app",
        "sqlite+aiosqlite:///app.db",
        "sqlite:///app.db?x=1",
        "mysql://x",
        "postgresql+psycopg://app@/app?host=a:5432&host=b:5432",
        "postgresql://app@/app?host=a%3A5432",
        "postgresql://app@/app?host=a&port=1&host=b",
    ):
        assert DriverDatabase.from_url(url) is None
    for url in (
        "postgresql://a:5432,b:5432/app",
        "postgresql:///app?host=::1",
        "postgresql:///app?host=/tmp&port=1",
    ):
        assert DriverDatabase.from_url(url) is not None
    with pytest.raises(OutboxError, match="does not work on mysql"):
        DriverDatabase("mysql", sys, lambda: None, shown="x")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'promenade-bus-outbox\[psycopg\]'"):
        DriverDatabase.from_url("postgresql://db/app")


async def test_the_command_takes_the_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg 3, SQLAlchemy may have another one for the same URL; the error is about psycopg."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    for url in ("postgresql://db/app", "postgresql+psycopg://db/app"):
        with pytest.raises(MissingExtra, match=r"pip install 'promenade-bus-outbox\[psycopg\]'"):
            async with _connected(url, None, "promenade_"):
                pass
    monkeypatch.setitem(registry.impls, "postgresql", lambda: asyncpg.dialect)
    async with _connected("postgresql://db/app", None, "promenade_") as database:
        assert isinstance(database, Database)


async def test_a_piece_of_work_that_fails_leaves_nothing(
    async_stage: Stage, database: DriverDatabase
) -> None:
    """Its transaction is rolled back; the next one gets a connection."""

    def fail(connection: Any) -> None:
        connection.execute("INSERT INTO promenade_outbox_relay (relay, heartbeat) VALUES ('r', 0)")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await database.run(fail)
    count = select(func.count()).select_from(async_stage.tables.relays)
    assert async_stage.scalar(count) == 0
    assert await database.run(lambda connection: connection.query("SELECT 1")[0][0]) == 1
    database.close()
    assert await database.run(lambda connection: connection.query("SELECT 2")[0][0]) == 2
