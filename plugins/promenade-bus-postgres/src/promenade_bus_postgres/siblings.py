"""Subscriptions that keep their name, and change their topic or pattern.

A group has a row for each topic or pattern that it ever had. Those that match the same topic are one
subscription, as it was and as it is: a bus refuses two at once. What waits in a row that nobody serves goes
to one that is served.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from bus_core.adapters import GroupRow, row_for, unserved_rows
from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.topics import Topics

__all__ = ["hand_over", "siblings_of"]

_AT_ONCE: Final = 2_000
"""Deliveries that one statement moves."""

_SERVED: Final = """EXISTS (SELECT 1 FROM promenade_owner AS owner
    WHERE owner.subscription = own.id AND owner.name <> ALL(%(dead)s::text[]))"""

_OF_GROUP: Final = f"""
SELECT own.id, own.service_group, own.pattern, {_SERVED} FROM promenade_subscription AS own
WHERE own.service_group = %(group)s ORDER BY own.id FOR KEY SHARE OF own"""

_OF_ALL: Final = f"""
SELECT own.id, own.service_group, own.pattern, {_SERVED} FROM promenade_subscription AS own
WHERE own.service_group IN (SELECT service_group FROM promenade_subscription
    WHERE NOT broadcast GROUP BY 1 HAVING count(*) > 1) ORDER BY own.service_group, own.id"""

# Owners that are dead, or have no row; a delivery that somebody claims meanwhile has another owner.
_LEFT: Final = """
SELECT DISTINCT each.owner FROM promenade_delivery AS each
WHERE each.subscription = %(old)s AND NOT EXISTS (SELECT 1 FROM promenade_owner AS living
    WHERE living.id = each.owner AND living.subscription = %(old)s
        AND living.name <> ALL(%(dead)s::text[]))"""

# What the new row has still to receive, it does not get twice.
_MOVE: Final = """
WITH found AS (
    SELECT each.tx, each.seq FROM promenade_delivery AS each
    JOIN promenade_event AS event ON event.tx = each.tx AND event.seq = each.seq
    JOIN promenade_subscription AS own ON own.id = %(new)s
    WHERE each.subscription = %(old)s AND each.owner = ANY(%(owners)s::bigint[])
        AND abs(event.topic) = ANY(%(topics)s::int[])
        AND (event.topic < 0 OR (each.tx, each.seq) <= (own.cursor_tx, own.cursor_seq))
    ORDER BY each.tx, each.seq LIMIT %(limit)s),
moved AS (
    DELETE FROM promenade_delivery AS each USING found
    WHERE each.subscription = %(old)s AND each.tx = found.tx AND each.seq = found.seq
        AND each.owner = ANY(%(owners)s::bigint[]) RETURNING each.*)
INSERT INTO promenade_delivery
    (subscription, tx, seq, owner, attempt, died, redelivered, history, waited, due, delay)
SELECT %(new)s, tx, seq, owner, attempt, died, redelivered, history, waited, due, delay FROM moved
ON CONFLICT DO NOTHING"""

_WAITS: Final = """
SELECT EXISTS (SELECT 1 FROM promenade_event AS event
        WHERE event.topic = ANY(%(topics)s::int[])
            AND (event.tx, event.seq) > (own.cursor_tx, own.cursor_seq))
    OR EXISTS (SELECT 1 FROM promenade_delivery AS each
        LEFT JOIN promenade_event AS event ON event.tx = each.tx AND event.seq = each.seq
        WHERE each.subscription = own.id AND coalesce(abs(event.topic), 0) <> ALL(%(taken)s::int[]))
FROM promenade_subscription AS own WHERE own.id = %(old)s"""


def siblings_of(connection: Connection, sql: Sql, group: str, dead: Collection[str]) -> Sequence[GroupRow]:
    """The rows of a group, the oldest first. They stay until the transaction ends."""
    rows = connection.execute(sql(_OF_GROUP), {"group": group, "dead": [*dead]}).fetchall()
    return [GroupRow(*row) for row in rows]


def hand_over(
    connection: Connection, sql: Sql, topics: Topics, dead: Collection[str]
) -> Sequence[tuple[str, str]]:
    """Moves what waits in rows that nobody serves to served rows of their groups, a part in each call.

    A move counts no attempt. Returns the groups and patterns of rows with events that wait for nobody, while
    another row of the group is served.
    """
    rows = [GroupRow(*row) for row in connection.execute(sql(_OF_ALL), {"dead": [*dead]}).fetchall()]
    if rows:
        topics.learn(connection)
    return [
        (old.group, old.pattern)
        for old, served in unserved_rows(rows)
        if _waits(connection, sql, topics, old, served, dead)
    ]


def _waits(
    connection: Connection,
    sql: Sql,
    topics: Topics,
    old: GroupRow,
    served: Sequence[GroupRow],
    dead: Collection[str],
) -> bool:
    """Moves what it can, and returns True when events wait that no served row matches."""
    taken: dict[int, list[int]] = {}
    rest: list[int] = []
    for topic in topics.matching(old.pattern)[1]:
        new = row_for(served, topics.known_name_of(topic))
        (rest if new is None else taken.setdefault(new.number, [])).append(topic)
    facts = {"old": old.number, "dead": [*dead]}
    owners = [owner for (owner,) in connection.execute(sql(_LEFT), facts).fetchall()]
    for number, of_it in taken.items() if owners else ():
        columns = {"new": number, "topics": of_it, "owners": owners, "limit": _AT_ONCE}
        connection.execute(sql(_MOVE), {**facts, **columns})
    all_taken = [topic for of_it in taken.values() for topic in of_it]
    row = connection.execute(sql(_WAITS), {**facts, "topics": rest, "taken": all_taken}).fetchone()
    return row is not None and bool(row[0])
