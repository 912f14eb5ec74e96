"""The tables: how they are made and upgraded, who may use them, and what a start says that fails."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from bus_core import DeadLetterFilter
from postgres_support.servers import HOST, USER
from promenade_bus_cli.main import cli
from promenade_bus_postgres import migrations
from promenade_bus_postgres import schema as tables
from promenade_bus_postgres.connections import Sql
from promenade_bus_postgres.failures import Kind, PostgresFailure
from redis_support.servers import free_port
from support.consuming import acks, buried, message, receive, spec, until
from support.postgres_schemas import Schema

pytestmark = pytest.mark.once


async def refusal(schema: Schema, **options: Any) -> PostgresFailure:
    """The error at the start of an adapter."""
    with pytest.raises(PostgresFailure) as raised:
        async with schema.started(**options):
            pass
    return raised.value


async def test_missing_tables(schema: Schema) -> None:
    """A database without tables is refused, with the command that makes them."""
    failure = await refusal(schema, migrate=False)
    assert str(failure) == (
        f"PostgreSQL at 127.0.0.1:{schema.server.port}/postgres has no tables of the bus in the schema "
        f"'{schema.name}': create them with `promenade-bus postgres migrate --config FILE`, or by "
        "bus.postgres.migrate: true in development"
    )


async def test_versions(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older tables are refused until they are migrated; newer ones only where they need newer code."""
    async with schema.started():
        pass
    second = migrations.Migration(2, 1, "a column", "ALTER TABLE promenade_letter ADD note text")
    with monkeypatch.context() as newer:
        newer.setattr(tables, "MIGRATIONS", (*migrations.MIGRATIONS, second))
        newer.setattr(tables, "LATEST", 2)
        failure = await refusal(schema, migrate=False)
        assert "has version 1 of the tables" in str(failure)
        assert "needs 2: run `promenade-bus postgres migrate --config FILE`" in str(failure)
        async with schema.started():  # it migrates
            pass
    assert schema.ask("SELECT version, name FROM promenade_schema ORDER BY 1") == [
        (1, "the first tables"),
        (2, "a column"),
    ]
    async with schema.started(migrate=False):  # older code goes on during a deployment
        pass
    schema.ask("UPDATE promenade_schema SET needs = 2 WHERE version = 2")
    failure = await refusal(schema, migrate=False)
    assert "needs code that knows version 2, and this one knows 1: upgrade promenade-bus-postgres" in str(
        failure
    )


async def test_tables_that_need_newer_code_are_not_up_to_date(schema: Schema, tmp_path: Path) -> None:
    """The command that migrates refuses them with the status of every other one."""
    async with schema.started():
        pass
    schema.ask("UPDATE promenade_schema SET version = 9, needs = 9")
    config = tmp_path / "app.yaml"
    config.write_text(json.dumps(schema.config()))
    asked = ["postgres", "migrate", "--config", str(config)]
    done = await asyncio.to_thread(CliRunner().invoke, cli, asked)
    assert done.exit_code == 4, done.output
    assert "needs code that knows version 9" in done.stderr


async def test_migrating_at_once(schema: Schema) -> None:
    """Many processes that start at the same time make the tables once."""
    adapters = [schema.bus().adapter for _ in range(4)]
    await asyncio.gather(*(adapter.start() for adapter in adapters))
    await asyncio.gather(*(adapter.close() for adapter in adapters))
    assert schema.ask("SELECT count(*) FROM promenade_schema") == [(1,)]


async def test_plain_sql(schema: Schema) -> None:
    """The printed statements make the same tables, with any tool."""
    with schema.server.connect() as connection:
        connection.execute(tables.script_of(schema.name).encode())
    async with schema.started(migrate=False) as adapter:
        assert [error for error in await adapter.publish([message()]) if error] == []


def test_an_old_server() -> None:
    """A server that is too old is refused at start."""

    class Old:
        class info:
            server_version = 120_017

    with pytest.raises(PostgresFailure, match="is version 12, and the bus needs 13 or newer: upgrade it"):
        tables.check(Old(), Sql("public"), "db:5432/app")  # type: ignore[arg-type]


@pytest.fixture
def role(schema: Schema) -> Iterator[str]:
    name = f"role_{schema.name}"
    schema.server.ask(f"CREATE ROLE {name} LOGIN")
    yield name
    schema.drop()
    schema.server.ask(f"DROP ROLE {name}")


async def test_a_role_that_may_do_what_it_must(schema: Schema, role: str) -> None:
    """With the documented grants everything works; without them the start says what is missing."""
    async with schema.started():
        pass
    failure = await refusal(schema, user=role, migrate=False)
    assert failure.kind is Kind.FORBIDDEN
    assert "grant it with `promenade-bus postgres migrate --grant-to ROLE`" in str(failure)
    with schema.server.connect() as connection:
        connection.execute(tables.grants_of(schema.name, role).encode())
    async with schema.started(
        user=role, migrate=False, retention={"max_length": 2, "min_age": 0.0}
    ) as adapter:
        consumer = await adapter.open_consumer(spec())
        assert await adapter.publish([message(number) for number in range(3)]) == [None] * 3
        received = await receive(consumer, 3)
        assert await consumer.settle([buried(received[0]), *acks(received[1:])]) == [None] * 3
        (letter,) = await adapter.dead_letters.list(DeadLetterFilter(), 9)
        assert await adapter.dead_letters.redrive([letter.id]) == 1
        await consumer.settle(acks(await receive(consumer, 1)))
        await until(lambda: adapter.upkeep.retention.removed == 3, "the upkeep removes them")
        await consumer.close()
    with schema.server.connect(user=role) as connection:
        connection.execute(f'SET search_path TO "{schema.name}"'.encode())
        for forbidden in (b"DROP TABLE promenade_event", b"TRUNCATE promenade_event", b"CREATE TABLE a ()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"port": 0}, Kind.UNREACHABLE, "cannot be reached: check that the server runs"),
        ({"name": "nowhere"}, Kind.NO_DATABASE, "has no database of this name"),
        ({"user": "nobody_at_all"}, Kind.CREDENTIALS, "refuses the user or the password"),
    ],
)
async def test_wrong_addresses(
    schema: Schema, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any], kind: Kind, words: str
) -> None:
    """A start that fails says why, and shows no secret."""
    if wrong == {"port": 0}:
        wrong = {"port": free_port()}
    with caplog.at_level(logging.DEBUG):
        failure = await refusal(schema, password="s3cret", **wrong)
    assert (failure.kind, words in str(failure)) == (kind, True)
    shown = f"{failure!r} {failure} {failure.__cause__} {caplog.text} {schema.bus(password='s3cret')!r}"
    assert "s3cret" not in shown


async def test_a_wrong_password(start_postgres: Any) -> None:
    """A server that asks for a password says that it is wrong."""
    server = start_postgres()
    server.ask("ALTER USER promenade PASSWORD 'right'")
    hba = server.data / "pg_hba.conf"
    hba.write_text(hba.read_text().replace("trust", "scram-sha-256"))
    server.reload()
    schema = Schema(server, "public")
    failure = await refusal(schema, password="wr0ng")
    assert failure.kind is Kind.CREDENTIALS
    url = f"postgresql://{USER}:right@{HOST}:{server.port}/postgres"
    adapter: Any = schema.bus(url=url, host=None, name=None, user=None).adapter
    await adapter.start()
    await adapter.close()
