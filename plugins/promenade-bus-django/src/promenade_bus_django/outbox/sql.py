"""The statements of the outbox and the inbox, as both databases take them.

It names the tables, so that what writes to them needs no models, which need the settings of a project.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["EVENTS", "MARKS", "check_vendor", "moment", "partition_of", "quoted", "transaction_id"]

EVENTS: Final = "promenade_outbox"
"""The table of events."""

MARKS: Final = "promenade_inbox"
"""The table of handled events."""

PARTITIONS: Final = 32
"""The number of parts into which keys are divided, for every relay and every writer."""

_TRANSACTION_IDS: Final = {
    "postgresql": "CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)",
    "sqlite": "0",  # it has one writer
}


def check_vendor(connection: BaseDatabaseWrapper) -> None:
    """Raises ``ImproperlyConfigured`` for a database that the outbox does not work on."""
    if connection.vendor not in _TRANSACTION_IDS:
        raise ImproperlyConfigured(
            f"the outbox works on PostgreSQL and SQLite; the database {connection.alias!r} is "
            f"{connection.display_name}"
        )


def transaction_id(connection: BaseDatabaseWrapper) -> str:
    """The expression for the id of the transaction that writes a row."""
    check_vendor(connection)
    return _TRANSACTION_IDS[connection.vendor]


def moment(connection: BaseDatabaseWrapper, at: datetime) -> Any:
    """A moment as the relay reads it: in UTC, whatever the time zone of the project is."""
    at = at.astimezone(UTC)
    return at if connection.vendor == "postgresql" else at.strftime("%Y-%m-%d %H:%M:%S.%f")


def quoted(connection: BaseDatabaseWrapper, *names: str) -> str:
    """Names for a statement, with commas between them."""
    return ", ".join(map(connection.ops.quote_name, names))


def partition_of(key: str) -> int:
    """The partition of a key: the one that every relay assigns to it."""
    return zlib.crc32(key.encode()) % PARTITIONS
