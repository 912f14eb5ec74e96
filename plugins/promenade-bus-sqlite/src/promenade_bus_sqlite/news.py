"""Events that other processes have stored since the last check, so that only affected consumers wake."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping
from typing import Final

import attrs

from promenade_bus_sqlite.file import File
from promenade_bus_sqlite.topics import Topics

__all__ = ["News", "Newsroom"]

_MOST_EVENTS: Final = 2_000
"""The number of new events whose topics are looked up; with more, all consumers are woken."""


@attrs.frozen
class News:
    """The topics with new events, None for any, and the subscriptions with deliveries that can be claimed."""

    topics: Collection[str] | None = ()
    subscriptions: Collection[int] = ()
    somebody_died: bool = False


class Newsroom:
    """Looks for news. Used in the worker's thread only. ``dead`` returns the dead owners."""

    def __init__(self, file: File, topics: Topics, dead: Callable[[], Mapping[str, int | None]]) -> None:
        self._dead = dead
        self._file = file
        self._topics = topics
        self._seen = 0
        self._told: Mapping[str, int | None] = {}

    def look(self, db: sqlite3.Connection) -> News:
        """The news since the last look."""
        (last,) = db.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'promenade_event'"
        ).fetchone()
        topics: Collection[str] | None = ()
        if last - self._seen > _MOST_EVENTS:
            topics = None
        elif last > self._seen:
            rows = db.execute(
                "SELECT DISTINCT topic FROM promenade_event WHERE seq > ?", (self._seen,)
            ).fetchall()
            topics = [self._topics.name_of(db, number) for (number,) in rows if number > 0]
        self._seen = last
        free = db.execute(
            "SELECT DISTINCT subscription FROM promenade_delivery WHERE owner = 0 AND due <= ?",
            (self._file.now(),),
        ).fetchall()
        dead, told = self._dead(), self._told
        self._told = dead
        died = any(name not in told or told[name] != beats for name, beats in dead.items())
        return News(topics, {number for (number,) in free}, died)
