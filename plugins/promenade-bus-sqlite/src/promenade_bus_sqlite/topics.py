"""The topics of a file and their numbers. Used in the worker's thread only."""

from __future__ import annotations

import sqlite3

__all__ = ["Topics"]


class Topics:
    """The known rows of the table of topics. Topics are added, and never removed."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._ids: dict[str, int] = {}

    def forget(self) -> None:
        """Handles a rolled back transaction, whose new topics are gone too."""
        self.names.clear()
        self._ids.clear()

    def learn(self, db: sqlite3.Connection) -> None:
        """Loads topics that other processes have added."""
        known = next(reversed(self.names), 0)
        rows = db.execute("SELECT id, name FROM promenade_topic WHERE id > ? ORDER BY id", (known,))
        for number, name in rows.fetchall():
            self.names[number] = name
            self._ids[name] = number

    def id_of(self, db: sqlite3.Connection, name: str) -> int | None:
        """Returns the number of a topic, or None if nobody has published to it yet."""
        number = self._ids.get(name)
        if number is None:
            self.learn(db)
            number = self._ids.get(name)
        return number

    def add(self, db: sqlite3.Connection, name: str) -> int:
        """Returns the number of a topic, and adds a new topic. Call it in a transaction."""
        number = self.id_of(db, name)
        if number is None:
            db.execute("INSERT INTO promenade_topic (name) VALUES (?)", (name,))
            self.learn(db)
            number = self._ids[name]
        return number

    def name_of(self, db: sqlite3.Connection, number: int) -> str:
        """Returns the name of a topic, also for a redriven event. Empty for an unknown number."""
        number = abs(number)
        if number not in self.names:
            self.learn(db)
        return self.names.get(number, "")
