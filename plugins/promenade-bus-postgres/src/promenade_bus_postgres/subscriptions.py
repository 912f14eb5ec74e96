"""Subscriptions in the database, and their owners.

Their numbers are known to running processes. A database that is restored may come back without them, or give
them to others, so statements that use them compare names, and a consumer looks for its subscription again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from bus_core import BusError, SubscriptionSpec
from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.losses import note_loss
from promenade_bus_postgres.positions import HORIZON, LAST_SEQ, NOW

__all__ = [
    "IS_MINE",
    "ForgottenSubscription",
    "Owner",
    "add_owner",
    "end_broadcasts_of_the_dead",
    "find_again",
    "is_final",
    "is_known",
    "last_position",
    "remove_owner",
    "subscription_of",
]


@attrs.define(eq=False)
class Owner:
    """A consumer in the database: ``number`` owns deliveries, ``name`` has heartbeats.

    ``reached`` is the position of the last event that was received behind the cursor. All events that were
    stored until ``seen_at``, by the clock of the server, were received.
    """

    number: int
    name: str
    subscription: int
    reached: tuple[int, int] = (0, 0)
    seen_at: float = 0.0

    def facts(self) -> dict[str, Any]:
        """Its numbers and name, for ``IS_MINE`` together with ``group`` and ``pattern``."""
        return {"key": self.subscription, "me": self.number, "owner": self.name}


class ForgottenSubscription(BusError):
    """Raised when a subscription is not in the database under the numbers that its consumer knows."""

    def __init__(self, group: str, pattern: str) -> None:
        super().__init__(
            f"the subscription {group!r} to {pattern!r} was removed from the database while it was open; "
            "start this process again to subscribe it anew"
        )


IS_MINE: Final = """SELECT mine.id FROM promenade_subscription AS mine
WHERE mine.id = %(key)s AND mine.service_group = %(group)s AND mine.pattern = %(pattern)s AND NOT EXISTS (
    SELECT 1 FROM promenade_owner AS other WHERE other.id = %(me)s AND other.name <> %(owner)s)"""
"""The number of a subscription, and no row where the numbers belong to others."""


# From now on: behind everything that is final. An event above the horizon is still to come, whether it can be
# seen already or not; a cursor among them would pass over those that cannot.
_SUBSCRIBE: Final = f"""
INSERT INTO promenade_subscription (service_group, pattern, name, broadcast, cursor_tx, cursor_seq, served)
VALUES (%(group)s, %(pattern)s, %(name)s, %(broadcast)s, CASE WHEN %(now_on)s THEN {HORIZON} - 1 ELSE 0 END,
    CASE WHEN %(now_on)s THEN {LAST_SEQ} ELSE 0 END, {NOW})
ON CONFLICT (service_group, pattern) DO UPDATE SET served = excluded.served
RETURNING id, cursor_tx, cursor_seq, {NOW}"""

# Its numbers may be in use: heartbeats store rows with numbers from before a restore.
_LAST: Final = "SELECT coalesce(max(tx), 0) FROM promenade_event"
_IS_FINAL: Final = f"SELECT %s < {HORIZON}"

_ADD: Final = """INSERT INTO promenade_owner (name, subscription) VALUES (%s, %s)
ON CONFLICT (id) DO NOTHING RETURNING id"""

_MOVE_OWNER: Final = """UPDATE promenade_owner SET subscription = %(key)s, beats = beats + 1
WHERE name = %(owner)s RETURNING id"""

_KEEP_NUMBER: Final = """INSERT INTO promenade_owner (id, name, subscription, beats)
VALUES (%(me)s, %(owner)s, %(key)s, 1) ON CONFLICT (id) DO NOTHING RETURNING id"""

# A position that does not exist yet is one of a database that was restored since.
_RESUME: Final = f"""
INSERT INTO promenade_subscription (service_group, pattern, name, broadcast, cursor_tx, cursor_seq, served)
SELECT %(group)s, %(pattern)s, %(name)s, true,
    CASE WHEN known THEN %(tx)s ELSE {HORIZON} - 1 END, CASE WHEN known THEN %(seq)s ELSE {LAST_SEQ} END, now
FROM (SELECT %(tx)s < {HORIZON} AS known, {NOW} AS now) AS found
ON CONFLICT (service_group, pattern) DO UPDATE SET served = excluded.served
RETURNING id, cursor_tx, cursor_seq, served"""

# An event behind the cursor comes again, and makes its delivery itself; a redriven one does not.
_HOLD: Final = f"""
INSERT INTO promenade_delivery (subscription, tx, seq, owner, redelivered)
SELECT %(key)s, tx, seq, %(me)s, true FROM unnest(%(txs)s::bigint[], %(seqs)s::bigint[]) AS held (tx, seq)
WHERE (tx, seq) <= (%(tx)s, %(seq)s) OR tx < {HORIZON} AND NOT EXISTS (
    SELECT 1 FROM promenade_event AS event
    WHERE event.tx = held.tx AND event.seq = held.seq AND event.topic >= 0)
ON CONFLICT DO NOTHING"""

_FIND: Final = "SELECT id FROM promenade_subscription WHERE service_group = %s AND pattern = %s"

_LEAVE: Final = """
WITH gone AS (
    DELETE FROM promenade_owner WHERE id = %(me)s AND name = %(owner)s AND NOT EXISTS (
        SELECT 1 FROM promenade_delivery WHERE subscription = %(key)s AND owner = %(me)s) RETURNING id)
UPDATE promenade_subscription SET active = 0 WHERE id = %(key)s AND active = (SELECT id FROM gone)"""

_END_OWN: Final = """
WITH ended AS (DELETE FROM promenade_subscription WHERE broadcast AND service_group = %(owner)s RETURNING id),
rest AS (DELETE FROM promenade_delivery USING ended WHERE subscription = ended.id)
DELETE FROM promenade_owner WHERE name = %(owner)s"""

_END: Final = """
WITH ended AS (DELETE FROM promenade_subscription WHERE id = ANY(%(keys)s::bigint[]) RETURNING id),
rest AS (DELETE FROM promenade_delivery WHERE subscription = ANY(%(keys)s::bigint[]))
DELETE FROM promenade_owner WHERE subscription = ANY(%(keys)s::bigint[])"""

_DEAD_BROADCASTS: Final = """
SELECT each.id FROM promenade_subscription AS each
LEFT JOIN promenade_owner AS owner ON owner.subscription = each.id
LEFT JOIN unnest(%s::text[], %s::bigint[]) AS dead (name, beats) ON dead.name = owner.name
WHERE each.broadcast AND (owner.id IS NULL OR dead.beats = owner.beats)"""


def last_position(connection: Connection, sql: Sql) -> int:
    """The first half of the position of the last event that can be seen."""
    (last,) = connection.execute(sql(_LAST)).fetchone() or (0,)
    return int(last)


def is_final(connection: Connection, sql: Sql, tx: int) -> bool:
    """True when no event appears at or below a position any more."""
    return connection.execute(sql(_IS_FINAL), (tx,)).fetchone() == (True,)


def add_owner(connection: Connection, sql: Sql, spec: SubscriptionSpec, name: str) -> Owner:
    """Creates the subscription if it is new, and adds an owner. From then on, it misses no event.

    One from now on begins with the first event that is not final. So it may get one that was stored before,
    unless the caller has waited until everything that it could see was final.

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
        subscription, tx, seq, now = found
        number = _new_number(connection, sql, name, subscription)
    return Owner(number, name, subscription, (tx, seq), now)


def _new_number(connection: Connection, sql: Sql, name: str, subscription: int) -> int:
    while True:
        added = connection.execute(sql(_ADD), (name, subscription)).fetchone()
        if added is not None:
            return int(added[0])


def is_known(connection: Connection, sql: Sql, owner: Owner, group: str, pattern: str) -> bool:
    """True when the subscription and its owner are in the database under the numbers of ``owner``."""
    facts = {**owner.facts(), "group": group, "pattern": pattern}
    return connection.execute(sql(IS_MINE), facts).fetchone() is not None


def find_again(
    connection: Connection,
    sql: Sql,
    owner: Owner,
    spec: SubscriptionSpec,
    held: Mapping[int, int],
    kept_for: float,
) -> None:
    """Gives an owner the numbers that its subscription has now.

    A broadcast subscription that was removed is made again, where the owner had left off, with the events
    that it holds: ``held`` has their ``seq`` and ``tx``. Those behind the place come again. Nothing is lost,
    unless the owner has not received anything stored in the last ``kept_for`` seconds, so that events may
    have been removed: that counts as one loss.

    Raises ``ForgottenSubscription`` for a group that was removed.
    """
    is_broadcast = spec.mode == "broadcast"
    group = owner.name if is_broadcast else spec.group
    with connection.transaction():
        number = subscription_of(connection, sql, group, spec.topic)
        reached, seen_at = owner.reached, owner.seen_at
        is_new = number is None
        if number is None:
            if not is_broadcast:
                raise ForgottenSubscription(group, spec.topic)
            tx, seq = owner.reached
            facts = {"group": group, "pattern": spec.topic, "name": spec.name, "tx": tx, "seq": seq}
            row = connection.execute(sql(_RESUME), facts).fetchone()
            assert row is not None, "it returns a row"
            number, *cursor, now = row
            reached = cursor[0], cursor[1]
            if reached != owner.reached:
                seen_at = now
            if reached != owner.reached or now - owner.seen_at >= kept_for:
                note_loss(connection, sql, spec.group, spec.topic, "away", 1)
        facts = {**owner.facts(), "key": number}
        row = connection.execute(sql(_MOVE_OWNER), facts).fetchone()
        if row is None:
            row = connection.execute(sql(_KEEP_NUMBER), facts).fetchone()
        me = _new_number(connection, sql, owner.name, number) if row is None else row[0]
        if is_new and held:
            columns = {"txs": [*held.values()], "seqs": [*held], "tx": reached[0], "seq": reached[1]}
            connection.execute(sql(_HOLD), {**facts, **columns, "me": me})
    owner.number, owner.subscription, owner.reached, owner.seen_at = me, number, reached, seen_at


def remove_owner(connection: Connection, sql: Sql, owner: Owner, *, is_broadcast: bool) -> None:
    """Passes its turn on. Deliveries that it still owns come free when its lease is over."""
    if is_broadcast:
        connection.execute(sql(_END_OWN), owner.facts())
    else:
        connection.execute(sql(_LEAVE), owner.facts())


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
