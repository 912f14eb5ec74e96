"""``outbox.publish``: an event becomes a row of the transaction that causes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, overload

from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.utils.asyncio import async_unsafe

from bus_core import Event, Message, Topic
from promenade_bus_django.facade import DjangoBus, bus
from promenade_bus_django.outbox.conf import outbox_settings
from promenade_bus_django.outbox.sql import EVENTS, moment, partition_of, quoted, transaction_id
from promenade_bus_django.outbox.wakers import RELAYS

__all__ = ["DjangoOutbox", "outbox"]

E = TypeVar("E", bound=Event[Any])

_COLUMNS: Final = ("transaction_id", "partition", "event_id", "topic", "key", "headers", "body", "written_at")


class DjangoOutbox:
    """Publishes events with the transaction: they exist exactly when it was committed.

    Import it as ``from promenade_bus_django.outbox import outbox``. A relay takes the rows to the bus.
    """

    def __init__(self, bus: DjangoBus) -> None:
        self._bus = bus

    @overload
    def publish(self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None) -> None: ...
    @overload
    def publish(self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None) -> None: ...
    @async_unsafe("Call outbox.publish and its transaction in sync_to_async.")
    def publish(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Publishes the event if the open transaction is committed, with its savepoint.

        The row is written at once. Publish after the change that causes the event, so that a lock on the
        changed row puts the events of a key in the order of the changes. Raises
        ``TransactionManagementError`` outside of ``transaction.atomic()``, and what ``Bus.prepare_nowait``
        raises.
        """
        using = outbox_settings().using
        connection = connections[using]
        if not connection.in_atomic_block:
            raise TransactionManagementError(
                "outbox.publish has to be called inside of transaction.atomic()"
                + (f" of the database {using!r}" if using != "default" else "")
                + ": the event exists exactly when that transaction is committed"
            )
        if self._bus.is_inline:  # in a test no relay looks for the row
            self._bus.publish_on_commit(topic, event, headers=headers, using=using)
            return
        message = self._bus.made().bus.prepare_nowait(topic, event, headers=headers)
        if message is None:  # a publish middleware let it go no further
            return
        self._write(using, message)
        transaction.on_commit(RELAYS.wake, using, robust=True)

    def _write(self, using: str, message: Message) -> None:
        connection = connections[using]
        table, columns = quoted(connection, EVENTS), quoted(connection, *_COLUMNS)
        values = ", ".join([transaction_id(connection), *["%s"] * (len(_COLUMNS) - 1)])
        database: Any = connection.Database  # type: ignore[attr-defined]  # the module of the driver
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} ({columns}) VALUES ({values})",
                [
                    partition_of(message.key),
                    message.id,
                    message.topic,
                    message.key,
                    json.dumps(dict(message.headers)) if message.headers else None,
                    database.Binary(message.body),
                    moment(connection, datetime.now(UTC)),
                ],
            )


outbox: Final = DjangoOutbox(bus)
"""The outbox of the project."""
