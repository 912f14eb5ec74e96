"""Dead letters in the file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from bus_core import DeadLetterFilter
from bus_core.adapters import StoredDeadLetters, row_for, text_of_attempts, text_of_headers
from promenade_bus_sqlite.publishing import insert_events
from promenade_bus_sqlite.services import Services
from promenade_bus_sqlite.siblings import siblings_of

__all__ = ["SqliteDeadLetters"]

T = TypeVar("T")


class SqliteDeadLetters(StoredDeadLetters[sqlite3.Connection]):
    """Implements ``bus_core.DeadLetterStore``; it skips rows that another program has written."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def read(self, run: Callable[[sqlite3.Connection], T]) -> Awaitable[T]:
        return self._services.worker.read(run)

    def write(self, run: Callable[[sqlite3.Connection], T]) -> Awaitable[T]:
        return self._services.worker.write(run)

    def rows(
        self,
        db: sqlite3.Connection,
        topic: str | None,
        where: DeadLetterFilter,
        behind: int,
        limit: int,
    ) -> Sequence[tuple[int, str]]:
        conditions = ["number > ?"]
        values: list[Any] = [behind]
        for column, value in (("topic", topic), ("subscription", where.subscription)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if where.ids is not None:
            conditions.append("id IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(sorted(where.ids)))
        columns = "SELECT number, text FROM promenade_letter"
        wanted = f"{columns} WHERE {' AND '.join(conditions)} ORDER BY number LIMIT ?"
        return db.execute(wanted, (*values, limit)).fetchall()

    def text(self, db: sqlite3.Connection, letter_id: str) -> str | None:
        row = db.execute("SELECT text FROM promenade_letter WHERE id = ?", (letter_id,)).fetchone()
        return None if row is None else row[0]

    def delete(self, db: sqlite3.Connection, numbers: Sequence[int]) -> int:
        db.executemany("DELETE FROM promenade_letter WHERE number = ?", [(number,) for number in numbers])
        return len(numbers)

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Moves letters back, each once; all or, when one has no subscription, none."""
        ids = list(dict.fromkeys(letter_ids))
        woken: set[int] = set()

        def run(db: sqlite3.Connection) -> int:
            woken.clear()
            found = [letter_id for letter_id in ids if self._move(db, letter_id, woken)]
            return len(found)

        moved = await self._services.worker.write(run)
        for subscription in woken:
            self._services.woken(subscription)
        return moved

    def _move(self, db: sqlite3.Connection, letter_id: str, woken: set[int]) -> bool:
        row = db.execute(
            "SELECT text, service_group, pattern, message_id, published FROM promenade_letter WHERE id = ?",
            (letter_id,),
        ).fetchone()
        if row is None or (letter := self.letter(row[0])) is None:
            return False
        _, group, pattern, message_id, published = row
        heir = row_for(siblings_of(db, group, self._services.heartbeats.dead), letter.topic, pattern)
        if heir is None:
            raise self.has_no_way_back(letter, pattern, "the file")
        topic = -self._services.topics.add(db, letter.topic)
        headers = text_of_headers(letter.headers)
        insert_events(db, [(topic, message_id, letter.key, headers, letter.body, published)])
        (seq,) = db.execute("SELECT last_insert_rowid()").fetchone()
        db.execute(
            "INSERT INTO promenade_delivery (subscription, seq, owner, redelivered, history)"
            " VALUES (?, ?, 0, 1, ?)",
            (heir.number, seq, text_of_attempts(letter.attempts)),
        )
        db.execute("DELETE FROM promenade_letter WHERE id = ?", (letter_id,))
        woken.add(heir.number)
        return True
