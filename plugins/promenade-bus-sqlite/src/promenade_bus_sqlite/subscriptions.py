"""Subscriptions in the file. Used in the worker's thread only."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from bus_core import SubscriptionSpec
from promenade_bus_sqlite.claiming import Owner
from promenade_bus_sqlite.losses import note_loss

__all__ = ["add_owner", "end_broadcasts_of_the_dead", "is_there", "subscribe_again", "subscription_of"]

_ADD = """INSERT INTO promenade_subscription (service_group, pattern, name, broadcast, cursor, served)
VALUES (?, ?, ?, ?, ?, ?) RETURNING id"""

_ADD_OWNER = """INSERT INTO promenade_owner (id, name, subscription, beats) VALUES (?, ?, ?, 1)
ON CONFLICT DO UPDATE SET subscription = excluded.subscription, beats = beats + 1"""

# An event behind the cursor comes again, and makes its delivery itself; a redriven one does not.
_HOLD = """INSERT INTO promenade_delivery (subscription, seq, owner, redelivered)
SELECT :subscription, value, :owner, 1 FROM json_each(:held) WHERE value <= :cursor
OR NOT EXISTS (SELECT 1 FROM promenade_event WHERE promenade_event.seq = value AND topic >= 0)"""


def add_owner(db: sqlite3.Connection, spec: SubscriptionSpec, owner: str, now: float) -> Owner:
    """Creates the subscription if it is new, and adds an owner. From then on, it misses no event.

    A broadcast subscription belongs to one owner and has the name of that owner.
    """
    is_broadcast = spec.mode == "broadcast"
    group = owner if is_broadcast else spec.group
    found = subscription_of(db, group, spec.topic)
    cursor = 0
    if found is None:
        if is_broadcast or spec.start == "latest":
            (cursor,) = db.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'promenade_event'"
            ).fetchone()
        values = group, spec.topic, spec.name, is_broadcast, cursor, now
        (found,) = db.execute(_ADD, values).fetchone()
    else:
        db.execute("UPDATE promenade_subscription SET served = ? WHERE id = ?", (now, found))
    (number,) = db.execute(
        "INSERT INTO promenade_owner (name, subscription) VALUES (?, ?) RETURNING id", (owner, found)
    ).fetchone()
    return Owner(number, owner, found, cursor, now)


def is_there(db: sqlite3.Connection, owner: Owner) -> bool:
    """True when the broadcast subscription of an owner is in the file.

    Its number alone does not tell: a transaction that was rolled back leaves the number to somebody else.
    """
    wanted = "SELECT 1 FROM promenade_subscription WHERE id = ? AND service_group = ?"
    return db.execute(wanted, (owner.subscription, owner.name)).fetchone() is not None


def subscribe_again(
    db: sqlite3.Connection,
    owner: Owner,
    spec: SubscriptionSpec,
    held: Iterable[int],
    now: float,
    kept_for: float,
) -> None:
    """Makes a broadcast subscription that was removed again, where its owner had left off.

    ``held`` are the numbers of the events that it holds. Those behind the place come again. Nothing is lost,
    unless it has not received anything stored in the last ``kept_for`` seconds, so that events may have been
    removed: that counts as one loss.
    """
    values = owner.name, spec.topic, spec.name, True, owner.reached, now
    (owner.subscription,) = db.execute(_ADD, values).fetchone()
    db.execute(_ADD_OWNER, (owner.number, owner.name, owner.subscription))
    facts = {"subscription": owner.subscription, "owner": owner.number, "cursor": owner.reached}
    db.execute(_HOLD, {**facts, "held": json.dumps([*held])})
    if now - owner.seen_at >= kept_for:
        note_loss(db, spec.group, spec.topic, "away", 1)


def subscription_of(db: sqlite3.Connection, group: str, pattern: str) -> int | None:
    """Returns the number of a subscription, or None."""
    row = db.execute(
        "SELECT id FROM promenade_subscription WHERE service_group = ? AND pattern = ?", (group, pattern)
    ).fetchone()
    return None if row is None else int(row[0])


def end_broadcasts_of_the_dead(db: sqlite3.Connection, dead: dict[str, int | None]) -> None:
    """Removes broadcast subscriptions of dead instances. No other instance can take them over."""
    rows = db.execute(
        "SELECT each.id, each.service_group, owner.beats FROM promenade_subscription AS each"
        " LEFT JOIN promenade_owner AS owner ON owner.subscription = each.id WHERE each.broadcast"
    ).fetchall()
    for number, name, beats in rows:
        if beats is None or (name in dead and dead[name] == beats):
            db.execute("DELETE FROM promenade_delivery WHERE subscription = ?", (number,))
            db.execute("DELETE FROM promenade_subscription WHERE id = ?", (number,))
            db.execute("DELETE FROM promenade_owner WHERE subscription = ?", (number,))
