"""The inbox: a handler's effects and the mark that it has handled an event, in one transaction."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, overload

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.dml import ReturningInsert

from bus_core import Delivery, Event, InvalidHandler
from bus_core.abc import Seconds
from bus_core.runtime import lease_clock, plain_logger
from promenade_bus_outbox.connection import OutboxConnection
from promenade_bus_outbox.database import Database, Sessions, is_missing_table, named
from promenade_bus_outbox.dialects import check_dialect
from promenade_bus_outbox.errors import MissingTables
from promenade_bus_outbox.tables import OutboxTables

__all__ = ["Inbox"]

E = TypeVar("E", bound=Event[Any])

logger = plain_logger("promenade.inbox")

_CHUNK: Final = 500
"""The most old marks that one statement deletes."""

_CLEANING: Final = 60.0
"""The least seconds between two deletions of old marks."""


class Inbox:
    """Handles each event once for each subscription, however often it is delivered.

    ``sessions`` makes the sessions for handlers, and ``tables`` come from ``outbox_tables``. Marks are kept
    for ``keep``, in seconds or as timedelta. Choose it longer than any event may be redelivered.
    """

    def __init__(
        self, sessions: Sessions, tables: OutboxTables, *, keep: Seconds = timedelta(days=7)
    ) -> None:
        self._database = Database(sessions, tables, tables.marks)
        self._sessions = sessions
        self._table: Table = tables.marks
        self._keep = keep if isinstance(keep, timedelta) else timedelta(seconds=keep)
        if self._keep <= timedelta(0):
            raise ValueError(f"keep must be more than 0 seconds, got {keep!r}")
        self._cleaned: float | None = None

    @overload
    def handler(
        self, handler: Callable[[E, AsyncSession], Awaitable[None]]
    ) -> Callable[[E, Delivery], Awaitable[None]]: ...
    @overload
    def handler(
        self, handler: Callable[[E, AsyncSession, Delivery], Awaitable[None]]
    ) -> Callable[[E, Delivery], Awaitable[None]]: ...
    @overload
    def handler(self, handler: Callable[[E, Session], None]) -> Callable[[E, Delivery], None]: ...
    @overload
    def handler(self, handler: Callable[[E, Session, Delivery], None]) -> Callable[[E, Delivery], None]: ...
    def handler(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a handler of an event and a session for ``bus.subscribe``; write it below that decorator.

        The bus calls ``handler(event, session)`` or ``handler(event, session, delivery)`` inside a
        transaction. The transaction is committed with the mark when the handler returns, and rolled back when
        it raises. The handler does not commit by itself. An event with a mark is acknowledged without a call
        of the handler, unless somebody has redriven it as a dead letter, which asks to handle it again. The
        handler is async where ``sessions`` is an ``async_sessionmaker``, and a plain function otherwise.
        Raises ``InvalidHandler``.
        """
        takes_delivery = self._checked(handler)
        if isinstance(self._sessions, async_sessionmaker):
            return self._async_handler(self._sessions, handler, takes_delivery)
        return self._sync_handler(self._sessions, handler, takes_delivery)

    def _checked(self, handler: Callable[..., Any]) -> bool:
        """Returns True if the handler takes a delivery."""
        name = getattr(handler, "__qualname__", repr(handler))
        called = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004
        if inspect.iscoroutinefunction(called) is not self._database.is_async:
            needed = "an async function" if self._database.is_async else "a plain function"
            made = "an async_sessionmaker" if self._database.is_async else "a sessionmaker"
            raise InvalidHandler(f"{name} has to be {needed}: the inbox was made with {made}")
        required = [
            parameter
            for parameter in inspect.signature(handler).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if len(required) not in (2, 3):
            raise InvalidHandler(
                f"{name} takes {len(required)} required arguments; a handler of an inbox takes "
                "(event, session) or (event, session, delivery)"
            )
        return len(required) == 3

    def _async_handler(
        self,
        sessions: async_sessionmaker[Any],
        handler: Callable[..., Awaitable[None]],
        takes_delivery: bool,
    ) -> Callable[[Any, Delivery], Awaitable[None]]:
        @_called_like(handler)
        async def handle(event: Any, delivery: Delivery) -> None:
            async with sessions() as session, session.begin():
                if not await session.run_sync(self._mark, event, delivery):
                    return
                await (handler(event, session, delivery) if takes_delivery else handler(event, session))
            await self._clean_sometimes()

        return handle

    def _sync_handler(
        self, sessions: sessionmaker[Any], handler: Callable[..., None], takes_delivery: bool
    ) -> Callable[[Any, Delivery], None]:
        @_called_like(handler)
        def handle(event: Any, delivery: Delivery) -> None:
            with sessions() as session, session.begin():
                if not self._mark(session, event, delivery):
                    return
                if takes_delivery:
                    handler(event, session, delivery)
                else:
                    handler(event, session)
            if self._is_time_to_clean():
                with _not_needed():
                    self._database.run_here(self._clean)

        return handle

    def _mark(self, session: Session, event: Event[Any], delivery: Delivery) -> bool:
        """Marks the event. Returns True if it has to be handled.

        Waits for another delivery of the same event that is being handled at the same time.
        """
        service = delivery.group.removesuffix(delivery.subscription).removesuffix(".")
        marked = {
            "service": service,
            "subscription": delivery.subscription,
            "topic": delivery.topic,
            "event_id": delivery.message_id,
            "handled_at": datetime.now(UTC),
        }
        connection = session.connection(bind_arguments={"clause": self._table})
        check_dialect(connection.dialect.name, None)
        try:
            added = connection.execute(self._insert(connection.dialect.name), marked).first() is not None
        except DBAPIError as error:
            if is_missing_table(error):
                table = f"table {self._table.fullname!r}"
                raise MissingTables(named(connection.engine), [table]) from error
            raise
        if added:
            return True
        what = f"{delivery.message_id} of {delivery.topic}", delivery.group
        if delivery.redriven:
            logger.warning("the event %s was handled by %s before, and is again: it was redriven", *what)
            return True
        logger.info("the event %s was handled by %s before: it is acknowledged", *what)
        return False

    def _insert(self, dialect: str) -> ReturningInsert[tuple[str]]:
        """Adds a mark, and returns it; None if it exists."""
        returned = self._table.c.event_id
        if dialect == "postgresql":
            return postgresql.insert(self._table).on_conflict_do_nothing().returning(returned)
        return sqlite.insert(self._table).on_conflict_do_nothing().returning(returned)

    # --- old marks ----------------------------------------------------------------------------------------

    async def clean(self) -> int:
        """Deletes old marks, in chunks. Returns their number.

        Handlers also delete them from time to time, a chunk at a time.
        """
        total = 0
        while True:
            count = await self._database.run(self._clean)
            total += count
            if count < _CHUNK:
                return total

    async def _clean_sometimes(self) -> None:
        if self._is_time_to_clean():
            with _not_needed():
                await self._database.run(self._clean)

    def _is_time_to_clean(self) -> bool:
        now = lease_clock()
        if self._cleaned is not None and now - self._cleaned < _CLEANING:
            return False
        self._cleaned = now
        return True

    def _clean(self, connection: OutboxConnection) -> int:
        table, key = self._database.names.marks, "service, subscription, topic, event_id"
        return connection.execute(
            f"DELETE FROM {table} WHERE ({key}) IN "
            f"(SELECT {key} FROM {table} WHERE handled_at < :before LIMIT {_CHUNK})",
            {"before": connection.dialect.moment(datetime.now(UTC) - self._keep)},
        )


@contextmanager
def _not_needed() -> Iterator[None]:
    """Logs a failure inside: the event is handled, and its mark is stored."""
    try:
        yield
    except Exception as error:
        logger.warning("old marks of the inbox could not be deleted: %s; trying again later", error)


_NAMES: Final = ("__module__", "__name__", "__qualname__", "__doc__")


def _called_like(handler: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a wrapper the names of the wrapped function, but not its parameters, which the bus inspects."""

    def decorate(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        functools.update_wrapper(wrapper, handler, assigned=_NAMES, updated=())
        del wrapper.__wrapped__  # type: ignore[attr-defined]
        return wrapper

    return decorate
