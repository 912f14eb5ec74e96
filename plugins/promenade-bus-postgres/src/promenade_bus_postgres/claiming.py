"""Claims messages for a subscription: deliveries that came free, and events behind its cursor.

Each claim is one statement. The row of the subscription is locked while its cursor moves, so the instances
of a group take events in turns. Free deliveries are locked by ``SKIP LOCKED``, except in an ordered
subscription, where none may be passed over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from bus_core import Attempt, Message, Received
from bus_core.adapters import attempts_of, headers_of, with_death
from bus_core.events import is_pattern
from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.positions import HORIZON, NOW
from promenade_bus_postgres.subscriptions import IS_MINE, ForgottenSubscription, Owner
from promenade_bus_postgres.topics import TOPICS_MARK, Topics

__all__ = ["Claim", "Claims", "Held"]

_MOST_BYTES: Final = 4_000_000
"""Bytes of bodies that one claim brings; a larger message comes alone."""

_WINDOW: Final = 5_000
"""Events that a claim of a pattern looks through, whatever their topics."""

_WINDOWS: Final = 5
"""Windows without a matching event that are passed within one claim."""

# The facts come in any case, in one row without an event if there is none.
_FRESH: Final = """
WITH facts AS MATERIALIZED (
    SELECT active,
        (SELECT min(due) FROM promenade_delivery WHERE subscription = %(key)s AND owner = 0) AS due,
        {now} AS now, {others} AS others, {topics} AS topics
    FROM ({mine}) AS mine, promenade_subscription AS own WHERE own.id = mine.id),
turn AS MATERIALIZED (
    SELECT cursor_tx, cursor_seq FROM promenade_subscription
    WHERE id = %(key)s AND EXISTS (SELECT 1 FROM facts) AND {may} FOR UPDATE),
{source}
sized AS (
    SELECT tx, seq, sum(octet_length(body)) OVER (ORDER BY tx, seq) - octet_length(body) AS before
    FROM source),
fresh AS MATERIALIZED (
    SELECT event.* FROM sized JOIN promenade_event AS event USING (tx, seq)
    WHERE before < %(bytes)s ORDER BY tx, seq),
{taken},
{reached}
moved AS (
    UPDATE promenade_subscription SET cursor_tx = reached.tx, cursor_seq = reached.seq FROM reached
    WHERE id = %(key)s)
SELECT facts.active, facts.due, facts.now, facts.others, facts.topics, {held}, {more},
    fresh.tx, fresh.seq, fresh.topic, {name}, fresh.id, fresh.key, fresh.headers, fresh.body, fresh.published
FROM facts LEFT JOIN fresh ON {given} ORDER BY fresh.tx, fresh.seq"""

_TOPIC: Final = "(SELECT id FROM promenade_topic WHERE name = %(pattern)s)"

# A join with the cursor would lose the order of the index, and sort everything behind the cursor.
_BEHIND: Final = "(event.tx, event.seq) > ((SELECT cursor_tx FROM turn), (SELECT cursor_seq FROM turn))"

_OF_TOPIC: Final = f"""
source AS (
    SELECT event.tx, event.seq, event.body FROM promenade_event AS event
    WHERE event.topic = {_TOPIC} AND {_BEHIND} AND event.tx < {HORIZON}
    ORDER BY event.tx, event.seq LIMIT %(limit)s),"""

# The last event tells: the planner would look through all of them for one that is not final.
_HELD_OF_TOPIC: Final = f"""EXISTS (SELECT 1 FROM promenade_subscription AS own, (
        SELECT tx, seq FROM promenade_event WHERE topic = {_TOPIC}
        ORDER BY tx DESC, seq DESC LIMIT 1) AS last
    WHERE own.id = %(key)s AND last.tx >= {HORIZON}
        AND (last.tx, last.seq) > (own.cursor_tx, own.cursor_seq))"""

_LAST_OF_FRESH: Final = "reached AS (SELECT tx, seq FROM fresh ORDER BY tx DESC, seq DESC LIMIT 1),"

# A pattern passes over events of other topics. It stops before all events while it does not know every topic.
_OF_PATTERN: Final = f"""
scanned AS MATERIALIZED (
    SELECT event.tx, event.seq, event.topic FROM promenade_event AS event
    WHERE {_BEHIND} AND event.tx < {HORIZON} AND {TOPICS_MARK} = %(known)s
    ORDER BY event.tx, event.seq LIMIT %(window)s),
source AS (
    SELECT tx, seq, body FROM scanned JOIN promenade_event AS event USING (tx, seq)
    WHERE scanned.topic = ANY(%(topics)s::int[]) ORDER BY tx, seq LIMIT %(limit)s),"""

_HELD_OF_PATTERN: Final = f"coalesce((SELECT max(tx) FROM promenade_event) >= {HORIZON}, false)"

_LAST_OF_SCANNED: Final = """
rest AS (SELECT (SELECT count(*) FROM fresh) < %(limit)s
    AND (SELECT count(*) FROM fresh) = (SELECT count(*) FROM source) AS is_all),
reached AS (SELECT tx, seq FROM (
    (SELECT tx, seq FROM scanned WHERE (SELECT is_all FROM rest) ORDER BY tx DESC, seq DESC LIMIT 1)
    UNION ALL (SELECT tx, seq FROM fresh ORDER BY tx DESC, seq DESC LIMIT 1)) AS both_ends
    ORDER BY tx DESC, seq DESC LIMIT 1),"""

_TAKEN: Final = """
taken AS (
    INSERT INTO promenade_delivery (subscription, tx, seq, owner)
    SELECT %(key)s, tx, seq, %(me)s FROM fresh)"""

# Retries of before the subscription was ordered, which are not due. Events of their keys wait behind them.
_TAKEN_IN_ORDER: Final = """
parked AS MATERIALIZED (
    SELECT key, max(due) AS due, max(delay) AS delay
    FROM promenade_delivery JOIN promenade_event USING (tx, seq)
    WHERE subscription = %(key)s AND owner = 0 GROUP BY key),
taken AS (
    INSERT INTO promenade_delivery (subscription, tx, seq, owner, due, delay)
    SELECT %(key)s, tx, seq, CASE WHEN due IS NULL THEN %(me)s ELSE 0 END,
        coalesce(due, 0), coalesce(delay, 0)
    FROM fresh LEFT JOIN parked USING (key))"""

_OTHERS: Final = f"""EXISTS (SELECT 1 FROM promenade_delivery
    WHERE subscription = %(key)s AND owner <> %(me)s AND (owner <> 0 OR due <= {NOW}))"""

_GONE: Final = """
gone AS MATERIALIZED (
    SELECT owner.id FROM promenade_owner AS owner
    JOIN unnest(%(dead)s::text[], %(beats)s::bigint[]) AS dead (name, beats)
        ON dead.name = owner.name AND dead.beats = owner.beats
    WHERE owner.subscription = %(key)s ORDER BY owner.id FOR UPDATE OF owner)"""
"""Owners whose heartbeats have stopped since; they cannot go on before the claim is over."""

# While an owner holds a delivery for its retry, ``due`` says until when: no handler runs, and a death then is
# no attempt. It is 0 from when an attempt begins.
# The clock in a subquery is read once, so that the index of due deliveries can be used. The two parts behind
# it look at all deliveries of the subscription: the planner skips them whole unless somebody has died, and
# except once in a lease.
_FREE: Final = f"""
WITH {_GONE},
mine AS MATERIALIZED ({IS_MINE}),
found AS (
    (SELECT tx, seq, owner FROM (
        SELECT tx, seq, owner, due FROM promenade_delivery
        WHERE subscription = %(key)s AND owner = 0 {{due}}AND EXISTS (SELECT 1 FROM mine)
        {{fence}}) AS due ORDER BY {{first}}tx, seq LIMIT %(limit)s)
    UNION ALL
    (SELECT tx, seq, owner FROM promenade_delivery
        WHERE EXISTS (SELECT 1 FROM gone) AND EXISTS (SELECT 1 FROM mine)
            AND subscription = %(key)s AND owner = ANY(ARRAY(SELECT id FROM gone))
        ORDER BY tx, seq LIMIT %(limit)s)
    UNION ALL
    (SELECT tx, seq, owner FROM promenade_delivery
        WHERE %(orphans)s::boolean AND EXISTS (SELECT 1 FROM mine)
            AND subscription = %(key)s AND owner <> 0 AND NOT EXISTS (
                SELECT 1 FROM promenade_owner AS living
                WHERE living.id = promenade_delivery.owner AND living.subscription = %(key)s)
        ORDER BY tx, seq LIMIT %(limit)s)
    ORDER BY tx, seq LIMIT %(limit)s),
sized AS MATERIALIZED (
    SELECT found.*, sum(coalesce(octet_length(body), 0)) OVER (ORDER BY tx, seq)
        - coalesce(octet_length(body), 0) AS before
    FROM found LEFT JOIN promenade_event USING (tx, seq)),
locked AS MATERIALIZED (
    SELECT each.tx, each.seq, each.owner, each.due, each.delay FROM promenade_delivery AS each
    JOIN sized ON sized.tx = each.tx AND sized.seq = each.seq AND sized.owner = each.owner
    WHERE each.subscription = %(key)s AND before < %(bytes)s
    ORDER BY each.tx, each.seq FOR UPDATE OF each {{skip}}),
claimed AS (
    UPDATE promenade_delivery AS each SET owner = %(me)s, attempt = attempt + died.one,
        died = died + died.one, redelivered = redelivered OR died.one = 1,
        due = CASE WHEN died.rest > 0 THEN {NOW} + died.rest ELSE 0 END
    FROM (SELECT tx, seq, (owner <> 0 AND due = 0)::int AS one,
        greatest(0, least(due - (SELECT {NOW}), delay)) AS rest FROM locked) AS died
    WHERE each.subscription = %(key)s AND each.tx = died.tx AND each.seq = died.seq
    RETURNING each.tx, each.seq, attempt, each.died, redelivered, history, waited, died.rest,
        died.one = 1 AS owner_died)
SELECT claimed.tx, claimed.seq, attempt, died, redelivered, history, waited, rest, owner_died,
    event.topic, (SELECT name FROM promenade_topic WHERE promenade_topic.id = abs(event.topic)),
    event.id, event.key, event.headers, event.body, event.published,
    (SELECT count(*) FROM found) = %(limit)s OR (SELECT count(*) FROM claimed) < (SELECT count(*) FROM found)
FROM claimed LEFT JOIN promenade_event AS event ON event.tx = claimed.tx AND event.seq = claimed.seq
ORDER BY claimed.tx, claimed.seq"""

# Deliveries that the owner claimed and its consumer never got, because the answer was lost.
_GIVE_BACK: Final = f"""
UPDATE promenade_delivery SET owner = 0
WHERE subscription = %(key)s AND owner = %(me)s AND seq <> ALL(%(held)s::bigint[]) AND EXISTS ({IS_MINE})"""

_TURN: Final = f"""
WITH {_GONE}
UPDATE promenade_subscription SET active = %(me)s
WHERE id = %(key)s AND active = %(seen)s AND (%(seen)s = 0 OR %(seen)s IN (SELECT id FROM gone)
    OR NOT EXISTS (SELECT 1 FROM promenade_owner WHERE id = %(seen)s))
RETURNING 1"""

_MISSING: Final = """
WITH missing AS (DELETE FROM promenade_delivery AS each USING unnest(%(txs)s::bigint[], %(seqs)s::bigint[])
    AS lost (tx, seq) WHERE each.subscription = %(key)s AND each.tx = lost.tx AND each.seq = lost.seq
    RETURNING 1)
INSERT INTO promenade_loss SELECT %(group)s, %(pattern)s, 'missing', count(*) FROM missing HAVING count(*) > 0
ON CONFLICT (service_group, topic, reason) DO UPDATE SET events = promenade_loss.events + excluded.events"""


_FAULT: Final = "its row is not what the bus has written"


@attrs.define(eq=False)
class Held:
    """The receipt of a delivery."""

    tx: int
    seq: int
    message: Message
    published: float
    is_redriven: bool


@attrs.define
class Claim:
    """The result of a claim. ``wait`` is the seconds until the next delivery is due, None where none waits.

    ``is_held`` says that there are events which are not final yet, and ``more`` that there may be more now.
    """

    received: Sequence[Received]
    wait: float | None = None
    is_held: bool = False
    more: bool = False


class Claims:
    """The statements with which one consumer receives. Used by one thread at a time."""

    def __init__(
        self,
        sql: Sql,
        topics: Topics,
        owner: Owner,
        pattern: str,
        group: str,
        *,
        ordered: bool,
        lease: float,
    ) -> None:
        self._sql = sql
        self._topics = topics
        self._owner = owner
        self._pattern = pattern
        self._group = group
        self._ordered = ordered
        self._is_pattern = is_pattern(pattern)
        self._may_be_free = True
        self._lease = lease
        # Dead owners that had left nothing here: their numbers, and when that was. A claim of theirs may
        # still be committed later, so that it is looked for again.
        self._emptied: dict[str, tuple[int, float]] = {}
        self._orphans_at = -math.inf
        self._published = -1.0  # of the last event, and the same as a datetime
        self._published_at = datetime.fromtimestamp(0.0, UTC)
        self._fresh = sql(_fresh_statement(is_pattern=self._is_pattern, ordered=ordered))
        self._free = sql(_free_statement(ordered=ordered))
        self._turn = sql(_TURN)

    @property
    def _facts(self) -> dict[str, Any]:
        return {**self._owner.facts(), "group": self._group, "pattern": self._pattern, "bytes": _MOST_BYTES}

    def claim(self, connection: Connection, limit: int, dead: Mapping[str, int | None]) -> Claim:
        """Assigns deliveries to the owner: first those that became free, then fresh events."""
        now = time.monotonic()
        fresh_dead = {
            name: beats
            for name, beats in dead.items()
            if beats is not None and not self._is_emptied(name, beats, now)
        }
        looks_for_orphans = self._looks_for_orphans(now)
        if (self._may_be_free or fresh_dead or looks_for_orphans) and not self._ordered:
            received, is_more = self._reclaim(connection, limit, fresh_dead)
            if received or is_more:  # at once: an error of what follows must not strand them
                return Claim(received, more=True)
        claim = self._claim_fresh(connection, limit)
        if not self._ordered:
            return claim
        return self._in_turn(connection, limit, fresh_dead, claim)

    def _is_emptied(self, name: str, beats: int, now: float) -> bool:
        seen = self._emptied.get(name)
        return seen is not None and seen[0] == beats and now - seen[1] < self._lease

    def _looks_for_orphans(self, now: float) -> bool:
        """True once in a lease: deliveries whose owner has no row are found by looking at all of them."""
        return now - self._orphans_at >= self._lease

    def give_back(self, connection: Connection, held: Sequence[int]) -> None:
        """Frees deliveries of the owner that its consumer does not hold: their claim failed, or was left."""
        connection.execute(self._sql(_GIVE_BACK), {**self._facts, "held": [*held]})
        self._may_be_free = True

    def look_for_free(self) -> None:
        """Deliveries may have come free; may be called from another thread."""
        self._may_be_free = True

    # --- ordered subscriptions ----------------------------------------------------------------------------

    def _in_turn(self, connection: Connection, limit: int, dead: Mapping[str, int], claim: Claim) -> Claim:
        """Takes the turn if it came free, and what the owner before has left, before anything fresh."""
        if claim.received:
            return claim
        if self._active != self._owner.number:
            facts = {**self._facts, "seen": self._active, **_columns(dead)}
            if connection.execute(self._turn, facts).fetchone() is None:
                return Claim([])
            return Claim([], more=True)
        if not self._others:
            return claim
        received, is_more = self._reclaim(connection, limit, dead)
        return Claim(received, wait=claim.wait, more=is_more or bool(received))

    # --- deliveries that came free ------------------------------------------------------------------------

    def _reclaim(
        self, connection: Connection, limit: int, dead: Mapping[str, int]
    ) -> tuple[list[Received], bool]:
        """Returns due deliveries and those of dead owners, and True if there are more than it found."""
        self._may_be_free = False  # before the look: what comes free meanwhile sets it again
        now = time.monotonic()
        orphans = self._looks_for_orphans(now)
        with connection.cursor(binary=True) as cursor:
            cursor.execute(self._free, {**self._facts, "limit": limit, "orphans": orphans, **_columns(dead)})
            rows = cursor.fetchall()
        received: list[Received] = []
        lost: list[tuple[int, int]] = []
        for tx, seq, attempt, died, redelivered, history, waited, rest, owner_died, topic, *event, _ in rows:
            if topic is None:
                lost.append((tx, seq))
                continue
            taken = self._received((tx, seq, topic, *event))
            try:
                attempts: tuple[Attempt, ...] = () if history is None else attempts_of(history)
            except Exception:  # whatever a converter raises for what another program has written
                attempts, taken.fault = (), _FAULT
            for number in range(attempt - died, attempt):
                attempts = with_death(attempts, number)
            taken.attempt, taken.redelivered, taken.history = attempt, redelivered, attempts
            taken.waited, taken.delay, taken.owner_died = waited, rest, owner_died
            received.append(taken)
        if lost:
            self._lost(connection, lost)
        is_all = not rows or not rows[0][-1]
        if is_all:
            if orphans:
                self._orphans_at = now
            kept = {name: seen for name, seen in self._emptied.items() if now - seen[1] < self._lease}
            self._emptied = kept | {name: (beats, now) for name, beats in dead.items()}
        else:
            self._may_be_free = True
        return received, bool(rows) and not is_all

    def _lost(self, connection: Connection, lost: Sequence[tuple[int, int]]) -> None:
        """Counts events that were deleted before their delivery, by another program or by ``max_length``."""
        txs, seqs = [tx for tx, _ in lost], [seq for _, seq in lost]
        facts = {"txs": txs, "seqs": seqs, **self._facts}
        connection.execute(self._sql(_MISSING), facts)

    # --- events behind the cursor -------------------------------------------------------------------------

    def _claim_fresh(self, connection: Connection, limit: int) -> Claim:
        facts: dict[str, Any] = {**self._facts, "limit": limit}
        for _ in range(_WINDOWS):
            if self._is_pattern:
                known, topics = self._topics.matching(self._pattern)
                facts.update(known=known, topics=topics, window=max(_WINDOW, limit))
            else:
                known = 0
            with connection.cursor(binary=True) as cursor:
                cursor.execute(self._fresh, facts)
                rows = cursor.fetchall()
            if not rows:
                raise ForgottenSubscription(self._group, self._pattern)
            self._active, due, now, self._others, topics_now, held, more, *_ = rows[0]
            if topics_now != known:
                self._topics.learn(connection)
                continue
            received = [self._received(row[7:]) for row in rows if row[7] is not None]
            if received:
                # Behind the last one there may be more, as old as it is.
                last: Held = received[-1].receipt
                self._owner.reached = last.tx, last.seq
                self._owner.seen_at = max(self._owner.seen_at, min(now, last.published))
            elif not more and not held:
                self._owner.seen_at = max(self._owner.seen_at, now)
            size = sum(len(each.message.body) for each in received)
            more = more or len(received) == limit or size >= _MOST_BYTES
            is_due = due is not None and due <= now
            if is_due:
                self._may_be_free = True
            if received or is_due or not more:
                break
        else:
            return Claim([], more=True)
        wait = None if due is None else max(0.0, due - now)
        return Claim(received, wait, held, more or is_due)

    # --- rows ---------------------------------------------------------------------------------------------

    def _received(self, row: Sequence[Any]) -> Received:
        tx, seq, topic, name, message_id, key, headers, body, published = row
        name = (name or "") if self._is_pattern else self._pattern
        fault = None
        try:
            if published != self._published:
                self._published_at = datetime.fromtimestamp(published, UTC)
                self._published = published
            at = self._published_at
            message = Message(message_id, name, key.decode(), body, headers_of(headers))
        except (TypeError, ValueError, OverflowError, AttributeError):
            # Another program wrote or changed it: it becomes a dead letter, with its body unchanged.
            fault = _FAULT
            message, at = Message("", name, "", body), datetime.now(UTC)
        receipt = Held(tx, seq, message, published, topic < 0)
        return Received(message=message, receipt=receipt, published_at=at, fault=fault)


def _columns(dead: Mapping[str, int]) -> dict[str, Any]:
    return {"dead": [*dead], "beats": [*dead.values()]}


def _free_statement(*, ordered: bool) -> str:
    """The statement for one kind of subscription. ``OFFSET 0`` keeps the planner from following the order.

    An ordered one takes what is not due as well: only its key waits for it.
    """
    if ordered:
        return _FREE.format(due="", fence="OFFSET 0", first="", skip="")
    return _FREE.format(due=f"AND due <= (SELECT {NOW}) ", fence="", first="due, ", skip="SKIP LOCKED")


def _fresh_statement(*, is_pattern: bool, ordered: bool) -> str:
    """The statement for one kind of subscription."""
    may = f"active = %(me)s AND NOT {_OTHERS}" if ordered else "true"
    more = "(SELECT count(*) FROM scanned) = %(window)s" if is_pattern else "false"
    if ordered:
        more += " OR EXISTS (SELECT 1 FROM fresh JOIN parked USING (key))"
    return _FRESH.format(
        now=NOW,
        mine=IS_MINE,
        others=_OTHERS if ordered else "false",
        topics=TOPICS_MARK if is_pattern else "0",
        name="(SELECT name FROM promenade_topic WHERE promenade_topic.id = fresh.topic)"
        if is_pattern
        else "NULL",
        may=may,
        source=_OF_PATTERN if is_pattern else _OF_TOPIC,
        taken=_TAKEN_IN_ORDER if ordered else _TAKEN,
        given="fresh.key NOT IN (SELECT key FROM parked)" if ordered else "true",
        reached=_LAST_OF_SCANNED if is_pattern else _LAST_OF_FRESH,
        held=_HELD_OF_PATTERN if is_pattern else _HELD_OF_TOPIC,
        more=more,
    )
