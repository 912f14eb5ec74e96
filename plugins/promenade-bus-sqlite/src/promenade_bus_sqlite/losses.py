"""Losses, counted in the file itself, in the transaction that lost them."""

from __future__ import annotations

import sqlite3

__all__ = ["count_losses", "note_loss"]


def note_loss(db: sqlite3.Connection, group: str, topic: str, reason: str, events: int) -> None:
    """Counts events that a group will never get."""
    if events > 0:
        db.execute(
            "INSERT INTO promenade_loss VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET events = events + excluded.events",
            (group, topic, reason, events),
        )


def count_losses(db: sqlite3.Connection) -> int:
    """The number of events that groups have lost since the file was made."""
    (events,) = db.execute("SELECT coalesce(sum(events), 0) FROM promenade_loss").fetchone()
    return int(events)
