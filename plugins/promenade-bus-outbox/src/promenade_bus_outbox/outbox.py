"""The outbox: events are rows of the transaction that causes them, and a relay publishes them on the bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from bus_core import Bus, Event, SyncBus, Topic
from bus_core.abc import Seconds
from promenade_bus_outbox.database import Database, Sessions, named
from promenade_bus_outbox.errors import OutboxError, WrongSession
from promenade_bus_outbox.outbox_relay import OutboxRelay
from promenade_bus_outbox.pending import add_to, listen_to_sessions, write_late
from promenade_bus_outbox.tables import OutboxTables

__all__ = ["Outbox"]

E = TypeVar("E", bound=Event[Any])


class Outbox(OutboxRelay):
    """Publishes events with the transaction of a session: they exist exactly when it was committed.

    ``sessions`` makes the application's sessions, ``tables`` come from ``outbox_tables``. ``async with bus,
    outbox`` runs the relay, which takes committed events to the bus and deletes them; with ``relay=False``
    another process does, such as ``promenade-bus outbox relay``. Of a ``SyncBus`` it is ``with bus, outbox``.

    The options are those of ``OutboxRelay``.
    """

    def __init__(
        self,
        bus: Bus | SyncBus,
        sessions: Sessions,
        tables: OutboxTables,
        relay: bool = True,
        *,
        batch: int = 500,
        poll: Seconds = 0.25,
        lease: Seconds = 10.0,
        keep: Seconds | None = None,
        after_refusal: Literal["continue", "hold_key"] = "continue",
    ) -> None:
        self.tables = tables
        self._sessions_database = database = Database(sessions, tables)
        if isinstance(bus, SyncBus) and database.is_async:
            raise OutboxError(
                "the outbox of a SyncBus needs a sessionmaker: with an async_sessionmaker use open_bus()"
            )
        super().__init__(
            bus,
            database,
            relay,
            batch=batch,
            poll=poll,
            lease=lease,
            keep=keep,
            after_refusal=after_refusal,
        )
        listen_to_sessions()

    # --- publishing ---------------------------------------------------------------------------------------

    @overload
    async def publish(
        self,
        session: AsyncSession | async_scoped_session[Any],
        topic: Topic[E],
        event: E,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None: ...
    @overload
    async def publish(
        self,
        session: AsyncSession | async_scoped_session[Any],
        topic: str,
        event: Event[Any],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None: ...
    async def publish(
        self, session: Any, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publishes the event if the session's transaction is committed. It neither flushes nor commits.

        The event is encoded now. It becomes a row just before the transaction is committed, or the one around
        its savepoint. Raises the errors of ``Bus.prepare``, and ``WrongSession``.
        """
        used = self._async_session(session)
        message = await self._bus.prepare(topic, event, headers=headers)
        if message is not None and add_to(used.sync_session, self, message):
            await used.run_sync(write_late)

    @overload
    def publish_sync(
        self,
        session: Session | scoped_session[Any],
        topic: Topic[E],
        event: E,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None: ...
    @overload
    def publish_sync(
        self,
        session: Session | scoped_session[Any],
        topic: str,
        event: Event[Any],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None: ...
    def publish_sync(
        self, session: Any, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publishes like ``publish``, with a synchronous session, in any thread.

        Raises the errors of ``Bus.prepare_nowait``.
        """
        if isinstance(session, AsyncSession | async_scoped_session):
            raise WrongSession(
                "publish_sync takes a Session; with an AsyncSession: await outbox.publish(...)"
            )
        used = session() if isinstance(session, scoped_session) else session
        if not isinstance(used, Session):
            raise WrongSession(f"publish_sync takes a Session, got a {type(session).__qualname__}")
        self._check_bind(used)
        message = self._bus.prepare_nowait(topic, event, headers=headers)
        if message is not None and add_to(used, self, message):
            write_late(used)

    def _async_session(self, session: object) -> AsyncSession:
        if isinstance(session, Session | scoped_session):
            raise WrongSession("publish takes an AsyncSession; with a Session call outbox.publish_sync(...)")
        used = session() if isinstance(session, async_scoped_session) else session
        if not isinstance(used, AsyncSession):
            raise WrongSession(f"publish takes an AsyncSession, got a {type(session).__qualname__}")
        self._check_bind(used.sync_session)
        return used

    def _check_bind(self, session: Session) -> None:
        """Refuses a session of another database, where no relay would look for the event."""
        own = self._sessions_database.engine
        engine = session.get_bind(clause=self.tables.events).engine
        if engine is own or engine.pool is own.pool:
            return
        if engine.url == own.url and engine.url.database not in (None, "", ":memory:"):
            return
        raise WrongSession(
            f"the session is one of {named(engine)}, and the relay of this outbox looks into {named(own)}: "
            "publish with a session of the sessions that the outbox was made with"
        )
