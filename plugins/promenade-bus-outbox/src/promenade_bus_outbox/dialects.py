"""The differences between PostgreSQL and SQLite in the statements of the outbox."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final, Protocol

from promenade_bus_outbox.errors import OutboxError

__all__ = ["POSTGRESQL", "SQLITE", "Dialect", "as_utc", "check_dialect", "dialect_of"]


class Dialect(Protocol):
    """The parts of statements that the two databases write differently."""

    name: str
    oldest: tuple[int, ...]
    """The oldest usable version."""

    def among(self, column: str, parameter: str) -> str:
        """The condition that a column is one of the ``numbers`` of a parameter."""
        ...

    def numbers(self, numbers: Collection[int]) -> object:
        """The value of such a parameter."""
        ...

    def moment(self, at: datetime) -> object:
        """A moment as a parameter."""
        ...

    def held(self, transaction: str) -> str:
        """The condition that an older transaction than this one still runs."""
        ...


class _PostgreSQL:
    name = "postgresql"
    oldest: tuple[int, ...] = (13,)

    def among(self, column: str, parameter: str) -> str:
        return f"{column} = ANY(CAST(:{parameter} AS BIGINT[]))"

    def numbers(self, numbers: Collection[int]) -> object:
        return [*numbers]

    def moment(self, at: datetime) -> object:
        return at

    def held(self, transaction: str) -> str:
        """Tells if the transaction is one of this server that began after one which still runs.

        A row that can be read was committed. An id at or beyond the next one comes from another server, by a
        dump, or from before its ids were reset: nothing that runs here is older.
        """
        oldest, following = (
            f"(SELECT CAST(CAST({bound}(pg_current_snapshot()) AS TEXT) AS BIGINT))"
            for bound in ("pg_snapshot_xmin", "pg_snapshot_xmax")
        )
        return f"({transaction} >= {oldest} AND {transaction} < {following})"


class _SQLite:
    name = "sqlite"
    oldest: tuple[int, ...] = (3, 35)

    def among(self, column: str, parameter: str) -> str:
        return f"{column} IN (SELECT value FROM json_each(:{parameter}))"

    def numbers(self, numbers: Collection[int]) -> object:
        return json.dumps([*numbers])

    def moment(self, at: datetime) -> object:
        """The text that SQLAlchemy and Django write, which sorts by time."""
        return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")

    def held(self, transaction: str) -> str:
        """Never: it has one writer."""
        return "0"


POSTGRESQL: Final[Dialect] = _PostgreSQL()
SQLITE: Final[Dialect] = _SQLite()

_DIALECTS: Final = {dialect.name: dialect for dialect in (POSTGRESQL, SQLITE)}
_NAMES: Final = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


def dialect_of(name: str) -> Dialect:
    """The dialect of a database; raises ``OutboxError`` for one that is not supported."""
    if name not in _DIALECTS:
        raise OutboxError(
            f"the outbox does not work on {name}: it needs PostgreSQL 13 or SQLite 3.35, or newer"
        )
    return _DIALECTS[name]


def check_dialect(name: str, version: tuple[int, ...] | None) -> None:
    """Raises ``OutboxError`` for a database that is not supported, or too old."""
    oldest = dialect_of(name).oldest
    if version is not None and version < oldest:
        found, needed = (".".join(map(str, numbers)) for numbers in (version, oldest))
        raise OutboxError(
            f"the outbox needs {_NAMES[name]} {needed} or newer, and this is {found}: upgrade the "
            f"{'server' if name == 'postgresql' else 'library that Python uses (sqlite3.sqlite_version)'}"
        )


def as_utc(moment: datetime | str) -> datetime:
    """A moment as it was written. SQLite has text, and drops the zone, which is UTC."""
    read = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
