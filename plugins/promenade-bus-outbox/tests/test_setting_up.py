"""Faults of a database, or of how an outbox is made, and what the error says about them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker
from sqlalchemy.schema import CreateTable

from bus_core import Bus, open_sync_bus
from outbox_support.stage import Moved, Stage
from promenade_bus_outbox import MissingTables, Outbox, OutboxError, WrongSession, outbox_tables
from promenade_bus_outbox.dialects import check_dialect
from promenade_bus_outbox.names import PARTITIONS, partition_of


def moved(number: int = 0) -> Moved:
    return Moved(aggregate_id=uuid4(), number=number)


async def test_missing_tables_are_told_at_start_all_together(bus: Bus, tmp_path: Any) -> None:
    """By name, with what creates them, and without the password of the database."""
    empty = Stage(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    with pytest.raises(MissingTables) as caught:
        await Outbox(bus, empty.sessions, empty.tables).start()
    text = str(caught.value)
    assert text.startswith(f"the database sqlite+aiosqlite:///{tmp_path}/empty.db has no table ")
    assert "'promenade_outbox', no table 'promenade_outbox_partition', no" in text
    assert text.endswith("with metadata.create_all() or your migrations")
    assert len(caught.value.missing) == 4
    await empty.close()


async def test_a_missing_column_is_told_at_start(bus: Bus, async_stage: Stage) -> None:
    """A migration may be behind."""
    async_stage.execute("ALTER TABLE promenade_outbox DROP COLUMN headers")
    with pytest.raises(MissingTables, match="has no column 'headers' of 'promenade_outbox': create"):
        await Outbox(bus, async_stage.sessions, async_stage.tables, relay=False).start()


async def test_a_missing_table_fails_the_commit(bus: Bus, tmp_path: Any) -> None:
    """Nothing is committed without the events."""
    empty = Stage(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    outbox = Outbox(bus, empty.sessions, empty.tables, relay=False)
    with pytest.raises(MissingTables, match="has no table 'promenade_outbox'"):
        await empty.publish(outbox, moved())
    await empty.close()


async def test_a_missing_table_fails_the_commit_on_postgres(bus: Bus, postgres: Stage) -> None:
    """The same words."""
    postgres.execute("DROP TABLE promenade_outbox")
    outbox = Outbox(bus, postgres.sessions, postgres.tables, relay=False)
    with pytest.raises(MissingTables, match="has no table 'promenade_outbox'"):
        await postgres.publish(outbox, moved())


def test_other_databases_and_old_versions_are_refused() -> None:
    """By name and version, with what is needed."""
    with pytest.raises(OutboxError, match=r"does not work on mysql: it needs PostgreSQL 13 or SQLite 3\.35"):
        check_dialect("mysql", (8, 0))
    with pytest.raises(OutboxError, match=r"PostgreSQL 13 or newer, and this is 12\.4: upgrade the server"):
        check_dialect("postgresql", (12, 4))
    with pytest.raises(OutboxError, match=r"SQLite 3\.35 or newer, and this is 3\.34\.1: upgrade the lib"):
        check_dialect("sqlite", (3, 34, 1))
    check_dialect("postgresql", (13, 0))
    check_dialect("sqlite", (3, 35, 0))


def test_sessions_need_an_engine(bus: Bus, tmp_path: Any) -> None:
    """Not one connection, and not nothing; and they are what makes sessions."""
    engine = create_engine(f"sqlite:///{tmp_path}/app.db")
    tables = outbox_tables(MetaData())
    with pytest.raises(OutboxError, match="have no engine for the table 'promenade_outbox'"):
        _ = Outbox(bus, sessionmaker(), tables)._database.names
    with engine.connect() as connection, pytest.raises(OutboxError, match="are bound to one connection"):
        _ = Outbox(bus, sessionmaker(connection), tables)._database.names
    with pytest.raises(WrongSession, match="async_sessionmaker or a sessionmaker, got sqlalchemy"):
        Outbox(bus, cast("Any", engine), tables)
    engine.dispose()


def test_a_sync_bus_needs_sync_sessions() -> None:
    """The pool of an async engine belongs to one loop."""
    bus = open_sync_bus({"bus": {"adapter": "memory"}})
    with pytest.raises(OutboxError, match="needs a sessionmaker: with an async_sessionmaker use open_bus"):
        Outbox(bus, async_sessionmaker(), outbox_tables(MetaData()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"poll": 0}, "poll must be more than 0 seconds, got 0"),
        ({"lease": -1}, "lease must be more than 0 seconds, got -1"),
        ({"keep": 0.0}, "keep must be more than 0 seconds, got 0.0"),
        ({"after_refusal": "stop"}, "after_refusal must be 'continue' or 'hold_key', got 'stop'"),
    ],
)
def test_options_that_make_no_sense_are_refused(bus: Bus, options: dict[str, Any], text: str) -> None:
    """By name and value."""
    with pytest.raises(ValueError, match=text):
        Outbox(bus, sessionmaker(), outbox_tables(MetaData()), **options)


async def test_an_outbox_is_entered_like_its_bus(bus: Bus, sqlite: Stage) -> None:
    """The error names the other way."""
    with pytest.raises(OutboxError, match="async with outbox"):
        Outbox(bus, sqlite.sessions, sqlite.tables).__enter__()
    sync_bus = open_sync_bus({"bus": {"adapter": "memory"}})
    with pytest.raises(OutboxError, match="'with outbox:'"):
        await Outbox(sync_bus, sessionmaker(), sqlite.tables).__aenter__()


def test_tables_are_named_as_one_likes_and_added_once() -> None:
    """A second outbox of the same metadata has the same tables."""
    metadata = MetaData()
    first = outbox_tables(metadata, prefix="my_", schema="events")
    assert outbox_tables(metadata, prefix="my_", schema="events") == first
    assert [table.fullname for table in first] == [
        "events.my_outbox",
        "events.my_outbox_partition",
        "events.my_outbox_relay",
        "events.my_inbox",
    ]
    assert {index.name for table in first for index in table.indexes} == {
        "my_outbox_waiting",
        "my_outbox_delivered",
        "my_outbox_refused",
        "my_inbox_handled",
    }


def test_a_key_has_the_same_partition_everywhere() -> None:
    """It is no hash of Python's: other processes have to find the same one."""
    assert [partition_of(key) for key in ("", "a", "é", "9d3c3f0e")] == [0, 3, 30, 14]
    assert {partition_of(str(number)) for number in range(1000)} == {*range(PARTITIONS)}


def test_positions_are_never_used_again(sqlite: Stage) -> None:
    """On SQLite this has to be asked for."""
    from sqlalchemy.dialects import sqlite as dialect

    statement = str(CreateTable(sqlite.tables.events).compile(dialect=dialect.dialect()))
    assert "PRIMARY KEY AUTOINCREMENT" in statement


def test_sqlalchemy_is_imported_when_it_is_used() -> None:
    """An application that has the distribution installed, and uses no outbox, does not pay for it."""
    program = (
        "import sys, bus_core\n"
        "from promenade_bus_outbox import promenade_bus_commands, promenade_bus_health_probes\n"
        "promenade_bus_commands(), promenade_bus_health_probes()\n"
        "bus_core.open_bus({'bus': {'adapter': 'memory'}})\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('sqlalchemy', 'click')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
