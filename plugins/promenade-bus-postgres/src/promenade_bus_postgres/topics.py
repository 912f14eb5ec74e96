"""The topics of a database and their numbers. Topics are added, and never removed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from bus_core.adapters import matches
from promenade_bus_postgres.connections import Connection, Sql

__all__ = ["Topics"]

_ALL = "SELECT id, name FROM promenade_topic"
_ADD = """INSERT INTO promenade_topic (name) SELECT unnest(%s::text[]) EXCEPT SELECT name FROM promenade_topic
ON CONFLICT DO NOTHING"""


class Topics:
    """The known rows of the table of topics. Safe to use from threads.

    Numbers become visible in any order, so the rows are counted: who knows as many as there are knows all.
    """

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._guard = threading.Lock()
        self._names: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self._matching: dict[str, tuple[int, list[int]]] = {}

    def learn(self, connection: Connection) -> None:
        """Loads the topics that others have added."""
        rows = connection.execute(self._sql(_ALL)).fetchall()
        with self._guard:
            for number, name in rows:
                self._names[number] = name
                self._ids[name] = number

    def add(self, connection: Connection, names: Iterable[str]) -> Sequence[int]:
        """The numbers of topics; new topics are added, and committed."""
        wanted = [*names]
        missing = [name for name in dict.fromkeys(wanted) if name not in self._ids]
        if missing:
            connection.execute(self._sql(_ADD), (missing,))
            self.learn(connection)
        return [self._ids[name] for name in wanted]

    def id_of(self, connection: Connection, name: str) -> int | None:
        """The number of a topic, or None if nobody has published to it yet."""
        if name not in self._ids:
            self.learn(connection)
        return self._ids.get(name)

    def known_id_of(self, name: str) -> int | None:
        """The number of a topic, without a look at the database."""
        return self._ids.get(name)

    def name_of(self, connection: Connection, number: int) -> str:
        """The name of a topic, also for a redriven event. Empty for an unknown number."""
        if abs(number) not in self._names:
            self.learn(connection)
        return self._names.get(abs(number), "")

    def known_name_of(self, number: int) -> str:
        """The same, without a look at the database."""
        return self._names.get(abs(number), "")

    def matching(self, pattern: str) -> tuple[int, list[int]]:
        """The number of known topics, and the numbers of those that match a pattern."""
        with self._guard:
            count = len(self._names)
            before = self._matching.get(pattern)
            if before is None or before[0] != count:
                found = [number for number, name in self._names.items() if matches(pattern, name)]
                before = self._matching[pattern] = count, found
            return before
