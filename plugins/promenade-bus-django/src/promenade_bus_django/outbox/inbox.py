"""The inbox: a handler's effects and the mark that it has handled an event, in one transaction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, overload

from django.db import connections, transaction

from bus_core import Delivery, Event, InvalidHandler
from bus_core.dispatch import inspect_handler
from bus_core.runtime import lease_clock, plain_logger
from promenade_bus_django.outbox.conf import outbox_settings
from promenade_bus_django.outbox.sql import MARKS, check_vendor, moment, quoted

__all__ = ["Inbox"]

E = TypeVar("E", bound=Event[Any])

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
    def handler(self, handler: Callable[[E], None]) -> Callable[[E, Delivery], None]: ...
    @overload
    def handler(self, handler: Callable[[E, Delivery], None]) -> Callable[[E, Delivery], None]: ...
    def handler(self, handler: Callable[..., None]) -> Callable[..., None]:
        """Runs a handler in a transaction, with the mark of the event; the decorator below ``subscribe``.

        The transaction is committed when the handler returns, and rolled back when it raises. An event with a
        mark is acknowledged, and the handler is not called, unless somebody has redriven it as a dead
        letter. The handler is a plain function: Django has no async transactions. Raises ``InvalidHandler``.
        """
        shape = inspect_handler(handler)
        if shape.is_async:
            raise InvalidHandler(
                f"{shape.qualified_name} has to be a plain function: Django has no async transactions"
            )

        def handle(event: Any, delivery: Delivery) -> None:
            using = outbox_settings().using
            with transaction.atomic(using=using):
                if not self._mark(using, delivery):
                    return
                if shape.takes_delivery:
                    handler(event, delivery)
                else:
                    handler(event)
            self._clean_sometimes(using)

        functools.update_wrapper(handle, handler, assigned=_NAMES, updated=())
        del handle.__wrapped__  # type: ignore[attr-defined]  # the bus asks the wrapper for its parameters
        return handle

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
