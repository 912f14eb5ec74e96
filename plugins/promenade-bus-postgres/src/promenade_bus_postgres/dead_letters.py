"""Dead letters in the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from bus_core import DeadLetter, DeadLetterFilter
from bus_core.adapters import StoredDeadLetters, row_for, text_of_attempts, text_of_headers
from promenade_bus_postgres.connections import Connection
from promenade_bus_postgres.positions import POSITION
from promenade_bus_postgres.services import Services
from promenade_bus_postgres.siblings import siblings_of

__all__ = ["PostgresDeadLetters"]

T = TypeVar("T")

_ROWS: Final = """SELECT number, text FROM promenade_letter WHERE number > %(behind)s
AND (%(topic)s::text IS NULL OR topic = %(topic)s) AND (%(name)s::text IS NULL OR subscription = %(name)s)
AND (%(ids)s::text[] IS NULL OR id = ANY(%(ids)s)) ORDER BY number LIMIT %(limit)s"""

_LETTER: Final = "SELECT text FROM promenade_letter WHERE id = %s"

_DELETE: Final = "DELETE FROM promenade_letter WHERE number = ANY(%s::bigint[])"

_TAKE: Final = """DELETE FROM promenade_letter WHERE id = ANY(%s::text[])
RETURNING number, text, service_group, pattern, message_id, published"""

_MOVE: Final = f"""
WITH again AS (
    INSERT INTO promenade_event (tx, topic, id, key, headers, body, published)
    VALUES ({POSITION}, -(SELECT id FROM promenade_topic WHERE name = %(topic)s),
        %(id)s, %(key)s, %(headers)s, %(body)s, %(published)s) RETURNING tx, seq)
INSERT INTO promenade_delivery (subscription, tx, seq, owner, redelivered, history)
SELECT %(subscription)s, tx, seq, 0, true, %(history)s FROM again"""


class PostgresDeadLetters(StoredDeadLetters[Connection]):
    """Implements ``bus_core.DeadLetterStore``; it skips rows that another program has written."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def read(self, run: Callable[[Connection], T]) -> Awaitable[T]:
        return self._services.database.run(run)

    def write(self, run: Callable[[Connection], T]) -> Awaitable[T]:
        return self._services.database.run(run)

    def rows(
        self, db: Connection, topic: str | None, where: DeadLetterFilter, behind: int, limit: int
    ) -> Sequence[tuple[int, str]]:
        facts: dict[str, Any] = {
            "behind": behind,
            "topic": topic,
            "name": where.subscription,
            "ids": None if where.ids is None else sorted(where.ids),
            "limit": limit,
        }
        rows = db.execute(self._services.sql(_ROWS), facts).fetchall()
        return [(number, text) for number, text in rows]

    def text(self, db: Connection, letter_id: str) -> str | None:
        row = db.execute(self._services.sql(_LETTER), (letter_id,)).fetchone()
        return None if row is None else row[0]

    def delete(self, db: Connection, numbers: Sequence[int]) -> int:
        return db.execute(self._services.sql(_DELETE), ([*numbers],)).rowcount

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Moves letters back, each once; all or, when one has no subscription, none."""
        services, ids = self._services, sorted(dict.fromkeys(letter_ids))

        def run(connection: Connection) -> tuple[set[int], int]:
            known: dict[str, DeadLetter] = {}
            for letter_id in ids:
                letter = self.letter(self.text(connection, letter_id))
                if letter is not None:
                    known[letter_id] = letter
            services.topics.learn(connection)  # what is missing there is added, also after a restore
            services.topics.add(connection, [letter.topic for letter in known.values()])
            with connection.transaction():
                rows = connection.execute(services.sql(_TAKE), ([*known],)).fetchall()
                return {self._move(connection, row) for row in sorted(rows)}, len(rows)

        woken, moved = await services.database.run(run)
        for subscription in woken:
            services.freed(subscription)
        return moved

    def _move(self, connection: Connection, row: Sequence[Any]) -> int:
        """Returns the subscription that a letter has gone back to."""
        sql = self._services.sql
        _, text, group, pattern, message_id, published = row
        letter = self.letter(text)
        assert letter is not None, "it was read before"
        dead = self._services.heartbeats.dead
        found = row_for(siblings_of(connection, sql, group, dead), letter.topic, pattern)
        if found is None:
            raise self.has_no_way_back(letter, pattern, "the database")
        facts = {
            "topic": letter.topic,
            "id": message_id,
            "key": letter.key.encode(),
            "headers": text_of_headers(letter.headers),
            "body": letter.body,
            "published": published,
            "subscription": found.number,
            "history": text_of_attempts(letter.attempts),
        }
        connection.execute(sql(_MOVE), facts)
        return found.number
