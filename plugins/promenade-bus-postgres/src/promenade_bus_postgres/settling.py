"""Settling. The statement that changes a delivery also checks its owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bus_core import BusError, LeaseLost, Outcome
from bus_core.adapters import text_of_attempts, text_of_letter
from promenade_bus_postgres.claiming import Held
from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.positions import NOW
from promenade_bus_postgres.subscriptions import IS_MINE, Owner

__all__ = ["Settler"]

_LOST: Final = "somebody else owns the message, or it was settled before"

_OWNED: Final = f"""each.subscription = %(key)s AND each.owner = %(me)s
AND each.tx = done.tx AND each.seq = done.seq AND EXISTS ({IS_MINE})"""

_ACK: Final = f"""
DELETE FROM promenade_delivery AS each USING unnest(%(txs)s::bigint[], %(seqs)s::bigint[]) AS done (tx, seq)
WHERE {_OWNED} RETURNING each.seq"""

_KEEP: Final = f"""
UPDATE promenade_delivery AS each
SET owner = done.owner, attempt = done.attempt, died = 0, redelivered = true,
    history = done.history, waited = done.waited, delay = done.delay,
    due = CASE WHEN done.delay > 0 THEN {NOW} + done.delay ELSE 0 END
FROM unnest(%(txs)s::bigint[], %(seqs)s::bigint[], %(owners)s::bigint[], %(attempts)s::int[],
    %(histories)s::text[], %(waits)s::float8[], %(delays)s::float8[])
    AS done (tx, seq, owner, attempt, history, waited, delay)
WHERE {_OWNED} RETURNING each.seq"""

_BURY: Final = f"""
WITH new AS (SELECT * FROM unnest(%(txs)s::bigint[], %(seqs)s::bigint[], %(ids)s::text[],
    %(topics)s::text[], %(names)s::text[], %(messages)s::text[], %(times)s::float8[], %(texts)s::text[])
    WITH ORDINALITY AS done (tx, seq, id, topic, name, message, published, text, place)),
buried AS (
    DELETE FROM promenade_delivery AS each USING new AS done WHERE {_OWNED} RETURNING each.tx, each.seq),
letters AS (
    INSERT INTO promenade_letter
        (id, topic, subscription, service_group, pattern, message_id, published, text)
    SELECT id, topic, name, %(group)s, %(pattern)s, message, published, text
    FROM new JOIN buried USING (tx, seq) ORDER BY place)
SELECT seq FROM buried"""

_REMOVE: Final = """
DELETE FROM promenade_event AS each USING unnest(%(txs)s::bigint[], %(seqs)s::bigint[]) AS done (tx, seq)
WHERE each.topic < 0 AND each.tx = done.tx AND each.seq = done.seq"""

Asked = dict[int, tuple[int, Outcome]]
"""Outcomes by the number of their event, each with its place in the call."""


class Settler:
    """The statements with which one consumer settles. An outcome comes into one of three of them."""

    def __init__(self, sql: Sql, owner: Owner, group: str, pattern: str) -> None:
        self._sql = sql
        self._owner = owner
        self._group = group
        self._pattern = pattern

    def settle(self, connection: Connection, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Settles outcomes, all or none, and returns one result for each. See ``bus_core.Consumer``."""
        results: list[BusError | None] = [LeaseLost(_LOST) for _ in outcomes]
        acks: Asked = {}
        letters: Asked = {}
        kept: Asked = {}
        for place, outcome in enumerate(outcomes):
            held: Held = outcome.receipt
            asked = {"ack": acks, "dead_letter": letters}.get(outcome.action, kept)
            if not any(held.seq in each for each in (acks, letters, kept)):
                asked[held.seq] = place, outcome
        parts = [
            (statement, facts, asked)
            for statement, facts, asked in (
                (_BURY, self._letters(letters), letters),
                (_KEEP, self._kept(kept), kept),
                (_ACK, {}, acks),
            )
            if asked
        ]
        if len(parts) == 1:
            self._do(connection, *parts[0], results)
        elif parts:
            with connection.transaction():
                for part in parts:
                    self._do(connection, *part, results)
        return results

    def _do(
        self,
        connection: Connection,
        statement: str,
        facts: Mapping[str, object],
        asked: Asked,
        results: list[BusError | None],
    ) -> None:
        me = {**self._owner.facts(), "group": self._group, "pattern": self._pattern}
        receipts: list[Held] = [outcome.receipt for _, outcome in asked.values()]
        columns = {"txs": [each.tx for each in receipts], "seqs": [*asked]}
        for (seq,) in connection.execute(self._sql(statement), {**me, **columns, **facts}).fetchall():
            results[asked[seq][0]] = None
        # A redriven event has a body of its own, which belongs to whoever owns the delivery.
        redriven = [each for each in receipts if each.is_redriven and results[asked[each.seq][0]] is None]
        if redriven and statement is not _KEEP:
            done = {"txs": [each.tx for each in redriven], "seqs": [each.seq for each in redriven]}
            connection.execute(self._sql(_REMOVE), done)

    def _letters(self, asked: Asked) -> Mapping[str, object]:
        letters = [outcome.letter for _, outcome in asked.values()]
        receipts: list[Held] = [outcome.receipt for _, outcome in asked.values()]
        assert all(letter is not None for letter in letters), "a dead letter is with the outcome"
        return {
            "ids": [letter.id for letter in letters if letter],
            "topics": [letter.topic for letter in letters if letter],
            "names": [letter.subscription for letter in letters if letter],
            "messages": [each.message.id for each in receipts],
            "times": [each.published for each in receipts],
            "texts": [text_of_letter(letter) for letter in letters if letter],
            "group": self._group,
            "pattern": self._pattern,
        }

    def _kept(self, asked: Asked) -> Mapping[str, object]:
        outcomes = [outcome for _, outcome in asked.values()]
        return {
            "owners": [self._owner.number if each.action == "hold" else 0 for each in outcomes],
            "attempts": [each.attempt for each in outcomes],
            "histories": [text_of_attempts(each.history) if each.history else None for each in outcomes],
            "waits": [each.waited for each in outcomes],
            "delays": [each.delay for each in outcomes],
        }
