"""Errors of the server: each state has a kind, and connections are replaced."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import attrs
import psycopg
import pytest

from bus_core import Consumer, LeaseLost, PublishFailed, PublishUncertain, Received
from promenade_bus_postgres.connections import Connection, Connector, Database
from promenade_bus_postgres.failures import Kind, PostgresFailure, failure_of, kind_of
from promenade_bus_postgres.heartbeats import HeartbeatTable
from support.consuming import acks, message, receive, spec, until
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", Kind.CUT),
        ("0A000", Kind.CONFLICT),
        ("25006", Kind.READ_ONLY),
        ("26000", Kind.POOLED),
        ("28P01", Kind.CREDENTIALS),
        ("3D000", Kind.NO_DATABASE),
        ("40001", Kind.CONFLICT),
        ("40P01", Kind.CONFLICT),
        ("42501", Kind.FORBIDDEN),
        ("42P01", Kind.MISSING),
        ("53100", Kind.FULL),
        ("53300", Kind.BUSY),
        ("54000", Kind.TOO_LARGE),
        ("57014", Kind.SLOW),
        ("57P01", Kind.STARTING),
        ("22021", Kind.VALUE),
        ("22P05", Kind.VALUE),
        ("22012", Kind.REFUSED),
        ("23514", Kind.REFUSED),
        ("P0001", Kind.REFUSED),
        ("XX001", Kind.CORRUPT),
        ("42601", Kind.OTHER),
    ],
)
def test_states(state: str, kind: Kind) -> None:
    """Each SQLSTATE has a kind, which says whether it passes and whether something may have been stored."""
    error = psycopg.errors.lookup(state)("the value 's3cret' is wrong")
    failure = failure_of("db:5432/app", error, was_sent=True)
    assert kind_of(error) is failure.kind is kind
    assert str(failure).endswith(f"({state})")
    assert "s3cret" not in str(failure)
    assert failure.is_uncertain == (kind in (Kind.CUT, Kind.STARTING, Kind.CORRUPT))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('FATAL:  password authentication failed for user "x"', Kind.CREDENTIALS),
        ('FATAL:  role "x" does not exist', Kind.CREDENTIALS),
        ('FATAL:  database "x" does not exist', Kind.NO_DATABASE),
        ("FATAL:  sorry, too many clients already", Kind.BUSY),
        ("FATAL:  the database system is starting up", Kind.STARTING),
        ("session is read-only", Kind.READ_ONLY),
        ("connection refused", Kind.UNREACHABLE),
    ],
)
def test_refusals(text: str, kind: Kind) -> None:
    """Of a connection that was refused there is only a text."""
    assert kind_of(psycopg.OperationalError(text), is_connecting=True) is kind


async def test_no_message_is_at_fault_for_the_server(schema: Schema) -> None:
    """One that a constraint of somebody else refuses can be stored without it; one that is no text cannot."""
    async with schema.started() as adapter:
        schema.ask("ALTER TABLE promenade_event ADD CONSTRAINT strange CHECK (octet_length(body) = 999)")
        (refused,) = await adapter.publish([message(1)])
        assert isinstance(refused, PublishFailed)
        assert (refused.transient, refused.permanent) == (False, False)
        assert "as a trigger or a constraint does that the bus has not made" in str(refused)
        assert adapter.degraded is not None
        schema.ask("ALTER TABLE promenade_event DROP CONSTRAINT strange")
        sound, odd = await adapter.publish([message(1), attrs.evolve(message(2), key="\ud800")])
    assert sound is None
    assert isinstance(odd, PublishFailed)
    assert odd.permanent
    assert [kind for kind in Kind if kind.is_of_value] == [Kind.TOO_LARGE, Kind.VALUE]


async def received_by(consumer: Consumer) -> Sequence[Received]:
    """One message, as the engine receives it: an error is no answer."""
    while True:
        try:
            return await receive(consumer, 1)
        except PostgresFailure:
            continue


async def settled_by(consumer: Consumer, received: Received) -> None:
    """Settles a message, as the engine does it."""
    while True:
        try:
            (result,) = await consumer.settle(acks([received]))
        except PostgresFailure:
            continue
        if result is None or isinstance(result, LeaseLost):
            return


async def test_connections_that_were_cut(schema: Schema) -> None:
    """Every part connects again, nothing is lost, and an idle connection that has ended is not used."""
    async with schema.started(poll=0.05, lease=1.0) as adapter:
        consumer = await adapter.open_consumer(spec())
        listener: Any = adapter._listener
        await until(lambda: listener.connections == 1, "it listens")
        for number in range(3):
            schema.cut()
            beats = adapter.running.heartbeats.beats
            while (await adapter.publish([message(number)]))[0] is not None:
                pass  # the server ends connections a moment later
            key = ""
            while key != str(number):  # one whose publishing was uncertain may come twice
                (received,) = await received_by(consumer)
                await settled_by(consumer, received)
                key = received.message.key
            await until(lambda least=beats: adapter.running.heartbeats.beats > least, "a heartbeat is stored")
        await until(lambda: listener.connections > 1, "it listens again")
        await until(lambda: adapter.degraded is None, "all is well")
        await consumer.close()


async def test_a_publish_that_is_cut_is_uncertain(schema: Schema) -> None:
    """Nobody knows whether a statement was carried out whose connection ended; the next call works."""
    async with schema.started() as adapter:
        await adapter.publish([message(0)])
        with schema.server.connect(autocommit=False) as holder:
            holder.execute(f'LOCK TABLE "{schema.name}".promenade_event IN EXCLUSIVE MODE'.encode())
            publishing = asyncio.create_task(adapter.publish([message(1)]))
            await until(lambda: _is_waiting(schema), "it waits for the lock")
            schema.cut()
            (result,) = await publishing
        assert isinstance(result, PublishUncertain)
        assert await adapter.publish([message(2)]) == [None]


def _is_waiting(schema: Schema) -> bool:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%INSERT%%'"
    return bool(schema.server.ask(waiting))


async def test_statements_end(schema: Schema) -> None:
    """A statement ends after statement_timeout, and definitely did nothing."""
    async with schema.started(statement_timeout=0.2) as adapter:
        await adapter.publish([message(0)])
        with schema.server.connect(autocommit=False) as holder:
            holder.execute(f'LOCK TABLE "{schema.name}".promenade_event IN EXCLUSIVE MODE'.encode())
            (result,) = await adapter.publish([message(1)])
        assert isinstance(result, PublishFailed)
        assert result.transient
        assert "took longer than statement_timeout" in str(result)


async def test_a_server_that_hangs(schema: Schema) -> None:
    """A call whose server does not even end the statement is ended by cutting its connection."""
    async with schema.started() as adapter:
        database: Database = adapter.running.database
        database._timeout = -0.7  # 0.3 seconds with the time that the server has
        began = time.monotonic()
        with pytest.raises(PostgresFailure) as raised:
            await database.run(lambda connection: connection.execute(b"SELECT pg_sleep(60)"))
        assert time.monotonic() - began < 30
        assert (raised.value.kind, raised.value.is_uncertain) == (Kind.SLOW, True)
        database._timeout = 10.0
        await database.run(lambda connection: connection.execute(b"SELECT 1"))


async def test_a_heartbeat_that_is_late_for_the_close(schema: Schema) -> None:
    """A connection that opens while its adapter closes is closed by the thread that opened it."""
    opened: list[Connection] = []
    opening, go_on = threading.Event(), threading.Event()
    async with schema.started() as adapter:

        class Slow(Connector):
            def open(self, use: str, *, listens: bool = False) -> Connection:
                opening.set()
                assert go_on.wait(30)
                opened.append(super().open(use, listens=listens))
                return opened[0]

        heartbeats = HeartbeatTable(Slow(adapter._place, adapter.options), adapter._sql)
        beating = asyncio.create_task(asyncio.to_thread(heartbeats.beat, ["me"], []))
        await asyncio.to_thread(opening.wait, 30)
        heartbeats.close()
        go_on.set()
        await beating
        assert opened[0].closed


async def test_a_new_connection_that_fails_its_check(schema: Schema) -> None:
    """It is closed, whatever the check raises."""
    checked: list[Connection] = []

    def refuse(connection: Connection) -> None:
        checked.append(connection)
        raise PostgresFailure("db:5432/app", Kind.MISSING)

    async with schema.started() as adapter:
        database: Database = adapter.running.database
        database._check = refuse
        schema.cut()
        while not checked:  # the server ends connections a moment later
            with suppress(PostgresFailure):
                await database.run(lambda connection: connection.execute(b"SELECT 1"))
        assert all(each.closed for each in checked)
        database._check = lambda connection: None


async def test_after_a_failover(schema: Schema) -> None:
    """A server that answers that it is read-only is left, and the bus connects again."""
    async with schema.started(pool_size=1, poll=60.0) as adapter:
        await adapter.publish([message(0)])

        def is_standby(connection: Connection) -> None:
            connection.execute(b"SET default_transaction_read_only TO on")

        await adapter.running.database.run(is_standby)
        (result,) = await adapter.publish([message(1)])
        assert isinstance(result, PublishFailed)
        assert result.transient
        assert "is read-only, as after a failover" in str(result)
        assert await adapter.publish([message(1)]) == [None]


async def test_calls_that_wait_for_their_turn(schema: Schema) -> None:
    """The time limit of a call counts from its statement: one that waits for a connection is not cut."""
    async with schema.started(pool_size=1, poll=60.0) as adapter:
        database: Database = adapter.running.database
        database._timeout = -0.2  # 0.8 seconds with the time that the server has

        async def sleep() -> None:
            await database.run(lambda connection: connection.execute(b"SELECT pg_sleep(0.3)"))

        await asyncio.gather(*(sleep() for _ in range(4)))
        database._timeout = 10.0


async def test_behind_pgbouncer(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call may get another session: the bus prepares nothing, and keeps nothing in a session."""
    give_back = Database._give_back

    def pooled(database: Database, connection: Connection) -> None:
        connection.execute(b"DISCARD ALL")
        give_back(database, connection)

    monkeypatch.setattr(Database, "_give_back", pooled)
    async with schema.started(pgbouncer=True, listen=False) as adapter:
        consumer = await adapter.open_consumer(spec())
        for number in range(8):
            assert await adapter.publish([message(number)]) == [None]
            assert await consumer.settle(acks(await receive(consumer, 1))) == [None]
        sessions = await adapter.running.database.run(
            lambda connection: connection.execute(b"SHOW statement_timeout").fetchall()
        )
        assert sessions == [("0",)]
        await consumer.close()


async def test_a_restarted_server(start_postgres: Any) -> None:
    """While the server is down calls fail at once, and afterwards everything goes on."""
    server = start_postgres({"synchronous_commit": "on"})
    schema = Schema(server, "public")
    async with schema.started(poll=0.05) as adapter, asyncio.timeout(60):
        consumer = await adapter.open_consumer(spec())
        await adapter.publish([message(0)])
        server.kill()
        while not isinstance(result := (await adapter.publish([message(1)]))[0], PublishFailed):
            assert result is None or isinstance(result, PublishUncertain)  # its processes end a moment later
        assert result.transient
        assert "cannot be reached" in (adapter.degraded or "")
        await asyncio.to_thread(server.start)
        while (await adapter.publish([message(2)]))[0] is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        received = await receive(consumer, 2)
        assert received[0].message.key == "0"
        while received[-1].message.key != "2":
            received += await receive(consumer, 1)
        await until(lambda: adapter.degraded is None, "all is well")
        await consumer.settle(acks(received))
        await consumer.close()
