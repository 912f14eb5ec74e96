"""The topics of a database and their numbers. Topics are added, and never removed.

A database that is restored, or that fails over, may come back with other numbers. So numbers are only ever
used in a statement that also finds out that they are still right: by their names, or by their mark.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

from bus_core.adapters import matches
from promenade_bus_postgres.connections import Connection, Sql

__all__ = ["TOPICS_MARK", "Topics"]

_MARK_OF_ONE: Final = "mod(hashtextextended(name, id), 2147483648)::integer"

TOPICS_MARK: Final = f"(SELECT coalesce(sum({_MARK_OF_ONE}), 0)::bigint FROM promenade_topic)"
"""A number that says which topics there are, and what their numbers are.

Numbers become visible in any order, so no largest one tells of new topics.
"""

_ALL: Final = f"SELECT id, name, {_MARK_OF_ONE} FROM promenade_topic"
_ADD: Final = """INSERT INTO promenade_topic (name)
SELECT unnest(%s::text[]) EXCEPT SELECT name FROM promenade_topic ON CONFLICT DO NOTHING"""


class Topics:
    """The rows of the table of topics as they were last seen. Safe to use from threads."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._guard = threading.Lock()
        self._names: Mapping[int, str] = {}
        self._ids: Mapping[str, int] = {}
        self._mark = 0
        self._matching: dict[str, tuple[int, list[int]]] = {}

    def learn(self, connection: Connection) -> Mapping[str, int]:
        """Loads the topics, in place of all that was known, and returns their numbers."""
        rows = connection.execute(self._sql(_ALL)).fetchall()
        names = {int(number): str(name) for number, name, _ in rows}
        ids = {name: number for number, name in names.items()}
        with self._guard:
            self._names, self._ids = names, ids
            self._mark = sum(mark for _, _, mark in rows)
        return ids

    def add(self, connection: Connection, names: Iterable[str]) -> Mapping[str, int]:
        """The numbers of topics; new topics are added, and committed. The numbers may be out of date."""
        wanted, known = dict.fromkeys(names), self._ids
        missing = [name for name in wanted if name not in known]
        if missing:
            connection.execute(self._sql(_ADD), (missing,))
            known = self.learn(connection)
        return {name: known[name] for name in wanted}

    def known_id_of(self, name: str) -> int | None:
        """The number of a topic when the topics were last seen."""
        return self._ids.get(name)

    def known_name_of(self, number: int) -> str:
        """The name of a topic when they were last seen, also for a redriven event; empty if unknown."""
        return self._names.get(abs(number), "")

    def matching(self, pattern: str) -> tuple[int, list[int]]:
        """The mark of the known topics, and the numbers of those that match a pattern."""
        with self._guard:
            mark = self._mark
            before = self._matching.get(pattern)
            if before is None or before[0] != mark:
                found = [number for number, name in self._names.items() if matches(pattern, name)]
                before = self._matching[pattern] = mark, found
            return before
