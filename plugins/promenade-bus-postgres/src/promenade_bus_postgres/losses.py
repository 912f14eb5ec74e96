"""Losses, counted in the database itself, in the transaction that lost them."""

from __future__ import annotations

from typing import Final

from promenade_bus_postgres.connections import Connection, Sql

__all__ = ["count_losses", "note_loss"]

_NOTE: Final = """INSERT INTO promenade_loss VALUES (%s, %s, %s, %s)
ON CONFLICT (service_group, topic, reason) DO UPDATE SET events = promenade_loss.events + excluded.events"""

_COUNT: Final = "SELECT coalesce(sum(events), 0)::bigint FROM promenade_loss"


def note_loss(connection: Connection, sql: Sql, group: str, topic: str, reason: str, events: int) -> None:
    """Counts events that a group will never get."""
    if events > 0:
        connection.execute(sql(_NOTE), (group, topic, reason, events))


def count_losses(connection: Connection, sql: Sql) -> int:
    """The number of events that groups have lost since the tables were made."""
    row = connection.execute(sql(_COUNT)).fetchone()
    return 0 if row is None else int(row[0])
