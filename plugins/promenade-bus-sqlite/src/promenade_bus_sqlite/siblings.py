"""Subscriptions that keep their name, and change their topic or pattern.

A group has a row for each topic or pattern that it ever had. Those that match the same topic are one
subscription, as it was and as it is: a bus refuses two at once. What waits in a row that nobody serves goes
to one that is served. Used in the worker's thread only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from bus_core.adapters import GroupRow, matches, row_for, unserved_rows
from promenade_bus_sqlite.claiming import after_death, died_handling
from promenade_bus_sqlite.topics import Topics

__all__ = ["Sibling", "hand_over", "siblings_of"]

_AT_ONCE: Final = 500
"""Deliveries of one subscription that one transaction moves, because others have to write, too."""

_ROWS: Final = "SELECT id, service_group, pattern, cursor FROM promenade_subscription"

_SEVERAL: Final = """WHERE service_group IN (SELECT service_group FROM promenade_subscription
WHERE NOT broadcast GROUP BY 1 HAVING count(*) > 1)"""

_HELD: Final = """SELECT each.seq, topic, owner, due, attempt, redelivered, history
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
class Sibling(GroupRow):
    """A row of a group, and its cursor."""

    cursor: int


def _siblings(
    db: sqlite3.Connection, dead: Mapping[str, int | None], condition: str, values: Sequence[object]
) -> Sequence[Sibling]:
    owners = db.execute("SELECT subscription, name FROM promenade_owner").fetchall()
    alive = {subscription for subscription, name in owners if name not in dead}
    rows = db.execute(f"{_ROWS} {condition} ORDER BY service_group, id", values).fetchall()
    return [
        Sibling(number, group, pattern, number in alive, cursor) for number, group, pattern, cursor in rows
    ]


def siblings_of(db: sqlite3.Connection, group: str, dead: Mapping[str, int | None]) -> Sequence[Sibling]:
    """The rows of a group, the oldest first."""
    return _siblings(db, dead, "WHERE service_group = ?", (group,))


def hand_over(
    db: sqlite3.Connection, topics: Topics, dead: Mapping[str, int | None]
) -> Sequence[tuple[str, str]]:
    """Moves what waits in rows that nobody serves to served rows of their groups, a part in each call.

    A move counts no attempt, and the death of an owner counts as ever. Returns the groups and patterns of
    rows with events that wait for nobody, while another row of the group is served.
    """
    rows = _siblings(db, dead, _SEVERAL, ())
    if rows:
        topics.learn(db)
    return [
        (old.group, old.pattern)
        for old, served in unserved_rows(rows)
        if _waits(db, topics, old, served, dead)
    ]


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
    for seq, topic, owner, due, attempt, redelivered, history in db.execute(_HELD, facts).fetchall():
        new = taken[abs(topic)]
        if topic > 0 and seq > new.cursor:
            continue  # what it has still to receive, it does not get twice
        if died_handling(owner, due):
            attempt, redelivered, history = after_death(attempt, history)
        db.execute(_MOVE, (new.number, attempt, redelivered, history, old.number, seq))
        db.execute(_REMOVE, (old.number, seq))
    (waits,) = db.execute(_WAITS, facts).fetchone()
    return bool(waits)
