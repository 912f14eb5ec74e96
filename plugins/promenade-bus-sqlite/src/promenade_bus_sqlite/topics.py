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
        """A transaction was undone, and topics that it added with it."""
        self.names.clear()
        self._ids.clear()

    def learn(self, db: sqlite3.Connection) -> None:
        """Takes in what others have added."""
        known = next(reversed(self.names), 0)
        rows = db.execute("SELECT id, name FROM promenade_topic WHERE id > ? ORDER BY id", (known,))
        for number, name in rows.fetchall():
            self.names[number] = name
            self._ids[name] = number

    def id_of(self, db: sqlite3.Connection, name: str) -> int | None:
        """The number of a topic; None where nobody has published it yet."""
        number = self._ids.get(name)
        if number is None:
            self.learn(db)
            number = self._ids.get(name)
        return number

    def add(self, db: sqlite3.Connection, name: str) -> int:
        """The number of a topic, which is added where it is new: in a transaction."""
        number = self.id_of(db, name)
        if number is None:
            db.execute("INSERT INTO promenade_topic (name) VALUES (?)", (name,))
            self.learn(db)
            number = self._ids[name]
        return number

    def name_of(self, db: sqlite3.Connection, number: int) -> str:
        """The name of a topic, or of that of a redriven event; empty for a number that nobody has given."""
        number = abs(number)
        if number not in self.names:
            self.learn(db)
        return self.names.get(number, "")
