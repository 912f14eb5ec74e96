"""A database of a test, with the tables of an outbox and those of the application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine, Integer, MetaData, String, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from bus_core import Event, Topic, event
from promenade_bus_outbox import (
    DriverDatabase,
    Outbox,
    OutboxRelay,
    OutboxStatus,
    OutboxTables,
    outbox_tables,
)


@event
class Moved(Event):
    """Something went one step further; ``number`` counts the steps of its aggregate."""

    number: int = 0


MOVED = Topic("outbox.thing.moved", Moved)


class Base(DeclarativeBase):
    """The application's own metadata."""

    metadata = MetaData()


class Thing(Base):
    """The thing that events are about."""

    __tablename__ = "thing"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    number: Mapped[int] = mapped_column(Integer, default=0)


class Effect(Base):
    """The deeds of a handler: a row for each time."""

    __tablename__ = "effect"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    subscription: Mapped[str] = mapped_column(String(100))
    aggregate: Mapped[str] = mapped_column(String(100))
    number: Mapped[int] = mapped_column(Integer)


TABLES: OutboxTables = outbox_tables(Base.metadata)


class RolledBack(Exception):
    """Raised by a test, to end a transaction."""


Publish = Callable[[Topic[Any], Event[Any]], None]


class Stage:
    """A database behind an URL of SQLAlchemy, of an async driver or of another one."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.tables = TABLES
        self.is_async = "aiosqlite" in url or "asyncpg" in url
        if self.is_async:
            self.async_engine: AsyncEngine = create_async_engine(url, **options)
            self.engine: Engine = self.async_engine.sync_engine
            self.sessions: Any = async_sessionmaker(self.async_engine)
        else:
            self.engine = create_engine(url, **options)
            self.sessions = sessionmaker(self.engine)
        plain = url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg")
        self._looking = create_engine(plain, poolclass=NullPool)

    @property
    def is_postgres(self) -> bool:
        """Which of the two databases it is."""
        return self.engine.dialect.name == "postgresql"

    def create(self) -> None:
        """Makes all tables."""
        Base.metadata.create_all(self._looking)

    @property
    def driver_url(self) -> str:
        """The URL of the same database for a driver alone."""
        return re.sub(r"\+\w+", "", self.url)

    def driver_database(self) -> DriverDatabase:
        """The same database through a driver, without SQLAlchemy."""
        database = DriverDatabase.from_url(self.driver_url)
        assert database is not None
        return database

    async def close(self) -> None:
        """Lets go of all connections."""
        if self.is_async:
            await self.async_engine.dispose()
        else:
            self.engine.dispose()
        self._looking.dispose()

    async def transact(
        self, outbox: Outbox, work: Callable[[Session, Publish], None], *, fail: bool = False
    ) -> None:
        """Calls a function with a session in a transaction, and with what publishes in it; then commits.

        With ``fail`` it is rolled back in place of that.
        """
        if self.is_async:
            try:
                async with self.sessions.begin() as session:

                    def publish(topic: Topic[Any], event: Event[Any]) -> None:
                        # The public call is a coroutine; inside of run_sync it is awaited like by a driver.
                        await_only(outbox.publish(session, topic, event))

                    await session.run_sync(lambda sync: work(sync, publish))
                    if fail:
                        raise RolledBack
            except RolledBack:
                pass
            return

        def run() -> None:
            try:
                with self.sessions.begin() as session:
                    work(session, lambda topic, event: outbox.publish_sync(session, topic, event))
                    if fail:
                        raise RolledBack
            except RolledBack:
                pass

        await asyncio.to_thread(run)

    async def publish(self, outbox: Outbox, *events: Event[Any], fail: bool = False) -> None:
        """Publishes events in one transaction."""

        def work(session: Session, publish: Publish) -> None:
            for each in events:
                publish(MOVED, each)

        await self.transact(outbox, work, fail=fail)

    def connect(self) -> Any:
        """A plain connection for looking, and for disturbing."""
        return self._looking.connect()

    def execute(self, statement: str) -> None:
        """Carries out one statement, and commits."""
        with self._looking.begin() as connection:
            connection.exec_driver_sql(statement)

    def scalar(self, statement: Any) -> Any:
        """One value, read beside everything else."""
        with self._looking.connect() as connection:
            return connection.scalar(statement)

    def rows(self, statement: Any) -> Sequence[Any]:
        """Rows, read beside everything else."""
        with self._looking.connect() as connection:
            return connection.execute(statement).all()

    def waiting(self) -> int:
        """The number of rows in the outbox."""
        count: int = self.scalar(select(func.count()).select_from(self.tables.events))
        return count


async def seen(outbox: OutboxRelay, condition: Callable[[OutboxStatus], bool]) -> OutboxStatus:
    """The first status of an outbox of which the condition holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    while not condition(status := await outbox.status()):
        if loop.time() > deadline:
            raise TimeoutError(f"looked in vain for another status than {status}")
    return status


async def until(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
    """Returns once the condition holds; raises ``TimeoutError`` that names what was waited for."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}")
        await asyncio.sleep(0.005)
