"""Claims messages for a subscription: deliveries that came free, and events behind its cursor."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from bus_core import BusError, Message, Received
from bus_core.adapters import attempts_of, headers_of, matches, text_of_attempts, with_death
from bus_core.events import is_pattern
from promenade_bus_sqlite.losses import note_loss
from promenade_bus_sqlite.schema import NOBODY
from promenade_bus_sqlite.topics import Topics

__all__ = ["Claim", "Claims", "ForgottenSubscription", "Held", "Owner", "backlog_of"]

_MOST_BYTES: Final = 4_000_000
"""The bytes of bodies after which one claim takes nothing more."""

_WINDOW: Final = 20_000
_WINDOWS: Final = 5
"""The events of any topic that a claim of a pattern scans at once, and how often it does."""

_EVENT = "SELECT seq, topic, id, key, headers, body, published FROM promenade_event"

# Others remove the row of an owner that they take for dead. Without one nobody would notice its real death.
_STAY = """INSERT INTO promenade_owner (id, name, subscription, beats) VALUES (?, ?, ?, 1)
ON CONFLICT DO NOTHING"""

# Deliveries that the owner claimed and its consumer never got, because the answer was lost.
_GIVE_BACK = """UPDATE promenade_delivery SET owner = 0
WHERE subscription = ? AND owner = ? AND seq NOT IN (SELECT value FROM json_each(?))"""

Row = tuple[Any, ...]
"""The columns of an event, which other programs may have changed."""


@attrs.define(eq=False)
class Owner:
    """A consumer in the file: ``number`` owns deliveries, ``name`` has heartbeats.

    ``reached`` is the number of the last event that was received behind the cursor. All events that were
    stored until ``seen_at`` were received.
    """

    number: int
    name: str
    subscription: int
    reached: int
    seen_at: float


@attrs.define(eq=False)
class Held:
    """The receipt of a delivery."""

    seq: int
    message: Message
    published: float


@attrs.define
class Claim:
    """The result of a claim, and the time of the next due delivery; None without one.

    ``reached`` is the number of the last event among them that was behind the cursor; None without one. All
    events that were stored until ``seen_at`` are received now; None if it is not known.
    """

    received: Sequence[Received]
    next_due: float | None = None
    reached: int | None = None
    seen_at: float | None = None


def died_handling(owner: int, due: float) -> bool:
    """True when the owner of a delivery, which is dead, may have died of it.

    While an owner holds a delivery for its retry, ``due`` says until when: no handler runs, and a death then
    is no attempt. It is 0 from when an attempt begins.
    """
    return owner != NOBODY and not due


def after_death(attempt: int, history: str | None) -> tuple[int, int, str]:
    """The columns ``attempt``, ``redelivered`` and ``history`` of a delivery whose owner died handling it."""
    attempts = () if history is None else attempts_of(history)
    return attempt + 1, 1, text_of_attempts(with_death(attempts, attempt))


class Claims:
    """The SQL statements with which one consumer receives. Used in the worker's thread only."""

    def __init__(
        self, topics: Topics, owner: Owner, pattern: str, group: str, *, ordered: bool, lease: float
    ) -> None:
        self._topics = topics
        self._owner = owner
        self._pattern = pattern
        self._group = group
        self._ordered = ordered
        self._is_pattern = is_pattern(pattern)
        self._matching: dict[int, None] = {}
        self._seen_topic = 0
        self._published = -1.0  # of the last event, and the same as a datetime
        self._published_at = datetime.fromtimestamp(0.0, UTC)
        self._lease = lease
        # Dead owners that had left nothing here: their numbers, and when that was. One that lives after all
        # may claim again, so that it is looked for again.
        self._emptied: dict[str, tuple[int | None, float]] = {}

    def peek(self, db: sqlite3.Connection, now: float, dead: Mapping[str, int | None]) -> Claim | None:
        """The result without a transaction; None if there may be messages to claim."""
        if not all(self._is_emptied(name, beats, now) for name, beats in dead.items()):
            return None
        key = self._owner.subscription
        found = db.execute(
            "SELECT cursor, active, (SELECT min(due) FROM promenade_delivery"
            " WHERE subscription = promenade_subscription.id AND owner = 0)"
            " FROM promenade_subscription WHERE id = ? AND service_group = ?",
            (key, self._group),
        ).fetchone()
        if found is None:
            return None
        cursor, active, due = found
        if self._ordered and active not in (NOBODY, self._owner.number):
            return Claim([])
        if due is not None and (self._ordered or due <= now):
            return None
        return None if self._has_fresh(db, cursor) else Claim([], due, seen_at=now)

    def _has_fresh(self, db: sqlite3.Connection, cursor: int) -> bool:
        if self._is_pattern:
            return (
                db.execute("SELECT 1 FROM promenade_event WHERE seq > ? LIMIT 1", (cursor,)).fetchone()
                is not None
            )
        topic = self._topics.id_of(db, self._pattern)
        wanted = "SELECT 1 FROM promenade_event WHERE topic = ? AND seq > ? LIMIT 1"
        return topic is not None and db.execute(wanted, (topic, cursor)).fetchone() is not None

    def claim(self, db: sqlite3.Connection, limit: int, now: float, dead: Mapping[str, int | None]) -> Claim:
        """Assigns deliveries to the owner in order: first those that became free, then fresh events."""
        key, me = self._owner.subscription, self._owner.number
        wanted = "SELECT cursor, active FROM promenade_subscription WHERE id = ? AND service_group = ?"
        row = db.execute(wanted, (key, self._group)).fetchone()
        if row is None:
            raise ForgottenSubscription(self._group, self._pattern)
        cursor, active = row
        db.execute(_STAY, (me, self._owner.name, key))
        gone = self._dead_owners(db, now, dead)
        if self._ordered and active != me:
            if active != NOBODY and active not in gone and _exists(db, active):
                return Claim([])
            db.execute("UPDATE promenade_subscription SET active = ? WHERE id = ?", (me, key))
        received, is_all = self._reclaim(db, limit, now, gone, dead)
        reached, seen_at = None, None
        if is_all:
            fresh = self._fresh(db, limit - len(received), cursor)
            if fresh is None:
                return Claim(received, now)
            # Behind the last one there may be more, as old as it is.
            seen_at = now
            if fresh:
                last: Held = fresh[-1].receipt
                reached, seen_at = last.seq, min(now, last.published)
            received += fresh
        (due,) = db.execute(
            "SELECT min(due) FROM promenade_delivery WHERE subscription = ? AND owner = 0", (key,)
        ).fetchone()
        return Claim(received, due, reached, seen_at)

    def give_back(self, db: sqlite3.Connection, held: Collection[int]) -> None:
        """Frees deliveries of the owner that its consumer does not hold: their claim failed, or was left."""
        db.execute(_GIVE_BACK, (self._owner.subscription, self._owner.number, json.dumps([*held])))

    def _is_emptied(self, name: str, beats: int | None, now: float) -> bool:
        seen = self._emptied.get(name)
        return seen is not None and seen[0] == beats and 0 <= now - seen[1] < self._lease

    def _dead_owners(
        self, db: sqlite3.Connection, now: float, dead: Mapping[str, int | None]
    ) -> dict[int, str]:
        """The numbers of dead owners of this subscription, whose heartbeats have stopped."""
        gone: dict[int, str] = {}
        self._emptied = {name: seen for name, seen in self._emptied.items() if name in dead}
        for name, beats in dead.items():
            if self._is_emptied(name, beats, now):
                continue
            found = db.execute(
                "SELECT id, beats FROM promenade_owner WHERE name = ? AND subscription = ?",
                (name, self._owner.subscription),
            ).fetchone()
            if found is None:
                self._emptied[name] = beats, now
            elif found[1] == beats:
                gone[found[0]] = name
        return gone

    # --- deliveries that came free ------------------------------------------------------------------------

    def _reclaim(
        self,
        db: sqlite3.Connection,
        limit: int,
        now: float,
        gone: Mapping[int, str],
        dead: Mapping[str, int | None],
    ) -> tuple[list[Received], bool]:
        """Returns the due deliveries and those of dead owners, and True if these are all.

        An ordered subscription takes what is not due as well: only its key waits for it.
        """
        key = self._owner.subscription
        columns = (
            "SELECT seq, owner, attempt, redelivered, history, waited, due, delay FROM promenade_delivery"
        )
        until, order = (math.inf, "seq") if self._ordered else (now, "due, seq")
        rows = db.execute(
            f"{columns} WHERE subscription = ? AND owner = 0 AND due <= ? ORDER BY {order} LIMIT ?",
            (key, until, limit),
        ).fetchall()
        for number in gone:
            rows += db.execute(
                f"{columns} WHERE subscription = ? AND owner = ? ORDER BY seq LIMIT ?", (key, number, limit)
            ).fetchall()
        rows.sort()
        received: list[Received] = []
        size = 0
        for seq, owner, attempt, redelivered, history, waited, due, delay in rows[:limit]:
            event = db.execute(f"{_EVENT} WHERE seq = ?", (seq,)).fetchone()
            if event is None:
                self._lost(db, seq)
                continue
            rest = max(0.0, min(due - now, delay))
            if died := died_handling(owner, due):
                attempt, redelivered, history = after_death(attempt, history)
            db.execute(
                "UPDATE promenade_delivery SET owner = ?, attempt = ?, redelivered = ?, history = ?, due = ?"
                " WHERE subscription = ? AND seq = ?",
                (self._owner.number, attempt, redelivered, history, now + rest if rest else 0.0, key, seq),
            )
            taken = self._received(db, event)
            taken.attempt, taken.redelivered = attempt, bool(redelivered)
            taken.history = () if history is None else attempts_of(history)
            taken.waited, taken.delay, taken.owner_died = waited, rest, died
            received.append(taken)
            size += len(taken.message.body)
            if size >= _MOST_BYTES:
                return received, False
        for number, name in gone.items():
            left = "SELECT 1 FROM promenade_delivery WHERE subscription = ? AND owner = ? LIMIT 1"
            if db.execute(left, (key, number)).fetchone() is None:
                db.execute("DELETE FROM promenade_owner WHERE id = ?", (number,))
                self._emptied[name] = dead[name], now
        return received, len(rows) < limit

    def _lost(self, db: sqlite3.Connection, seq: int) -> None:
        """Counts an event that was deleted before its delivery, by another program or by ``max_length``."""
        db.execute(
            "DELETE FROM promenade_delivery WHERE subscription = ? AND seq = ?",
            (self._owner.subscription, seq),
        )
        note_loss(db, self._group, self._pattern, "missing", 1)

    # --- events behind the cursor -------------------------------------------------------------------------

    def _fresh(self, db: sqlite3.Connection, limit: int, cursor: int) -> list[Received] | None:
        """Returns events behind the cursor, or None if a whole batch belonged to other topics."""
        if self._is_pattern:
            return self._fresh_of_pattern(db, limit, cursor)
        topic = self._topics.id_of(db, self._pattern)
        if topic is None:
            return []
        rows = _within(
            db.execute(f"{_EVENT} WHERE topic = ? AND seq > ? ORDER BY seq LIMIT ?", (topic, cursor, limit))
        )
        if rows:
            self._take(db, "topic = ?", (topic,), cursor, rows[-1][0])
            self._advance(db, rows[-1][0])
        return [self._received(db, row) for row in rows]

    def _fresh_of_pattern(self, db: sqlite3.Connection, limit: int, cursor: int) -> list[Received] | None:
        """Scans events of all topics. The next claim continues where this one stopped."""
        self._learn(db)
        topics = json.dumps([*self._matching])
        (last,) = db.execute("SELECT max(seq) FROM promenade_event").fetchone()
        for _ in range(_WINDOWS):
            if last is None or cursor >= last:
                return []
            end = min(last, cursor + _WINDOW)
            rows = _within(
                db.execute(
                    f"{_EVENT} NOT INDEXED WHERE seq > ? AND seq <= ?"
                    " AND topic IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?",
                    (cursor, end, topics, limit),
                )
            )
            if rows:
                self._take(db, "topic IN (SELECT value FROM json_each(?))", (topics,), cursor, rows[-1][0])
                self._advance(db, rows[-1][0])
                return [self._received(db, row) for row in rows]
            cursor = end
            self._advance(db, cursor)
        return None

    def _learn(self, db: sqlite3.Connection) -> None:
        self._topics.learn(db)
        for number, name in self._topics.names.items():
            if number > self._seen_topic:
                if matches(self._pattern, name):
                    self._matching[number] = None
                self._seen_topic = number

    def forget(self) -> None:
        """Handles a rolled back transaction, whose new topics are gone too."""
        self._matching.clear()
        self._seen_topic = 0
        self._emptied.clear()

    def _take(
        self, db: sqlite3.Connection, condition: str, values: tuple[Any, ...], cursor: int, last: int
    ) -> None:
        db.execute(
            "INSERT INTO promenade_delivery (subscription, seq, owner) SELECT ?, seq, ? FROM promenade_event"
            f" WHERE {condition} AND seq > ? AND seq <= ?",
            (self._owner.subscription, self._owner.number, *values, cursor, last),
        )

    def _advance(self, db: sqlite3.Connection, cursor: int) -> None:
        db.execute(
            "UPDATE promenade_subscription SET cursor = ? WHERE id = ?", (cursor, self._owner.subscription)
        )

    # --- rows ---------------------------------------------------------------------------------------------

    def _received(self, db: sqlite3.Connection, row: Row) -> Received:
        seq, topic, message_id, key, headers, body, published = row
        # Other programs may write anything into a file.
        if type(body) is not bytes or type(key) is not str or type(message_id) is not str:
            return self._strange(row)
        name = self._topics.name_of(db, topic) if self._is_pattern else self._pattern
        try:
            if published != self._published:
                self._published_at = datetime.fromtimestamp(published, UTC)
                self._published = published
            message = Message(message_id, name, key, body, headers_of(headers))
        except (TypeError, ValueError, OverflowError):
            return self._strange(row)
        receipt = Held(seq, message, published)
        return Received(message=message, receipt=receipt, published_at=self._published_at)

    def _strange(self, row: Row) -> Received:
        """Returns a row that another program wrote or changed as a dead letter, with its body unchanged."""
        stored = row[5]
        body = stored if isinstance(stored, bytes) else str(stored).encode("utf-8", "backslashreplace")
        message = Message("", self._topics.names.get(abs(row[1]), self._pattern), "", body)
        at = datetime.now(UTC)
        return Received(
            message=message,
            receipt=Held(row[0], message, at.timestamp()),
            published_at=at,
            fault="its row is not what the bus has written",
        )


class ForgottenSubscription(BusError):
    """Raised when a subscription was removed from the file while it was open."""

    def __init__(self, group: str, pattern: str) -> None:
        super().__init__(
            f"the subscription {group!r} to {pattern!r} was removed from the file while it was open; "
            "start this process again to subscribe it anew"
        )


def backlog_of(db: sqlite3.Connection, topics: Topics, subscription: int, pattern: str) -> int:
    """The number of unsettled messages of a subscription: deliveries, and events behind its cursor."""
    row = db.execute(
        "SELECT cursor, (SELECT count(*) FROM promenade_delivery"
        " WHERE subscription = promenade_subscription.id)"
        " FROM promenade_subscription WHERE id = ?",
        (subscription,),
    ).fetchone()
    if row is None:
        return 0
    cursor, held = row
    if is_pattern(pattern):
        topics.learn(db)
        ids = [number for number, name in topics.names.items() if matches(pattern, name)]
    else:
        number = topics.id_of(db, pattern)
        ids = [] if number is None else [number]
    (unread,) = db.execute(
        "SELECT count(*) FROM promenade_event WHERE topic IN (SELECT value FROM json_each(?)) AND seq > ?",
        (json.dumps(ids), cursor),
    ).fetchone()
    return int(held) + int(unread)


def _exists(db: sqlite3.Connection, owner: int) -> bool:
    return db.execute("SELECT 1 FROM promenade_owner WHERE id = ?", (owner,)).fetchone() is not None


def _within(cursor: sqlite3.Cursor) -> list[Row]:
    """Returns rows up to a number of bytes, and at least one row."""
    rows: list[Row] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += len(row[5]) if isinstance(row[5], bytes | str) else 8
        if size >= _MOST_BYTES:
            cursor.close()
            break
    return rows
