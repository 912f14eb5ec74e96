"""PostgreSQL: transactions that are committed late, or in another order, and servers that are made anew."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from outbox_support.stage import MOVED, Moved, Stage, seen, until
from postgres_support.fixtures import StartPostgres
from postgres_support.servers import PostgresServer
from promenade_bus_outbox import Outbox
from promenade_bus_outbox.dialects import POSTGRESQL
from promenade_bus_outbox.names import TableNames
from promenade_bus_outbox.rows import Rows
from support.remote import Server, running_remote_bus

pytestmark = pytest.mark.once

QUICK: dict[str, Any] = {"poll": 0.02, "lease": 1.0}


def moved(number: int = 0, aggregate: UUID | None = None) -> Moved:
    return Moved(aggregate_id=aggregate or uuid4(), number=number)


def numbers(server: Server) -> list[int]:
    return [int(re.findall(rb'"number":(\d+)', message.body)[0]) for message in server.log]


async def test_a_transaction_that_commits_late_is_not_skipped_and_keeps_its_place(postgres: Stage) -> None:
    """Later transactions that are committed before it wait for it; none of them is lost."""
    server, key = Server(), uuid4()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, postgres.sessions, postgres.tables, **QUICK) as outbox,
    ):
        late = postgres.sessions()
        await outbox.publish(late, MOVED, moved(1, key))
        await late.flush()
        await late.run_sync(_write_now)
        await postgres.publish(outbox, moved(2, key))
        await postgres.publish(outbox, moved(3))
        status = await seen(outbox, lambda status: status.held == 2)
        assert (status.waiting, numbers(server)) == (2, [])
        await late.commit()
        await late.close()
        await until(lambda: postgres.waiting() == 0, "everything is delivered")
    assert sorted(numbers(server)) == [1, 2, 3]
    assert numbers(server).index(1) < numbers(server).index(2)


def _write_now(session: Any) -> None:
    """The rows of the session are in the database, and its transaction goes on."""
    session.dispatch.before_commit(session)


async def test_a_row_that_is_held_holds_the_later_ones_of_its_partition(postgres: Stage) -> None:
    """Their transaction may have begun earlier: it has read what the first one had written."""
    server, key = Server(), uuid4()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, postgres.sessions, postgres.tables, **QUICK) as outbox,
    ):
        early = postgres.sessions()
        await early.execute(text("SELECT pg_current_xact_id()"))
        blocking = postgres.sessions()
        await blocking.execute(text("SELECT pg_current_xact_id()"))
        await postgres.publish(outbox, moved(1, key))  # is held by the blocking one
        await outbox.publish(early, MOVED, moved(2, key))
        await early.commit()  # is not: it is older
        await early.close()
        await seen(outbox, lambda status: status.waiting == 2)
        for _ in range(20):  # looks of the relay
            await outbox.status()
        assert numbers(server) == []
        await blocking.rollback()
        await blocking.close()
        await until(lambda: postgres.waiting() == 0, "everything is delivered")
    assert numbers(server) == [1, 2]


async def test_a_transaction_that_is_rolled_back_late_leaves_nothing(postgres: Stage) -> None:
    """A relay that waited for it goes on."""
    server = Server()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, postgres.sessions, postgres.tables, **QUICK) as outbox,
    ):
        late = postgres.sessions()
        await outbox.publish(late, MOVED, moved(1))
        await late.run_sync(_write_now)
        await postgres.publish(outbox, moved(2))
        await late.rollback()
        await late.close()
        await until(lambda: postgres.waiting() == 0, "everything is delivered")
    assert numbers(server) == [2]


async def test_the_status_names_the_transaction_that_holds_everything_up(postgres: Stage) -> None:
    """By the process of the server, with the user, the application, and for how long."""
    server = Server()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, postgres.sessions, postgres.tables, **QUICK) as outbox,
    ):
        with postgres.connect() as connection, connection.begin():
            connection.exec_driver_sql("SET application_name = 'long-report'")
            pid = connection.exec_driver_sql("SELECT pg_backend_pid(), pg_current_xact_id()").one()[0]
            await postgres.publish(outbox, moved(1))
            status = await outbox.status()
            assert status.held == 1
            blocker = status.blocked_by
            assert blocker is not None
            assert (blocker.pid, blocker.user, blocker.application) == (pid, "promenade", "long-report")
            assert (blocker.state, blocker.seconds is not None) == ("idle in transaction", True)
            assert f"pg_terminate_backend({pid})" in str(blocker)
        await until(lambda: postgres.waiting() == 0, "everything is delivered")
        assert (await outbox.status()).blocked_by is None


async def test_a_prepared_transaction_is_named_as_well(postgres: Stage) -> None:
    """It belongs to no process."""
    server = Server()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, postgres.sessions, postgres.tables, **QUICK) as outbox,
    ):
        with postgres.connect() as connection:
            connection.exec_driver_sql("SELECT pg_current_xact_id()")
            connection.exec_driver_sql("PREPARE TRANSACTION 'of-a-test'")
        try:
            await postgres.publish(outbox, moved(1))
            blocker = (await outbox.status()).blocked_by
            assert blocker is not None
            assert (blocker.pid, blocker.application) == (None, "of-a-test")
            assert "ROLLBACK PREPARED" in str(blocker)
        finally:
            with postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("ROLLBACK PREPARED 'of-a-test'")


async def test_a_role_without_rights_to_look_still_learns_the_process(
    postgres: Stage, postgres_server: PostgresServer, postgres_database: str
) -> None:
    """The smallest role can run a relay, too."""
    role = f"small_{postgres_database}"
    postgres_server.ask(f"CREATE ROLE {role} LOGIN")
    for statement in (
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON promenade_outbox, promenade_outbox_partition, "
        f"promenade_outbox_relay, promenade_inbox TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    ):
        postgres_server.ask(statement, postgres_database)
    small = Stage(postgres_server.url("asyncpg", postgres_database, role))
    server = Server()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, small.sessions, small.tables, **QUICK) as outbox,
    ):
        with postgres.connect() as connection, connection.begin():
            pid = connection.exec_driver_sql("SELECT pg_backend_pid(), pg_current_xact_id()").one()[0]
            await small.publish(outbox, moved(1))
            blocker = (await outbox.status()).blocked_by
            assert blocker is not None
            assert blocker.pid == pid
        await until(lambda: postgres.waiting() == 0, "everything is delivered")
    await small.close()
    postgres_server.ask(f"DROP OWNED BY {role}", postgres_database)
    postgres_server.ask(f"DROP ROLE {role}")


async def test_events_survive_a_dump_and_a_restore_on_another_server(
    postgres: Stage, postgres_server: PostgresServer, postgres_database: str, start_postgres: StartPostgres
) -> None:
    """Their transactions are unknown there: ids far beyond the next one of the new server hold nothing up."""
    server = Server()
    events = [moved(number) for number in range(20)]
    async with running_remote_bus(server) as bus:
        outbox = Outbox(bus, postgres.sessions, postgres.tables, relay=False)
        await postgres.publish(outbox, *events)
        await asyncio.to_thread(
            postgres.execute, "UPDATE promenade_outbox SET transaction_id = transaction_id + 5000000"
        )
        dump = postgres_server.directory / "dump.sql"
        await asyncio.to_thread(
            postgres_server.run,
            "pg_dump",
            *("-h", "127.0.0.1", "-p", str(postgres_server.port), "-U", "promenade"),
            *("-f", str(dump), postgres_database),
        )
        other = await asyncio.to_thread(start_postgres)
        database = await asyncio.to_thread(other.create_database, "restored")
        await asyncio.to_thread(
            other.run,
            "psql",
            *("-h", "127.0.0.1", "-p", str(other.port), "-U", "promenade", "-v", "ON_ERROR_STOP=1"),
            *("-q", "-f", str(dump), database),
        )
        restored = Stage(other.url("asyncpg", database))
        later = moved(20)
        async with Outbox(bus, restored.sessions, restored.tables, **QUICK) as new:
            await restored.publish(new, later)
            await until(lambda: restored.waiting() == 0, "everything is delivered")
        await restored.close()
    assert sorted(numbers(server)) == [*range(21)]


async def test_ids_that_were_reset_hold_nothing_up(postgres: Stage) -> None:
    """A row from before, whose id is greater than any of now, is as good as an old one."""
    server = Server()
    async with running_remote_bus(server) as bus:
        await postgres.publish(
            Outbox(bus, postgres.sessions, postgres.tables, relay=False), moved(1), moved(2)
        )
        await asyncio.to_thread(
            postgres.execute, "UPDATE promenade_outbox SET transaction_id = 9223372036854775807"
        )
        async with Outbox(bus, postgres.sessions, postgres.tables, **QUICK):
            await until(lambda: postgres.waiting() == 0, "everything is delivered")
    assert numbers(server) == [1, 2]


async def test_the_row_knows_its_transaction(postgres: Stage) -> None:
    """The id is the one that PostgreSQL compares snapshots with, savepoints included."""
    server = Server()
    async with running_remote_bus(server) as bus:
        outbox = Outbox(bus, postgres.sessions, postgres.tables, relay=False)
        async with postgres.sessions.begin() as session:
            async with session.begin_nested():
                await outbox.publish(session, MOVED, moved(1))
            own = await session.scalar(text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)"))
    assert postgres.scalar(select(postgres.tables.events.c.transaction_id)) == own


def test_the_guard_is_one_condition_of_the_statement_that_reads() -> None:
    """One snapshot decides what is read and what is held."""
    statement = Rows(TableNames.of("promenade_", None), POSTGRESQL)._next
    assert statement.count("pg_snapshot_xmin(pg_current_snapshot())") == 1


async def test_a_relay_outlives_its_server(start_postgres: StartPostgres) -> None:
    """The server is killed and started again; what was committed is delivered, and nothing is lost."""
    own = await asyncio.to_thread(start_postgres)
    url = own.url("asyncpg", await asyncio.to_thread(own.create_database, "app"))
    stage = Stage(url, pool_pre_ping=True)
    await asyncio.to_thread(stage.create)
    server = Server()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, stage.sessions, stage.tables, **QUICK) as outbox,
    ):
        await stage.publish(outbox, moved(1))
        await until(lambda: len(server.log) == 1, "the first one is delivered")
        await asyncio.to_thread(own.stop)
        await until(lambda: outbox.problem is not None, "it is noticed")
        await asyncio.to_thread(own.start)
        await stage.publish(outbox, moved(2))
        await until(lambda: numbers(server)[-1] == 2, "the second one is delivered")
    await stage.close()


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"])
async def test_any_isolation_level_of_the_engine_will_do(
    postgres: Stage, postgres_server: PostgresServer, postgres_database: str, isolation: str
) -> None:
    """The relay works with the engine as the application made it."""
    stage = Stage(postgres_server.url("asyncpg", postgres_database), isolation_level=isolation)
    server = Server()
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, stage.sessions, stage.tables, **QUICK),
        Outbox(bus, stage.sessions, stage.tables, **QUICK) as outbox,
    ):
        for number in range(10):
            await postgres.publish(outbox, moved(number))
        await until(lambda: postgres.waiting() == 0, "everything is delivered")
    assert sorted({*numbers(server)}) == [*range(10)]
    await stage.close()
