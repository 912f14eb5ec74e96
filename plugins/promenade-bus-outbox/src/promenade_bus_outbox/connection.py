"""The database as the relay needs it: statements with named parameters, in a transaction.

Everything but the writing of events works with these two protocols. ``DriverDatabase`` implements them on a
driver of Python's database API, and the database of an ``Outbox`` on SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from promenade_bus_outbox.dialects import Dialect, check_dialect
from promenade_bus_outbox.errors import MissingTables
from promenade_bus_outbox.names import TableNames

__all__ = ["NONE", "OutboxConnection", "OutboxDatabase", "check"]

T = TypeVar("T")

NONE: Final[Mapping[str, object]] = MappingProxyType({})
"""No parameters."""


class OutboxConnection(Protocol):
    """A connection in a transaction. A statement names its parameters ``:name``."""

    @property
    def dialect(self) -> Dialect:
        """The differences of its database."""
        ...

    def query(self, statement: str, parameters: Mapping[str, object] = NONE) -> Sequence[Sequence[Any]]:
        """Reads rows."""
        ...

    def execute(self, statement: str, parameters: Mapping[str, object] = NONE) -> int:
        """Changes rows, and returns their number."""
        ...


class OutboxDatabase(Protocol):
    """The database of an outbox, from any thread and any event loop that its implementation allows."""

    @property
    def dialect(self) -> Dialect:
        """The differences of this database; raises ``OutboxError`` for one that is not supported."""
        ...

    @property
    def names(self) -> TableNames:
        """The names of the tables."""
        ...

    @property
    def shown(self) -> str:
        """Its name in messages, without a password."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The errors of the driver when a statement or a connection fails."""
        ...

    async def run(self, work: Callable[[OutboxConnection], T]) -> T:
        """Calls a function with a connection, and commits; rolls back when it raises."""
        ...


async def check(database: OutboxDatabase) -> None:
    """Raises ``OutboxError`` when the database cannot be used, and ``MissingTables`` with all that lacks."""
    check_dialect(database.dialect.name, None)
    names, shown = database.names, database.shown
    await database.run(lambda connection: _check(connection, names, shown))


def _check(connection: OutboxConnection, names: TableNames, shown: str) -> None:
    dialect = connection.dialect
    check_dialect(dialect.name, _version(connection))
    missing: list[str] = []
    for table, columns in names:
        if dialect.name == "postgresql":
            found = connection.query(
                "SELECT CAST(attname AS TEXT) FROM pg_attribute WHERE attrelid = to_regclass(:name) "
                "AND attnum > 0 AND NOT attisdropped",
                {"name": str(table)},
            )
        else:
            found = connection.query(
                "SELECT name FROM pragma_table_info(:name, :schema)",
                {"name": table.name, "schema": table.schema or "main"},
            )
        there = {column for (column,) in found}
        if not there:
            missing.append(f"table {table.shown!r}")
            continue
        missing += [f"column {column!r} of {table.shown!r}" for column in columns if column not in there]
    if missing:
        raise MissingTables(shown, missing)


def _version(connection: OutboxConnection) -> tuple[int, ...]:
    if connection.dialect.name == "postgresql":
        number = int(connection.query("SELECT current_setting('server_version_num')")[0][0])
        return number // 10000, number % 10000
    return tuple(map(int, str(connection.query("SELECT sqlite_version()")[0][0]).split(".")))
