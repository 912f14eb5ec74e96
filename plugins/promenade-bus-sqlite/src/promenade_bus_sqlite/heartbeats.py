"""Heartbeats in the file, over a separate connection; see ``bus_core.adapters.Heartbeats``."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress

from promenade_bus_sqlite.claiming import Owner
from promenade_bus_sqlite.failures import failure_of
from promenade_bus_sqlite.file import File

__all__ = ["HeartbeatTable"]

_BEAT = """INSERT INTO promenade_owner (id, name, subscription, beats) VALUES (?, ?, ?, 1)
ON CONFLICT DO UPDATE SET beats = beats + 1"""

_GONE = """DELETE FROM promenade_owner WHERE name = ?
AND NOT EXISTS (SELECT 1 FROM promenade_delivery AS held
    WHERE held.subscription = promenade_owner.subscription AND held.owner = promenade_owner.id)
AND NOT EXISTS (SELECT 1 FROM promenade_subscription AS turn WHERE turn.active = promenade_owner.id)"""


class HeartbeatTable:
    """Stores heartbeats in the file. ``owners`` are those of this process by their names."""

    def __init__(self, file: File) -> None:
        self.owners: dict[str, Owner] = {}
        self._file = file
        self._db: sqlite3.Connection | None = None
        self._guard = threading.Lock()

    def beat(self, owners: Sequence[str], gone: Sequence[str]) -> list[tuple[str, int]]:
        """One transaction, however much this process holds. Raises ``SqliteFailure``."""
        with self._guard:
            try:
                return self._beat(owners, gone)
            except sqlite3.Error as error:
                self._disconnect()
                raise failure_of(self._file.path, error) from error

    def _beat(self, owners: Sequence[str], gone: Sequence[str]) -> list[tuple[str, int]]:
        self._file.check_identity()
        if self._db is None:
            self._db = self._file.connect()
        db = self._db
        own = [self.owners[name] for name in owners if name in self.owners]
        self._file.patiently(db, "BEGIN IMMEDIATE")
        try:
            db.executemany(_GONE, [(name,) for name in gone])
            db.executemany(_BEAT, [(each.number, each.name, each.subscription) for each in own])
            found = db.execute("SELECT name, beats FROM promenade_owner").fetchall()
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return found

    def close(self) -> None:
        """Closes the connection; the heartbeats have stopped."""
        with self._guard:
            self._disconnect()

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()
