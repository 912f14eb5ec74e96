"""Removes old events from the file, and never those that a group has not settled.

The age of an event counts from the first check that found it, so it does not depend on the time of day.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import attrs

from bus_core.adapters import matches
from promenade_bus_sqlite.config import RetentionOptions
from promenade_bus_sqlite.losses import note_loss
from promenade_bus_sqlite.topics import Topics

__all__ = ["Retention"]

_AT_ONCE: Final = 2_000
"""The most events that one transaction removes, because others have to write, too."""

_TOPICS: Final = 200
"""The topics that one transaction checks; the next transaction checks the next ones."""

_MARKS: Final = 50
"""The least number of checks within an age that are remembered."""


@attrs.frozen
class _Reader:
    """A subscription: everything of its topics before ``settled`` is settled."""

    group: str
    pattern: str
    cursor: int
    settled: int


class Retention:
    """Applies the retention repeatedly. Used in the worker's thread only."""

    def __init__(self, options: RetentionOptions, topics: Topics) -> None:
        self.removed = 0
        self._options = options
        self._topics = topics
        self._next = 0

    @property
    def interval(self) -> float:
        """Seconds between two runs."""
        return min(30.0, max(0.2, self._options.min_age / _MARKS))

    def step(self, db: sqlite3.Connection, now: float) -> bool:
        """Removes expired events, or a part of them. Returns True if there is more to do at once."""
        options = self._options
        self._topics.learn(db)
        (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM promenade_event").fetchone()
        self._mark(db, now, last)
        aged = self._aged(db, now - options.min_age) if options.min_age else last
        old = self._aged(db, now - options.unsubscribed_max_age) if options.unsubscribed_max_age else last
        readers = self._readers(db)
        names = [*self._topics.names.items()]
        part = names[self._next : self._next + _TOPICS]
        self._next = 0 if self._next + _TOPICS >= len(names) else self._next + _TOPICS
        more = self._next > 0
        left = _AT_ONCE
        for number, name in part:
            (first,) = db.execute(
                "SELECT min(seq) FROM promenade_event WHERE topic = ?", (number,)
            ).fetchone()
            if first is None:
                continue
            mine = [each for each in readers if matches(each.pattern, name)]
            left -= self._cap(db, number, name, mine)
            bound = min([aged, *(each.settled for each in mine)]) if mine else old
            if first <= bound:
                left -= self._remove(db, number, bound, left)
                if left <= 0:
                    return True
        left -= self._remove_redriven(db, left)
        return more or left <= 0

    def _mark(self, db: sqlite3.Connection, now: float, last: int) -> None:
        """Records the last event number with the time. Merges marks older than every age."""
        (marked,) = db.execute("SELECT coalesce(max(seq), 0) FROM promenade_mark").fetchone()
        if last > marked:
            db.execute("INSERT INTO promenade_mark VALUES (?, ?)", (now, last))
        oldest = now - max(self._options.min_age, self._options.unsubscribed_max_age)
        db.execute(
            "DELETE FROM promenade_mark WHERE at < (SELECT max(at) FROM promenade_mark WHERE at <= ?)",
            (oldest,),
        )
        # Of those in between, one for each interval is enough, and fewer for long ages.
        (count,) = db.execute("SELECT count(*) FROM promenade_mark").fetchone()
        if count > 4 * _MARKS:
            db.execute(
                "DELETE FROM promenade_mark WHERE rowid IN (SELECT rowid FROM (SELECT rowid, row_number()"
                " OVER (ORDER BY at) AS place FROM promenade_mark) WHERE place % 2 = 0 AND place <= ?)",
                (count - _MARKS,),
            )

    @staticmethod
    def _aged(db: sqlite3.Connection, since: float) -> int:
        """Returns the last event that existed at a time, or 0 if there is no mark before it."""
        (seq,) = db.execute(
            "SELECT coalesce(max(seq), 0) FROM promenade_mark WHERE at <= ?", (since,)
        ).fetchone()
        return int(seq)

    @staticmethod
    def _readers(db: sqlite3.Connection) -> Sequence[_Reader]:
        rows = db.execute(
            "SELECT service_group, pattern, cursor, (SELECT min(seq) FROM promenade_delivery"
            " WHERE subscription = id) FROM promenade_subscription"
        ).fetchall()
        return [
            _Reader(group, pattern, cursor, cursor if held is None else min(cursor, held - 1))
            for group, pattern, cursor, held in rows
        ]

    def _remove(self, db: sqlite3.Connection, topic: int, bound: int, most: int) -> int:
        removed = db.execute(
            "DELETE FROM promenade_event WHERE seq IN"
            " (SELECT seq FROM promenade_event WHERE topic = ? AND seq <= ? ORDER BY seq LIMIT ?)",
            (topic, bound, most),
        ).rowcount
        self.removed += removed
        return removed

    def _remove_redriven(self, db: sqlite3.Connection, most: int) -> int:
        """Removes redriven events that are settled, as no delivery refers to them any more."""
        if db.execute("SELECT 1 FROM promenade_event WHERE topic < 0 LIMIT 1").fetchone() is None:
            return 0
        return db.execute(
            "DELETE FROM promenade_event WHERE seq IN (SELECT seq FROM promenade_event WHERE topic < 0"
            " AND seq NOT IN (SELECT seq FROM promenade_delivery) LIMIT ?)",
            (most,),
        ).rowcount

    def _cap(self, db: sqlite3.Connection, topic: int, name: str, readers: Sequence[_Reader]) -> int:
        """Removes events beyond ``max_length``, and counts for each group the ones that it had not received.

        Deliveries of such events are counted when they would be delivered again.
        """
        if self._options.max_length is None:
            return 0
        (count,) = db.execute("SELECT count(*) FROM promenade_event WHERE topic = ?", (topic,)).fetchone()
        beyond = min(count - self._options.max_length, _AT_ONCE)
        if beyond <= 0:
            return 0
        (bound,) = db.execute(
            "SELECT max(seq) FROM (SELECT seq FROM promenade_event WHERE topic = ? ORDER BY seq LIMIT ?)",
            (topic, beyond),
        ).fetchone()
        for reader in readers:
            (unread,) = db.execute(
                "SELECT count(*) FROM promenade_event WHERE topic = ? AND seq > ? AND seq <= ?",
                (topic, reader.cursor, bound),
            ).fetchone()
            note_loss(db, reader.group, name, "max_length", unread)
        return self._remove(db, topic, bound, beyond)
