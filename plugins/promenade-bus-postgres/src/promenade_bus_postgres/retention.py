"""Removes old events, and never those that a group has not settled. The clock of the server tells their age.

One process at a time does it. Events go in chunks, the oldest first, so that whole pages come free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from bus_core.adapters import matches
from promenade_bus_postgres.config import RetentionOptions
from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.losses import note_loss
from promenade_bus_postgres.positions import NOW

__all__ = ["Retention"]

_AT_ONCE: Final = 5_000
"""Events that one run removes, in one transaction."""

_MARKS: Final = 50
"""Runs within an age, at least."""

_TRY: Final = "SELECT pg_try_advisory_xact_lock(hashtext('promenade_bus_retention'), hashtext(%s))"

_READERS: Final = """
SELECT service_group, pattern, cursor_tx, cursor_seq, held.tx, held.seq
FROM promenade_subscription LEFT JOIN LATERAL (
    SELECT tx, seq FROM promenade_delivery WHERE subscription = id
    ORDER BY tx, seq LIMIT 1) AS held ON true"""

_TOPICS: Final = f"""
SELECT topic.id, topic.name, first.tx, first.seq, {NOW} - first.published
FROM promenade_topic AS topic JOIN LATERAL (
    SELECT tx, seq, published FROM promenade_event WHERE promenade_event.topic = topic.id
    ORDER BY tx, seq LIMIT 1) AS first ON true
ORDER BY first.tx, first.seq"""

_REMOVE: Final = f"""
DELETE FROM promenade_event WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM promenade_event WHERE topic = %s AND (tx, seq) <= (%s, %s) AND published <= {NOW} - %s
    ORDER BY tx, seq LIMIT %s))"""

# What a redrive stores, its own statement makes a delivery of: one without is settled, or its group is gone.
_REMOVE_REDRIVEN: Final = """
DELETE FROM promenade_event WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM promenade_event AS old WHERE topic < 0 AND NOT EXISTS (
        SELECT 1 FROM promenade_delivery AS held WHERE held.tx = old.tx AND held.seq = old.seq)
    ORDER BY topic, tx, seq LIMIT %s))"""

_COUNT: Final = "SELECT count(*) FROM promenade_event WHERE topic = %s"
_NTH: Final = "SELECT tx, seq FROM promenade_event WHERE topic = %s ORDER BY tx, seq OFFSET %s LIMIT 1"
_CURSORS: Final = "SELECT service_group, pattern, cursor_tx, cursor_seq FROM promenade_subscription"

# A claim locks the table before it sees the events. With the lock of a row it would wait with what it saw
# before, and hand out events that were counted and removed meanwhile.
_NO_CLAIMS: Final = "LOCK TABLE promenade_subscription IN SHARE ROW EXCLUSIVE MODE"
_UNREAD: Final = (
    "SELECT count(*) FROM promenade_event WHERE topic = %s AND (tx, seq) > (%s, %s) AND (tx, seq) <= (%s, %s)"
)

_LAST: Final = 2**62
Position = tuple[int, int]


@attrs.frozen
class _Reader:
    """A subscription: it has settled everything of its topics up to ``settled``."""

    pattern: str
    settled: Position


class Retention:
    """Applies the retention again and again."""

    def __init__(self, options: RetentionOptions, sql: Sql) -> None:
        self.removed = 0
        self._options = options
        self._sql = sql

    @property
    def interval(self) -> float:
        """Seconds between two runs."""
        return min(30.0, max(0.2, self._options.min_age / _MARKS))

    def step(self, connection: Connection) -> bool:
        """Removes expired events, or a part of them. Returns True if there is more to do at once.

        Does nothing while another process does it.
        """
        with connection.transaction():
            row = connection.execute(_TRY.encode(), (self._sql.schema,)).fetchone()
            return row == (True,) and self._step(connection)

    def _step(self, connection: Connection) -> bool:
        readers = self._readers(connection)
        left = _AT_ONCE
        for topic, name, tx, seq, age in connection.execute(self._sql(_TOPICS)).fetchall():
            mine = [each.settled for each in readers if matches(each.pattern, name)]
            if self._options.max_length is not None:
                left -= self._cap(connection, topic, name, self._options.max_length)
            bound = min(mine, default=(_LAST, 0))
            oldest = self._options.min_age if mine else self._options.unsubscribed_max_age
            if (tx, seq) <= bound and age >= oldest and left > 0:
                left -= self._remove(connection, topic, bound, oldest, left)
        if left > 0:
            left -= connection.execute(self._sql(_REMOVE_REDRIVEN), (left,)).rowcount
        return left <= 0

    def _readers(self, connection: Connection) -> Sequence[_Reader]:
        rows = connection.execute(self._sql(_READERS)).fetchall()
        return [
            _Reader(
                pattern,
                (cursor_tx, cursor_seq) if tx is None else min((cursor_tx, cursor_seq), (tx, seq - 1)),
            )
            for _, pattern, cursor_tx, cursor_seq, tx, seq in rows
        ]

    def _remove(self, connection: Connection, topic: int, bound: Position, age: float, most: int) -> int:
        removed = connection.execute(self._sql(_REMOVE), (topic, *bound, age, most)).rowcount
        self.removed += removed
        return removed

    def _cap(self, connection: Connection, topic: int, name: str, most: int) -> int:
        """Removes what is beyond ``max_length``, and counts for each group what it had not received.

        Deliveries of such events are counted when they would be handed out again.
        """
        beyond = min(_number(connection.execute(self._sql(_COUNT), (topic,))) - most, _AT_ONCE)
        if beyond <= 0:
            return 0
        bound = connection.execute(self._sql(_NTH), (topic, beyond - 1)).fetchone()
        if bound is None:
            return 0
        connection.execute(self._sql(_NO_CLAIMS))
        for group, pattern, *cursor in connection.execute(self._sql(_CURSORS)).fetchall():
            if matches(pattern, name):
                unread = _number(connection.execute(self._sql(_UNREAD), (topic, *cursor, *bound)))
                note_loss(connection, self._sql, group, name, "max_length", unread)
        return self._remove(connection, topic, (bound[0], bound[1]), 0.0, beyond)


def _number(cursor: Any) -> int:
    (number,) = cursor.fetchone()
    return int(number)
