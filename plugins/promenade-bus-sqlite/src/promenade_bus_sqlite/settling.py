"""Settling. The statement that changes a delivery also checks its owner."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from bus_core import BusError, LeaseLost, Outcome
from bus_core.adapters import text_of_attempts, text_of_letter
from promenade_bus_sqlite.claiming import Held, Owner
from promenade_bus_sqlite.schema import NOBODY

__all__ = ["Settler"]

_LOST: Final = "somebody else owns the message, or it was settled before"


class Settler:
    """The SQL statements with which one consumer settles. Used in the worker's thread only."""

    def __init__(self, owner: Owner, group: str, pattern: str) -> None:
        self._owner = owner
        self._group = group
        self._pattern = pattern

    def settle(
        self, db: sqlite3.Connection, outcomes: Sequence[Outcome], now: float
    ) -> Sequence[BusError | None]:
        """Settles outcomes and returns one result for each. See ``bus_core.Consumer``."""
        results: list[BusError | None] = [None] * len(outcomes)
        acks: dict[int, int] = {}
        for index, outcome in enumerate(outcomes):
            held: Held = outcome.receipt
            if outcome.action == "ack" and held.seq not in acks:
                acks[held.seq] = index
            elif outcome.action == "ack" or not self._settle(db, outcome, held, now):
                results[index] = LeaseLost(_LOST)
        for seq in self._acknowledge(db, sorted(acks)):
            results[acks[seq]] = LeaseLost(_LOST)
        return results

    def _acknowledge(self, db: sqlite3.Connection, seqs: Sequence[int]) -> Iterable[int]:
        """Deletes deliveries. Returns those that this owner does not own any more."""
        if not seqs:
            return ()
        me = self._owner
        if seqs[-1] - seqs[0] == len(seqs) - 1:
            condition: tuple[str, tuple[Any, ...]] = "seq BETWEEN ? AND ?", (seqs[0], seqs[-1])
        else:
            condition = "seq IN (SELECT value FROM json_each(?))", (json.dumps(seqs),)
        owned = f"promenade_delivery WHERE subscription = ? AND owner = ? AND {condition[0]}"
        values = me.subscription, me.number, *condition[1]
        (count,) = db.execute(f"SELECT count(*) FROM {owned}", values).fetchone()
        lost: Iterable[int] = ()
        if count < len(seqs):
            kept = {seq for (seq,) in db.execute(f"SELECT seq FROM {owned}", values)}
            lost = [seq for seq in seqs if seq not in kept]
        db.execute(f"DELETE FROM {owned}", values)
        return lost

    def _delete(self, db: sqlite3.Connection, seq: int) -> bool:
        deleted = db.execute(
            "DELETE FROM promenade_delivery WHERE subscription = ? AND seq = ? AND owner = ?",
            (self._owner.subscription, seq, self._owner.number),
        )
        return deleted.rowcount > 0

    def _settle(self, db: sqlite3.Connection, outcome: Outcome, held: Held, now: float) -> bool:
        if outcome.action == "dead_letter":
            return self._delete(db, held.seq) and self._bury(db, outcome, held)
        is_held = outcome.action == "hold"
        delay = outcome.delay
        changed = db.execute(
            "UPDATE promenade_delivery SET owner = ?, attempt = ?, redelivered = 1, history = ?, waited = ?,"
            " due = ?, delay = ? WHERE subscription = ? AND seq = ? AND owner = ?",
            (
                self._owner.number if is_held else NOBODY,
                outcome.attempt,
                text_of_attempts(outcome.history) if outcome.history else None,
                outcome.waited,
                now + delay if delay else 0.0,
                delay,
                self._owner.subscription,
                held.seq,
                self._owner.number,
            ),
        )
        return changed.rowcount > 0

    def _bury(self, db: sqlite3.Connection, outcome: Outcome, held: Held) -> bool:
        letter = outcome.letter
        assert letter is not None, "a dead letter is with the outcome"
        db.execute(
            "INSERT INTO promenade_letter (id, topic, subscription, service_group, pattern, message_id,"
            " published, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                letter.id,
                letter.topic,
                letter.subscription,
                self._group,
                self._pattern,
                held.message.id,
                held.published,
                text_of_letter(letter),
            ),
        )
        return True
