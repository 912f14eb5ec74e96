"""The database behind the application's sessions, used in one way for async and sync sessions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, Table, TextClause, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from promenade_bus_outbox.connection import NONE, OutboxConnection
from promenade_bus_outbox.dialects import Dialect, dialect_of
from promenade_bus_outbox.errors import OutboxError, WrongSession
from promenade_bus_outbox.names import TableName, TableNames
from promenade_bus_outbox.tables import OutboxTables

__all__ = ["Database", "Sessions", "is_missing_table", "named"]

T = TypeVar("T")

Sessions = async_sessionmaker[Any] | sessionmaker[Any]
"""The factory of the application's sessions."""

_STATES: Final = ("42P01", "42703")  # undefined_table, undefined_column
_TEXTS: Final = ("no such table", "no such column", "has no column")


class Database:
    """Runs functions of a connection, each in its own transaction.

    ``tables`` are read where the sessions would read one of them, by default ``tables.events``: with the
    engine of the sessions. Raises ``WrongSession`` for an object that makes no sessions, and ``OutboxError``
    where they have no engine.
    """

    def __init__(self, sessions: Sessions, tables: OutboxTables, one: Table | None = None) -> None:
        if not isinstance(sessions, async_sessionmaker | sessionmaker):
            raise WrongSession(
                "sessions has to be an async_sessionmaker or a sessionmaker, got "
                f"{type(sessions).__module__}.{type(sessions).__qualname__}"
            )
        self.is_async = isinstance(sessions, async_sessionmaker)
        self._sessions = sessions
        self._tables = tables
        self._clause = tables.events if one is None else one
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
            bind = session.get_bind(clause=self._clause)
        except UnboundExecutionError as error:
            raise OutboxError(
                f"the sessions have no engine for the table {self._clause.name!r}: make them with "
                "async_sessionmaker(engine) or sessionmaker(engine)"
            ) from error
        if isinstance(bind, Connection):
            raise OutboxError(
                "the sessions are bound to one connection, and what works beside them needs an engine: make "
                "them with async_sessionmaker(engine) or sessionmaker(engine)"
            )
        return bind

    @property
    def dialect(self) -> Dialect:
        """The differences of this database; raises ``OutboxError`` for one that is not supported."""
        return dialect_of(self.engine.dialect.name)

    @property
    def names(self) -> TableNames:
        """The names of the tables, with the schemas that the engine puts in the place of theirs."""
        schemas: Mapping[str | None, str | None] = self.engine.get_execution_options().get(
            "schema_translate_map", {}
        )
        return TableNames(
            *(TableName(table.name, schemas.get(table.schema, table.schema)) for table in self._tables)
        )

    @property
    def shown(self) -> str:
        """Its name in messages, without a password."""
        return named(self.engine)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The errors of SQLAlchemy."""
        return (SQLAlchemyError,)

    async def run(self, work: Callable[[OutboxConnection], T]) -> T:
        """Calls a function with a connection, and commits; rolls back when it raises."""
        if self.is_async:
            async with AsyncEngine(self.engine).begin() as connection:
                return await connection.run_sync(lambda sync: work(_Statements(self.dialect, sync)))
        return await asyncio.to_thread(self.run_here, work)

    def run_here(self, work: Callable[[OutboxConnection], T]) -> T:
        """The same in this thread, with a synchronous engine."""
        with self.engine.begin() as connection:
            return work(_Statements(self.dialect, connection))


class _Statements:
    """The statements of the relay on a connection of SQLAlchemy."""

    def __init__(self, dialect: Dialect, connection: Connection) -> None:
        self.dialect = dialect
        self._connection = connection

    def query(self, statement: str, parameters: Mapping[str, object] = NONE) -> Sequence[Sequence[Any]]:
        return self._connection.execute(_text(statement), dict(parameters)).all()

    def execute(self, statement: str, parameters: Mapping[str, object] = NONE) -> int:
        return self._connection.execute(_text(statement), dict(parameters)).rowcount


@lru_cache(maxsize=200)
def _text(statement: str) -> TextClause:
    """A statement, in whose quoted names a colon begins no parameter."""
    return text(re.sub('"[^"]*"', lambda name: name[0].replace(":", "\\:"), statement))


def named(engine: Engine) -> str:
    """The name of an engine in messages: its URL without the password."""
    return engine.url.render_as_string(hide_password=True)


def is_missing_table(error: DBAPIError) -> bool:
    """Returns True when a statement failed because of a missing table or column."""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state in _STATES if state else any(text in str(error.orig) for text in _TEXTS)
