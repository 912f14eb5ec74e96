"""The database through a driver alone: ``sqlite3`` of the standard library, or psycopg 3.

Each piece of work runs in a thread, in a transaction of its own. Connections are kept for the next one; after
a failure all of them are closed, because the server may have gone away.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Self, TypeVar

from promenade_bus_outbox.connection import NONE, OutboxConnection
from promenade_bus_outbox.dialects import Dialect, dialect_of
from promenade_bus_outbox.errors import MissingExtra
from promenade_bus_outbox.names import TableNames

__all__ = ["DriverDatabase"]

T = TypeVar("T")

_KEPT: Final = 3
"""The most connections that wait for the next piece of work: leases, delivering, and a look."""

_BUSY: Final = 20.0
"""Seconds that SQLite waits for another writer."""

_SQLITE: Final = re.compile(r"sqlite:///([^?]+)")
_POSTGRESQL: Final = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://(.*)", re.DOTALL)
# Several hosts as SQLAlchemy writes them: libpq takes ``host`` once, and no port in it.
_HOSTS_OF_SQLALCHEMY: Final = re.compile(r"[?&]host=([^&:]*(:|%3A)\d+([,&]|$)|.*&host=)", re.IGNORECASE)
_TOKENS: Final = re.compile(r""""[^"]*"|'[^']*'|:\w+|%""")


class DriverDatabase:
    """A database behind a function that connects, in the way of Python's database API (PEP 249).

    ``dialect`` is ``"postgresql"`` or ``"sqlite"``, and ``driver`` is the module, such as ``psycopg``. Any
    thread may call ``connect``, and use what it returns: SQLite needs ``check_same_thread=False`` for that.
    ``prefix`` and ``schema`` name the tables as in ``outbox_tables``. ``shown`` is the name in messages.
    """

    def __init__(
        self,
        dialect: str,
        driver: Any,
        connect: Callable[[], Any],
        *,
        shown: str,
        prefix: str = "promenade_",
        schema: str | None = None,
    ) -> None:
        self.dialect: Dialect = dialect_of(dialect)
        self.names = TableNames.of(prefix, schema)
        self.shown = shown
        self.errors: tuple[type[Exception], ...] = (driver.Error,)
        self._connect = connect
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "promenade_", schema: str | None = None) -> Self | None:
        """The database of ``sqlite:///PATH`` or ``postgresql://...``; None if the URL is of another kind.

        ``postgresql+psycopg://`` is the same. A URL with several hosts in the way of SQLAlchemy is of another
        kind; for psycopg they are in one list, ``postgresql://a,b/app``. Connects with the first piece of
        work. Raises ``MissingExtra`` when psycopg is not installed.
        """
        sqlite = _SQLITE.fullmatch(url)
        if sqlite is not None:
            import sqlite3

            path = sqlite[1]
            return cls(
                "sqlite",
                sqlite3,
                lambda: sqlite3.connect(path, timeout=_BUSY, check_same_thread=False),
                shown=url,
                prefix=prefix,
                schema=schema,
            )
        postgresql = _POSTGRESQL.fullmatch(url)
        if postgresql is None or _HOSTS_OF_SQLALCHEMY.search(url) is not None:
            return None
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtra("a database on PostgreSQL", "psycopg 3", "psycopg") from error
        address = f"postgresql://{postgresql[1]}"
        return cls(
            "postgresql",
            psycopg,
            # PgBouncer in transaction mode may give each transaction another connection of the server, where
            # statements that psycopg prepared are missing.
            lambda: psycopg.connect(address, prepare_threshold=None),
            shown=re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", url.partition("?")[0]),
            prefix=prefix,
            schema=schema,
        )

    def __repr__(self) -> str:
        return f"<DriverDatabase {self.shown}>"

    async def run(self, work: Callable[[OutboxConnection], T]) -> T:
        """Calls a function with a connection in a thread, and commits; rolls back when it raises."""
        return await asyncio.to_thread(self.run_here, work)

    def run_here(self, work: Callable[[OutboxConnection], T]) -> T:
        """The same in this thread."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect()
        try:
            result = work(_Connection(self.dialect, connection))
            connection.commit()
        except BaseException:
            with suppress(Exception):
                connection.close()  # which rolls back
            self._close_idle()
            raise
        with self._lock:
            kept = not self._closed and len(self._idle) < _KEPT
            if kept:
                self._idle.append(connection)
        if not kept:
            connection.close()
        return result

    def close(self) -> None:
        """Closes the connections. Later work connects again, and keeps no connection."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(Exception):
                connection.close()


class _Connection:
    """A connection of a driver; one cursor for each statement."""

    def __init__(self, dialect: Dialect, connection: Any) -> None:
        self.dialect = dialect
        self._connection = connection

    def query(self, statement: str, parameters: Mapping[str, object] = NONE) -> Sequence[Sequence[Any]]:
        cursor = self._execute(statement, parameters)
        try:
            rows: Sequence[Sequence[Any]] = cursor.fetchall()
            return rows
        finally:
            cursor.close()

    def execute(self, statement: str, parameters: Mapping[str, object] = NONE) -> int:
        cursor = self._execute(statement, parameters)
        try:
            count: int = cursor.rowcount
            return count
        finally:
            cursor.close()

    def _execute(self, statement: str, parameters: Mapping[str, object]) -> Any:
        if self.dialect.name == "postgresql":
            statement = _pyformat(statement)
        cursor = self._connection.cursor()
        cursor.execute(statement, dict(parameters))
        return cursor


@lru_cache(maxsize=200)
def _pyformat(statement: str) -> str:
    """Writes ``:name`` as ``%(name)s``, as both generations of psycopg take it."""

    def written(token: re.Match[str]) -> str:
        text = token[0]
        return f"%({text[1:]})s" if text.startswith(":") else text.replace("%", "%%")

    return _TOKENS.sub(written, statement)
