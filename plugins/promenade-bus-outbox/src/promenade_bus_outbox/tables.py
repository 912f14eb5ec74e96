"""The tables of the outbox and the inbox, in the application's own metadata."""

from __future__ import annotations

from typing import Any

import attrs
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["OutboxTables", "outbox_tables"]


class _CurrentTransaction(FunctionElement[int]):
    """The 64-bit id of the transaction that writes the row, on PostgreSQL; 0 where there is one writer."""

    type = BigInteger()
    name = "promenade_current_transaction"
    inherit_cache = True


@compiles(_CurrentTransaction)
def _none(element: Any, compiler: Any, **options: Any) -> str:
    return "0"


@compiles(_CurrentTransaction, "postgresql")
def _xid8(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)"


@attrs.frozen
class OutboxTables:
    """The tables that ``outbox_tables`` has added to a metadata.

    - ``events``: a row for each event that waits, that is kept, or that the bus has refused.
    - ``partitions``: which relay delivers the events of which keys.
    - ``relays``: the relays that run.
    - ``marks``: the events that a subscription of an ``Inbox`` has handled.
    """

    events: Table
    partitions: Table
    relays: Table
    marks: Table

    def __iter__(self) -> Any:
        return iter((self.events, self.partitions, self.relays, self.marks))


def outbox_tables(
    metadata: MetaData, *, prefix: str = "promenade_", schema: str | None = None
) -> OutboxTables:
    """Adds the tables to a metadata, for ``metadata.create_all`` or migrations to create.

    Their names begin with ``prefix``. Asking again for the same names gives the same tables.
    """

    def table(name: str, *parts: Any) -> Table:
        full = f"{prefix}{name}"
        known = metadata.tables.get(full if schema is None else f"{schema}.{full}")
        return known if known is not None else Table(full, metadata, *parts, schema=schema)

    big = BigInteger().with_variant(Integer(), "sqlite")  # only an INTEGER key counts up by itself there
    moment = DateTime(timezone=True)
    events = table(
        "outbox",
        Column("position", big, primary_key=True, autoincrement=True),
        Column("transaction_id", BigInteger, nullable=False, default=_CurrentTransaction()),
        Column("partition", SmallInteger, nullable=False),
        Column("event_id", Text, nullable=False),
        Column("topic", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("headers", Text),
        Column("body", LargeBinary, nullable=False),
        Column("written_at", moment, nullable=False),
        Column("delivered_at", moment),
        Column("refused_at", moment),
        Column("cause", Text),
    )
    if not events.indexes:
        waiting = events.c.delivered_at.is_(None) & events.c.refused_at.is_(None)
        Index(
            f"{prefix}outbox_waiting",
            events.c.position,
            postgresql_where=waiting,
            sqlite_where=waiting,
        )
        delivered = events.c.delivered_at.is_not(None)
        Index(
            f"{prefix}outbox_delivered",
            events.c.delivered_at,
            postgresql_where=delivered,
            sqlite_where=delivered,
        )
        refused = events.c.refused_at.is_not(None)
        Index(f"{prefix}outbox_refused", events.c.key, postgresql_where=refused, sqlite_where=refused)
        # A position is never used again, because events are delivered in the order of positions.
        events.dialect_options["sqlite"]["autoincrement"] = True
    partitions = table(
        "outbox_partition",
        Column("partition", SmallInteger, primary_key=True, autoincrement=False),
        Column("owner", Text),
        Column("heartbeat", BigInteger, nullable=False),
    )
    relays = table(
        "outbox_relay",
        Column("relay", Text, primary_key=True),
        Column("heartbeat", BigInteger, nullable=False),
    )
    marks = table(
        "inbox",
        Column("service", Text, primary_key=True),
        Column("subscription", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("event_id", Text, primary_key=True),
        Column("handled_at", moment, nullable=False),
    )
    if not marks.indexes:
        Index(f"{prefix}inbox_handled", marks.c.handled_at)
    return OutboxTables(events, partitions, relays, marks)
