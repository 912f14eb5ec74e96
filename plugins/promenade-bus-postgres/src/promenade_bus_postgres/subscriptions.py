"""Subscriptions in the database, and their owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from bus_core import SubscriptionSpec
from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.positions import NOW

__all__ = ["Owner", "add_owner", "end_broadcasts_of_the_dead", "remove_owner", "subscription_of"]


@attrs.define(eq=False)
class Owner:
    """A consumer in the database: ``number`` owns deliveries, ``name`` has heartbeats."""

    number: int
    name: str
    subscription: int


_SUBSCRIBE: Final = f"""
WITH last AS (SELECT tx, seq FROM promenade_event WHERE %(now_on)s ORDER BY tx DESC, seq DESC LIMIT 1)
INSERT INTO promenade_subscription (service_group, pattern, name, broadcast, cursor_tx, cursor_seq, served)
VALUES (%(group)s, %(pattern)s, %(name)s, %(broadcast)s,
    coalesce((SELECT tx FROM last), 0), coalesce((SELECT seq FROM last), 0), {NOW})
ON CONFLICT (service_group, pattern) DO UPDATE SET served = excluded.served
RETURNING id"""

_ADD: Final = "INSERT INTO promenade_owner (name, subscription) VALUES (%s, %s) RETURNING id"

_FIND: Final = "SELECT id FROM promenade_subscription WHERE service_group = %s AND pattern = %s"

_LEAVE: Final = """
WITH gone AS (
    DELETE FROM promenade_owner WHERE id = %(me)s AND NOT EXISTS (
        SELECT 1 FROM promenade_delivery WHERE subscription = %(key)s AND owner = %(me)s) RETURNING id)
UPDATE promenade_subscription SET active = 0 WHERE id = %(key)s AND active = (SELECT id FROM gone)"""

_END: Final = """
WITH ended AS (DELETE FROM promenade_subscription WHERE id = ANY(%(keys)s::bigint[]) RETURNING id),
rest AS (DELETE FROM promenade_delivery WHERE subscription = ANY(%(keys)s::bigint[]))
DELETE FROM promenade_owner WHERE subscription = ANY(%(keys)s::bigint[])"""

_DEAD_BROADCASTS: Final = """
SELECT each.id FROM promenade_subscription AS each
LEFT JOIN promenade_owner AS owner ON owner.subscription = each.id
LEFT JOIN unnest(%s::text[], %s::bigint[]) AS dead (name, beats) ON dead.name = owner.name
WHERE each.broadcast AND (owner.id IS NULL OR dead.beats = owner.beats)"""


def add_owner(connection: Connection, sql: Sql, spec: SubscriptionSpec, name: str) -> Owner:
    """Creates the subscription if it is new, and adds an owner. From then on, it misses no event.

    A broadcast subscription belongs to one owner and has the name of that owner.
    """
    is_broadcast = spec.mode == "broadcast"
    facts = {
        "group": name if is_broadcast else spec.group,
        "pattern": spec.topic,
        "name": spec.name,
        "broadcast": is_broadcast,
        "now_on": is_broadcast or spec.start == "latest",
    }
    with connection.transaction():
        found = connection.execute(sql(_SUBSCRIBE), facts).fetchone()
        assert found is not None, "it returns a row"
        added = connection.execute(sql(_ADD), (name, found[0])).fetchone()
        assert added is not None, "it returns a row"
    return Owner(added[0], name, found[0])


def remove_owner(connection: Connection, sql: Sql, owner: Owner, *, is_broadcast: bool) -> None:
    """Passes its turn on. Deliveries that it still owns come free when its lease is over."""
    if is_broadcast:
        connection.execute(sql(_END), {"keys": [owner.subscription]})
    else:
        connection.execute(sql(_LEAVE), {"key": owner.subscription, "me": owner.number})


def subscription_of(connection: Connection, sql: Sql, group: str, pattern: str) -> int | None:
    """The number of a subscription, or None."""
    row = connection.execute(sql(_FIND), (group, pattern)).fetchone()
    return None if row is None else int(row[0])


def end_broadcasts_of_the_dead(connection: Connection, sql: Sql, dead: Mapping[str, int | None]) -> None:
    """Removes broadcast subscriptions of dead instances. No other instance can take them over."""
    counted = {name: beats for name, beats in dead.items() if beats is not None}
    rows = connection.execute(sql(_DEAD_BROADCASTS), ([*counted], [*counted.values()])).fetchall()
    if rows:
        connection.execute(sql(_END), {"keys": [number for (number,) in rows]})
