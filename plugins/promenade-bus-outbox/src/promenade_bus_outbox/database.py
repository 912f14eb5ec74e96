"""The database behind the application's sessions, used in one way for async and sync sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, Table, inspect
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from promenade_bus_outbox.errors import MissingTables, OutboxError, WrongSession

__all__ = ["Database", "Sessions", "check_dialect", "check_tables", "is_missing_table", "named"]

T = TypeVar("T")

Sessions = async_sessionmaker[Any] | sessionmaker[Any]
"""The factory of the application's sessions."""

OLDEST: Final = {"postgresql": (13,), "sqlite": (3, 35)}
"""The oldest usable version of each supported database."""

_NAMES: Final = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_STATES: Final = ("42P01", "42703")  # undefined_table, undefined_column
_TEXTS: Final = ("no such table", "no such column", "has no column")


class Database:
    """Runs functions of a connection, each in its own transaction.

    ``tables`` are read where the sessions would read them, with the engine of the sessions. Raises
    ``WrongSession`` for an object that makes no sessions, and ``OutboxError`` where they have no engine.
    """

    def __init__(self, sessions: Sessions, tables: Sequence[Table]) -> None:
        if not isinstance(sessions, async_sessionmaker | sessionmaker):
            raise WrongSession(
                "sessions has to be an async_sessionmaker or a sessionmaker, got "
                f"{type(sessions).__module__}.{type(sessions).__qualname__}"
            )
        self.is_async = isinstance(sessions, async_sessionmaker)
        self._sessions = sessions
        self._tables = tables
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine of the tables; for an async engine, the synchronous one inside it."""
        if self._engine is None:
            self._engine = self._find_engine()
        return self._engine

    def _find_engine(self) -> Engine:
        made = self._sessions()
        session: Session = made.sync_session if isinstance(made, AsyncSession) else made
        try:
            bind = session.get_bind(clause=self._tables[0])
        except UnboundExecutionError as error:
            raise OutboxError(
                f"the sessions have no engine for the table {self._tables[0].name!r}: make them with "
                "async_sessionmaker(engine) or sessionmaker(engine)"
            ) from error
        if isinstance(bind, Connection):
            raise OutboxError(
                "the sessions are bound to one connection, and what works beside them needs an engine: make "
                "them with async_sessionmaker(engine) or sessionmaker(engine)"
            )
        return bind

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Calls a function with a connection, and commits; rolls back when it raises."""
        engine = self.engine
        if self.is_async:
            async with AsyncEngine(engine).begin() as connection:
                return await connection.run_sync(work)

        def run() -> T:
            with engine.begin() as connection:
                return work(connection)

        return await asyncio.to_thread(run)

    async def check(self) -> None:
        """Raises ``OutboxError`` when the database cannot be used, or has no tables."""
        check_dialect(self.engine.dialect.name, None)
        await self.run(self._check)

    def _check(self, connection: Connection) -> None:
        dialect = connection.dialect
        check_dialect(dialect.name, getattr(dialect, "server_version_info", None))
        check_tables(connection, self._tables)


def named(engine: Engine) -> str:
    """The name of an engine in messages: its URL without the password."""
    return engine.url.render_as_string(hide_password=True)


def check_dialect(name: str, version: tuple[int, ...] | None) -> None:
    """Raises ``OutboxError`` for a database that is not supported, or too old."""
    if name not in OLDEST:
        raise OutboxError(
            f"the outbox does not work on {name}: it needs PostgreSQL 13 or SQLite 3.35, or newer"
        )
    oldest = OLDEST[name]
    if version is not None and version < oldest:
        found, needed = (".".join(map(str, numbers)) for numbers in (version, oldest))
        raise OutboxError(
            f"the outbox needs {_NAMES[name]} {needed} or newer, and this is {found}: upgrade the "
            f"{'server' if name == 'postgresql' else 'library that Python uses (sqlite3.sqlite_version)'}"
        )


def check_tables(connection: Connection, tables: Sequence[Table]) -> None:
    """Raises ``MissingTables`` with every missing table and column."""
    looked_at = inspect(connection)
    missing: list[str] = []
    for table in tables:
        if not looked_at.has_table(table.name, schema=table.schema):
            missing.append(f"table {table.fullname!r}")
            continue
        there = {column["name"] for column in looked_at.get_columns(table.name, schema=table.schema)}
        missing += [
            f"column {column.name!r} of {table.fullname!r}"
            for column in table.columns
            if column.name not in there
        ]
    if missing:
        raise MissingTables(named(connection.engine), missing)


def is_missing_table(error: DBAPIError) -> bool:
    """Returns True when a statement failed because of a missing table or column."""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state in _STATES if state else any(text in str(error.orig) for text in _TEXTS)
