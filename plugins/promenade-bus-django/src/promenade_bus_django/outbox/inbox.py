"""The inbox: a handler's effects and the mark that it has handled an event, in one transaction."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, overload

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections, transaction

from bus_core import Delivery, Event
from bus_core.dispatch import inspect_handler
from bus_core.runtime import lease_clock, plain_logger
from promenade_bus_django.outbox.conf import outbox_settings
from promenade_bus_django.outbox.sql import MARKS, check_vendor, moment, quoted

__all__ = ["Inbox"]

E = TypeVar("E", bound=Event[Any])
T = TypeVar("T")

logger = plain_logger("promenade.inbox")

_CHUNK: Final = 500
"""Marks of one statement that deletes old ones."""

_CLEANING: Final = 60.0
"""Seconds between two looks for old marks, at least."""

_KEY: Final = ("service", "subscription", "topic", "event_id")
_NAMES: Final = ("__module__", "__name__", "__qualname__", "__doc__")


class Inbox:
    """Handles each event once for each subscription, however often it is delivered.

    The marks are in the database of the outbox. They are kept for ``keep``: longer than any event may be
    redelivered.
    """

    def __init__(self, *, keep: timedelta = timedelta(days=7)) -> None:
        if keep <= timedelta(0):
            raise ValueError(f"keep must be more than 0 seconds, got {keep!r}")
        self._keep = keep
        self._cleaned: float | None = None

    @overload
    def handler(
        self, handler: Callable[[E], Awaitable[None]]
    ) -> Callable[[E, Delivery], Awaitable[None]]: ...
    @overload
    def handler(
        self, handler: Callable[[E, Delivery], Awaitable[None]]
    ) -> Callable[[E, Delivery], Awaitable[None]]: ...
    @overload
    def handler(self, handler: Callable[[E], None]) -> Callable[[E, Delivery], None]: ...
    @overload
    def handler(self, handler: Callable[[E, Delivery], None]) -> Callable[[E, Delivery], None]: ...
    def handler(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Runs a handler in a transaction, with the mark of the event; the decorator below ``subscribe``.

        The transaction is committed when the handler returns, and rolled back when it raises. An event with a
        mark is acknowledged, and the handler is not called, unless somebody has redriven it as a dead
        letter.

        Django ties a transaction to a thread. Around an ``async def`` handler it is held in a thread of this
        event, in which the async calls of the ORM and ``sync_to_async`` run as well. Calls with
        ``thread_sensitive=False`` are outside of the transaction. Tasks that the handler starts must end
        before it returns. Raises ``InvalidHandler``.
        """
        shape = inspect_handler(handler)
        wrap = self._async_handler if shape.is_async else self._plain_handler
        handle: Any = wrap(handler, shape.takes_delivery)
        functools.update_wrapper(handle, handler, assigned=_NAMES, updated=())
        del handle.__wrapped__  # the bus asks the wrapper for its parameters
        wrapped: Callable[..., Any] = handle
        return wrapped

    def _plain_handler(self, handler: Callable[..., None], takes_delivery: bool) -> Callable[..., None]:
        def handle(event: Any, delivery: Delivery) -> None:
            using = outbox_settings().using
            with transaction.atomic(using=using):
                if not self._mark(using, delivery):
                    return
                if takes_delivery:
                    handler(event, delivery)
                else:
                    handler(event)
            self._clean_sometimes(using)

        return handle

    def _async_handler(
        self, handler: Callable[..., Awaitable[None]], takes_delivery: bool
    ) -> Callable[..., Awaitable[None]]:
        async def handle(event: Any, delivery: Delivery) -> None:
            using = outbox_settings().using
            arguments = (event, delivery) if takes_delivery else (event,)
            async with ThreadSensitiveContext():  # the thread that the bus gives to the event, or a new one
                if await self._handle_async(using, delivery, lambda: handler(*arguments)):
                    await sync_to_async(self._clean_sometimes)(using)

        return handle

    async def _handle_async(
        self, using: str, delivery: Delivery, call: Callable[[], Awaitable[None]]
    ) -> bool:
        """Returns False if the event has been handled before. Each step in the thread runs to its end."""
        block = transaction.atomic(using=using)

        def begin() -> bool:
            block.__enter__()
            try:
                fresh = self._mark(using, delivery)
            except BaseException:
                block.__exit__(*sys.exc_info())
                raise
            if not fresh:
                block.__exit__(None, None, None)
            return fresh

        begun, cancelled = await _to_its_end(begin)
        if not begun.result():
            if cancelled:
                raise asyncio.CancelledError
            return False
        try:
            if cancelled:
                raise asyncio.CancelledError
            await call()
        except BaseException as error:
            ended, _ = await _to_its_end(block.__exit__, type(error), error, error.__traceback__)
            ended.result()
            raise
        ended, cancelled = await _to_its_end(block.__exit__, None, None, None)
        ended.result()
        if cancelled:
            raise asyncio.CancelledError
        return True

    def _mark(self, using: str, delivery: Delivery) -> bool:
        """Marks the event, and returns True if it is to be handled. Waits for another delivery of it."""
        connection = connections[using]
        check_vendor(connection)
        table = quoted(connection, MARKS)
        columns = quoted(connection, *_KEY, "handled_at")
        service = delivery.group.removesuffix(delivery.subscription).removesuffix(".")
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} ({columns}) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [
                    service,
                    delivery.subscription,
                    delivery.topic,
                    delivery.message_id,
                    moment(connection, datetime.now(UTC)),
                ],
            )
            if cursor.rowcount == 1:
                return True
        told = delivery.message_id, delivery.topic, delivery.group
        if delivery.redriven:
            logger.warning(
                "the event %s of %s was handled by %s before, and is again: it was redriven", *told
            )
            return True
        logger.info("the event %s of %s was handled by %s before: it is acknowledged", *told)
        return False

    def clean(self) -> int:
        """Deletes the marks that were kept long enough, in chunks; returns their number.

        Handlers do so now and then, a chunk at a time.
        """
        using, total = outbox_settings().using, 0
        while True:
            count = self._clean(using)
            total += count
            if count < _CHUNK:
                return total

    def _clean_sometimes(self, using: str) -> None:
        now = lease_clock()
        if self._cleaned is not None and now - self._cleaned < _CLEANING:
            return
        self._cleaned = now
        try:
            self._clean(using)
        except Exception as error:  # the event is handled, and its mark is there
            logger.warning("old marks could not be deleted: %s; trying again later", str(error))

    def _clean(self, using: str) -> int:
        connection = connections[using]
        table, key = quoted(connection, MARKS), quoted(connection, *_KEY)
        old = f"SELECT {key} FROM {table} WHERE handled_at < %s LIMIT {_CHUNK}"
        with connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {table} WHERE ({key}) IN ({old})",
                [moment(connection, datetime.now(UTC) - self._keep)],
            )
            return int(cursor.rowcount)


async def _to_its_end(function: Callable[..., T], *arguments: Any) -> tuple[asyncio.Task[T], bool]:
    """Calls a function in the thread of the present context, and waits for it also when it is cancelled.

    A transaction that is half begun or half ended would stay in the thread. Returns the ended task, and True
    if there was a cancellation.
    """
    work = asyncio.create_task(sync_to_async(function)(*arguments))
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            cancelled = True
    return work, cancelled
