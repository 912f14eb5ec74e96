"""Subscriptions that keep their name, and change their topic or pattern.

A group has a row for each topic or pattern that it ever had. Those that match the same topic are one
subscription, as it was and as it is: a bus refuses two at once. What waits in a row that nobody serves goes
to one that is served. Used in the worker's thread only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from bus_core.adapters import attempts_of, matches, text_of_attempts, with_death
from promenade_bus_sqlite.schema import NOBODY
from promenade_bus_sqlite.topics import Topics

__all__ = ["Sibling", "hand_over", "row_for", "siblings_of"]

_AT_ONCE: Final = 500
"""Deliveries of one subscription that one transaction moves, because others have to write, too."""

_ROWS: Final = "SELECT id, service_group, pattern, cursor FROM promenade_subscription"

_SEVERAL: Final = """WHERE service_group IN (SELECT service_group FROM promenade_subscription
WHERE NOT broadcast GROUP BY 1 HAVING count(*) > 1)"""

_HELD: Final = """SELECT each.seq, topic, owner, attempt, redelivered, history
FROM promenade_delivery AS each JOIN promenade_event AS event ON event.seq = each.seq
WHERE subscription = :old AND owner NOT IN (SELECT value FROM json_each(:living))
AND abs(topic) IN (SELECT value FROM json_each(:taken)) ORDER BY each.seq LIMIT :limit"""

_MOVE: Final = """UPDATE OR IGNORE promenade_delivery
SET subscription = ?, owner = 0, attempt = ?, redelivered = ?, history = ?
WHERE subscription = ? AND seq = ?"""

_REMOVE: Final = "DELETE FROM promenade_delivery WHERE subscription = ? AND seq = ?"

_WAITS: Final = """SELECT EXISTS (SELECT 1 FROM promenade_event
    WHERE topic IN (SELECT value FROM json_each(:rest)) AND seq > :cursor)
OR EXISTS (SELECT 1 FROM promenade_delivery AS each LEFT JOIN promenade_event AS event ON event.seq = each.seq
    WHERE subscription = :old AND coalesce(abs(topic), 0) NOT IN (SELECT value FROM json_each(:taken)))"""


@attrs.frozen
class Sibling:
    """A row of a group. ``is_served`` says that an instance has it open which is not known to be dead."""

    number: int
    group: str
    pattern: str
    cursor: int
    is_served: bool


def _siblings(
    db: sqlite3.Connection, dead: Mapping[str, int | None], condition: str, values: Sequence[object]
) -> Sequence[Sibling]:
    owners = db.execute("SELECT subscription, name FROM promenade_owner").fetchall()
    alive = {subscription for subscription, name in owners if name not in dead}
    rows = db.execute(f"{_ROWS} {condition} ORDER BY service_group, id", values).fetchall()
    return [
        Sibling(number, group, pattern, cursor, number in alive) for number, group, pattern, cursor in rows
    ]


def siblings_of(db: sqlite3.Connection, group: str, dead: Mapping[str, int | None]) -> Sequence[Sibling]:
    """The rows of a group, the oldest first."""
    return _siblings(db, dead, "WHERE service_group = ?", (group,))


def row_for(rows: Iterable[Sibling], topic: str, pattern: str | None = None) -> Sibling | None:
    """The row that gets an event of a topic again: one that is served before one that nobody serves.

    Of these, the row of ``pattern`` comes first, and then the newest. None where no row matches the topic.
    """
    fitting = [each for each in rows if each.pattern == pattern or matches(each.pattern, topic)]
    return max(fitting, key=lambda each: (each.is_served, each.pattern == pattern, each.number), default=None)


def hand_over(
    db: sqlite3.Connection, topics: Topics, dead: Mapping[str, int | None]
) -> Sequence[tuple[str, str]]:
    """Moves what waits in rows that nobody serves to served rows of their groups, a part in each call.

    A move counts no attempt, and the death of an owner counts as ever. Returns the groups and patterns of
    rows with events that wait for nobody, while another row of the group is served.
    """
    by_group: dict[str, list[Sibling]] = {}
    for each in _siblings(db, dead, _SEVERAL, ()):
        by_group.setdefault(each.group, []).append(each)
    left: list[tuple[str, str]] = []
    if by_group:
        topics.learn(db)
    for rows in by_group.values():
        served = [each for each in rows if each.is_served]
        for old in rows if served else ():
            if not old.is_served and _waits(db, topics, old, served, dead):
                left.append((old.group, old.pattern))
    return left


def _waits(
    db: sqlite3.Connection,
    topics: Topics,
    old: Sibling,
    served: Sequence[Sibling],
    dead: Mapping[str, int | None],
) -> bool:
    """Moves what it can, and returns True when events wait that no served row matches."""
    owners = db.execute("SELECT id, name FROM promenade_owner WHERE subscription = ?", (old.number,))
    living = [number for number, name in owners.fetchall() if name not in dead]
    heirs = {number: row_for(served, name) for number, name in topics.names.items()}
    taken = {number: heir for number, heir in heirs.items() if heir is not None}
    rest = [number for number in heirs.keys() - taken if matches(old.pattern, topics.names[number])]
    facts = {
        "old": old.number,
        "cursor": old.cursor,
        "living": json.dumps(living),
        "taken": json.dumps([*taken]),
        "rest": json.dumps(rest),
        "limit": _AT_ONCE,
    }
    for seq, topic, owner, attempt, redelivered, history in db.execute(_HELD, facts).fetchall():
        new = taken[abs(topic)]
        if topic > 0 and seq > new.cursor:
            continue  # what it has still to receive, it does not get twice
        if owner != NOBODY:
            attempts = with_death(() if history is None else attempts_of(history), attempt)
            attempt, redelivered, history = attempt + 1, 1, text_of_attempts(attempts)
        db.execute(_MOVE, (new.number, attempt, redelivered, history, old.number, seq))
        db.execute(_REMOVE, (old.number, seq))
    (waits,) = db.execute(_WAITS, facts).fetchone()
    return bool(waits)
