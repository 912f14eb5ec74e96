"""The version of the tables in a database: it is compared with that of the code, and brought up to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.failures import Kind, PostgresFailure
from promenade_bus_postgres.migrations import LATEST, MIGRATIONS, TABLES, Migration

__all__ = ["OLDEST", "check", "grants_of", "migrate", "script_of"]

OLDEST: Final = 13
"""The oldest version of PostgreSQL that will do: it has pg_current_snapshot()."""

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('promenade_bus'), hashtext(%s))"


def check(connection: Connection, sql: Sql, place: str) -> None:
    """Raises ``PostgresFailure`` when the server is too old, or its tables do not fit this code."""
    check_server(connection, place)
    found = _version(connection, sql)
    if found is None:
        raise _unfit(
            place,
            f"has no tables of the bus in the schema {sql.schema!r}: create them with "
            "`promenade-bus postgres migrate --config FILE`, or by bus.postgres.migrate: true in development",
        )
    version, _ = found
    if version < LATEST:
        raise _unfit(
            place,
            f"has version {version} of the tables of the bus in the schema {sql.schema!r}, and this code "
            f"needs {LATEST}: run `promenade-bus postgres migrate --config FILE`",
        )
    _check_needs(found, sql, place)


def _check_needs(found: tuple[int, int], sql: Sql, place: str) -> None:
    """Raises ``PostgresFailure`` for tables that need newer code."""
    version, needs = found
    if needs > LATEST:
        raise _unfit(
            place,
            f"has version {version} of the tables of the bus in the schema {sql.schema!r}, which needs code "
            f"that knows version {needs}, and this one knows {LATEST}: upgrade promenade-bus-postgres",
        )


def check_server(connection: Connection, place: str) -> None:
    """Raises ``PostgresFailure`` when the server is too old."""
    number = connection.info.server_version
    if number < OLDEST * 10_000:
        raise _unfit(place, f"is version {number // 10_000}, and the bus needs {OLDEST} or newer: upgrade it")


def _unfit(place: str, words: str) -> PostgresFailure:
    return PostgresFailure(place, Kind.UNFIT, words=words)


def _version(connection: Connection, sql: Sql) -> tuple[int, int] | None:
    """The version of the tables, and the version that code has to know; None where there are no tables."""
    name = f'"{sql.schema}".promenade_schema'
    if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() == (None,):
        return None
    row = connection.execute(sql("SELECT max(version), max(needs) FROM promenade_schema")).fetchone()
    return None if row is None or row[0] is None else (row[0], row[1])


def migrate(connection: Connection, sql: Sql, place: str) -> Sequence[Migration]:
    """Applies missing migrations, and returns them. Others who do the same wait for each other.

    Raises ``PostgresFailure`` when the server is too old, or its tables need newer code.
    """
    check_server(connection, place)
    with connection.transaction():
        connection.execute(_LOCK, (sql.schema,))
        found = _version(connection, sql)
        if found is not None:
            _check_needs(found, sql, place)
        missing = [each for each in MIGRATIONS if found is None or each.version > found[0]]
        if (
            found is None
            and not connection.execute(
                "SELECT 1 FROM pg_namespace WHERE nspname = %s", (sql.schema,)
            ).fetchone()
        ):
            connection.execute(f'CREATE SCHEMA "{sql.schema}"'.encode())
        if missing:
            connection.execute(f'SET LOCAL search_path TO "{sql.schema}"'.encode())
        for each in missing:
            connection.execute(_with_mark(each, sql.schema).encode())
    return missing


def _with_mark(migration: Migration, schema: str) -> str:
    """A migration, and the row that says that it was applied."""
    script = migration.script.strip().removesuffix(";").replace("@schema@", f'"{schema}"') + ";"
    mark = f"({migration.version}, {migration.needs}, '{migration.name}')"
    return f"{script}\n\nINSERT INTO promenade_schema (version, needs, name) VALUES {mark};\n"


def script_of(schema: str, after: int = 0) -> str:
    """All migrations after a version as plain SQL, for whoever applies them with another tool."""

    def parts() -> Iterator[str]:
        for each in MIGRATIONS:
            if each.version > after:
                yield f"-- version {each.version}: {each.name}\nBEGIN;\n"
                if each.version == 1:
                    yield f'CREATE SCHEMA IF NOT EXISTS "{schema}";\n'
                yield f'SET LOCAL search_path TO "{schema}";\n\n{_with_mark(each, schema)}COMMIT;\n'

    return "\n".join(parts())


def grants_of(schema: str, role: str) -> str:
    """The statements that allow a role what a running bus does, and nothing else."""
    name = '"' + role.replace('"', '""') + '"'
    tables = ", ".join(f'"{schema}".promenade_{each}' for each in TABLES)
    return (
        f'GRANT USAGE ON SCHEMA "{schema}" TO {name};\n'
        f'GRANT SELECT ON "{schema}".promenade_schema TO {name};\n'
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {name};\n"
        f'GRANT EXECUTE ON FUNCTION "{schema}".promenade_position() TO {name};\n'
    )
