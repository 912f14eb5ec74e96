"""The tables, their columns, and the partitions of keys: every writer and every relay agrees on them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

__all__ = ["COLUMNS", "PARTITIONS", "TableName", "TableNames", "partition_of"]

PARTITIONS: Final = 32
"""The number of partitions of keys. It must never change: two relays could own one key meanwhile."""

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "events": (
        *("position", "transaction_id", "partition", "event_id", "topic", "key", "headers", "body"),
        *("written_at", "delivered_at", "refused_at", "cause"),
    ),
    "partitions": ("partition", "owner", "heartbeat"),
    "relays": ("relay", "heartbeat"),
    "marks": ("service", "subscription", "topic", "event_id", "handled_at"),
}
"""The columns of each table, by its attribute in ``TableNames``."""


@attrs.frozen
class TableName:
    """The name of a table; ``str`` writes it for a statement, in quotes."""

    name: str
    schema: str | None = None

    @property
    def shown(self) -> str:
        """The name in messages."""
        return self.name if self.schema is None else f"{self.schema}.{self.name}"

    def __str__(self) -> str:
        return ".".join(_quoted(part) for part in (self.schema, self.name) if part is not None)


@attrs.frozen
class TableNames:
    """The names of the tables of one outbox."""

    events: TableName
    partitions: TableName
    relays: TableName
    marks: TableName

    @classmethod
    def of(cls, prefix: str, schema: str | None) -> TableNames:
        """The names that begin with ``prefix``, as ``outbox_tables`` makes them."""
        names = ("outbox", "outbox_partition", "outbox_relay", "inbox")
        return cls(*(TableName(f"{prefix}{name}", schema) for name in names))

    def __iter__(self) -> Iterator[tuple[TableName, tuple[str, ...]]]:
        """Each table with its columns."""
        return ((getattr(self, attribute), columns) for attribute, columns in COLUMNS.items())


def partition_of(key: str) -> int:
    """The partition of a key, the same in every process and every version of Python."""
    return zlib.crc32(key.encode()) % PARTITIONS


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
