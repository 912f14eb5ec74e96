"""Dead letters in the file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from bus_core import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterNotFound,
    DeadLetterPage,
    DeadLetterTally,
    UnknownSubscription,
)
from bus_core.adapters import first_letters, letter_of, text_of_attempts
from bus_core.events import is_pattern, tally_of
from promenade_bus_sqlite.publishing import insert_events, text_of_headers
from promenade_bus_sqlite.services import Services
from promenade_bus_sqlite.subscriptions import subscription_of

__all__ = ["SqliteDeadLetters"]

_AT_ONCE: Final = 200
"""Letters that one statement reads."""

_MOST_BYTES: Final = 4_000_000
"""Bytes of letters after which a page ends."""

Row = tuple[int, str]


class SqliteDeadLetters:
    """Implements ``bus_core.DeadLetterStore``; it skips rows that another program has written."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters that the filter selects, at most ``limit``."""
        return await first_letters(self, where, limit)

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        """The selected letters behind a cursor; see ``bus_core.DeadLetterStore``."""
        behind = _number_of(after)

        def run(db: sqlite3.Connection) -> DeadLetterPage:
            page = DeadLetterPage()
            size, last = 0, behind
            for number, text, letter in self._selected(db, where, behind):
                if len(page) == limit or size >= _MOST_BYTES:
                    page.next_cursor = str(last)
                    break
                page.append(letter)
                size += len(text)
                last = number
            return page

        return await self._services.worker.read(run)

    async def count(self, where: DeadLetterFilter) -> int:
        """The number of letters that the filter selects."""
        return await self._services.worker.read(lambda db: sum(1 for _ in self._selected(db, where, 0)))

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        """Counts the selected letters in groups; see ``bus_core.DeadLetterStore``."""

        def run(db: sqlite3.Connection) -> Sequence[DeadLetterTally]:
            return tally_of(letter for _, _, letter in self._selected(db, where, 0))

        return await self._services.worker.read(run)

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""

        def run(db: sqlite3.Connection) -> DeadLetter | None:
            row = db.execute("SELECT text FROM promenade_letter WHERE id = ?", (letter_id,)).fetchone()
            return None if row is None else _letter(row[0])

        letter = await self._services.worker.read(run)
        if letter is None:
            raise DeadLetterNotFound(letter_id)
        return letter

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
        if row is None or (letter := _letter(row[0])) is None:
            return False
        _, group, pattern, message_id, published = row
        subscription = subscription_of(db, group, pattern)
        if subscription is None:
            raise UnknownSubscription(
                f"cannot redrive dead letter {letter.id}: no subscription {letter.subscription!r} to "
                f"{pattern!r} is in the file any more; subscribe it first, or purge the letter"
            )
        topic = -self._services.topics.add(db, letter.topic)
        headers = text_of_headers(letter.headers)
        insert_events(db, [(topic, message_id, letter.key, headers, letter.body, published)])
        (seq,) = db.execute("SELECT last_insert_rowid()").fetchone()
        db.execute(
            "INSERT INTO promenade_delivery (subscription, seq, owner, redelivered, history)"
            " VALUES (?, ?, 0, 1, ?)",
            (subscription, seq, text_of_attempts(letter.attempts)),
        )
        db.execute("DELETE FROM promenade_letter WHERE id = ?", (letter_id,))
        woken.add(subscription)
        return True

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects. Returns their number."""

        def run(db: sqlite3.Connection) -> int:
            doomed = [(number,) for number, _, _ in self._selected(db, where, 0)]
            db.executemany("DELETE FROM promenade_letter WHERE number = ?", doomed)
            return len(doomed)

        return await self._services.worker.write(run)

    def _selected(
        self, db: sqlite3.Connection, where: DeadLetterFilter, behind: int
    ) -> Iterator[tuple[int, str, DeadLetter]]:
        """The letters behind a number that a filter selects, in order."""
        conditions = ["number > ?"]
        values: list[Any] = [behind]
        topic = None if where.topic is None or is_pattern(where.topic) else where.topic
        for column, value in (("topic", topic), ("subscription", where.subscription)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if where.ids is not None:
            conditions.append("id IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(sorted(where.ids)))
        columns = "SELECT number, text FROM promenade_letter"
        wanted = f"{columns} WHERE {' AND '.join(conditions)} ORDER BY number LIMIT ?"
        while True:
            rows: list[Row] = db.execute(wanted, (*values, _AT_ONCE)).fetchall()
            for number, text in rows:
                letter = _letter(text)
                if letter is not None and where.selects(letter):
                    yield number, text, letter
            if len(rows) < _AT_ONCE:
                return
            values[0] = rows[-1][0]


def _number_of(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise ValueError(f"this is no cursor of these dead letters: {cursor!r}")
    return int(cursor)


def _letter(text: Any) -> DeadLetter | None:
    """The letter of a text; None for a text that the bus did not write."""
    try:
        return letter_of(text)
    except Exception:  # any error of a converter for a foreign text
        return None
