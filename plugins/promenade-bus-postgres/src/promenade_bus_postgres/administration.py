"""The groups in a database and replays, as ``bus_core.abc.Administration`` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from bus_core.abc import GroupFigures, Replayed, ReplayFilter
from bus_core.adapters import matches, replayed_at, row_for, text_of_attempts, unknown_group
from promenade_bus_postgres.connections import Connection
from promenade_bus_postgres.positions import NOW, POSITION
from promenade_bus_postgres.services import Services
from promenade_bus_postgres.siblings import siblings_of

__all__ = ["PostgresAdministration"]

_AT_ONCE: Final = 1_000
_MOST_BYTES: Final = 4_000_000
"""Events and bytes of bodies that one step hands out."""

_KEPT: Final = 7 * 86_400.0
"""Seconds for which the progress of a replay is kept."""

_WINDOW: Final = 20_000
"""Events of any topic that one step passes, at most: a statement has a time limit."""

_GROUPS: Final = f"""
SELECT own.id, own.service_group, own.name, own.pattern,
    (SELECT count(*) FROM promenade_delivery WHERE subscription = own.id),
    (SELECT count(*) FROM promenade_delivery WHERE subscription = own.id AND owner = 0),
    (SELECT count(*) FROM promenade_letter AS letter
        WHERE letter.service_group = own.service_group AND letter.pattern = own.pattern),
    (SELECT count(*) FROM promenade_owner WHERE subscription = own.id AND name <> ALL(%s::text[])),
    {NOW}
FROM promenade_subscription AS own WHERE NOT own.broadcast ORDER BY own.service_group, own.pattern"""

_ONE_SNAPSHOT: Final = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"

_EVENTS: Final = """
SELECT own.id, count(*), count(*) FILTER (WHERE (event.tx, event.seq) > (own.cursor_tx, own.cursor_seq)),
    min(published) FILTER (WHERE (event.tx, event.seq) > (own.cursor_tx, own.cursor_seq))
FROM promenade_subscription AS own
JOIN unnest(%s::bigint[], %s::int[]) AS asked (id, topic) ON asked.id = own.id
JOIN promenade_event AS event ON event.topic = asked.topic
GROUP BY own.id"""

_BEGIN: Final = f"""
INSERT INTO promenade_replay (id, service_group, at) VALUES (%(id)s, %(group)s, {NOW})
ON CONFLICT (id, service_group) DO UPDATE SET at = excluded.at
RETURNING tx, seq, events, unsettled, is_done"""

_NOTE: Final = """UPDATE promenade_replay
SET tx = %(tx)s, seq = %(seq)s, events = %(events)s, unsettled = %(unsettled)s, is_done = %(is_done)s
WHERE id = %(id)s AND service_group = %(group)s"""

_FORGET: Final = f"DELETE FROM promenade_replay WHERE at < {NOW} - %s"

_STEP: Final = f"""
WITH target AS (
    SELECT asked.topic, own.id, own.cursor_tx, own.cursor_seq FROM promenade_subscription AS own
    JOIN unnest(%(subscriptions)s::bigint[], %(topics)s::int[]) AS asked (id, topic) ON asked.id = own.id),
passed AS MATERIALIZED (
    SELECT tx, seq, topic FROM promenade_event WHERE (tx, seq) > (%(tx)s, %(seq)s)
    ORDER BY tx, seq LIMIT %(window)s),
found AS (
    SELECT event.*, target.id AS target, ((event.tx, event.seq) > (cursor_tx, cursor_seq) OR EXISTS (
        SELECT 1 FROM promenade_delivery AS held
        WHERE held.subscription = target.id AND held.tx = event.tx AND held.seq = event.seq)) AS is_unsettled
    FROM passed JOIN target ON target.topic = passed.topic
        JOIN promenade_event AS event ON event.tx = passed.tx AND event.seq = passed.seq
    WHERE (%(since)s::float8 IS NULL OR published >= %(since)s)
        AND (%(before)s::float8 IS NULL OR published < %(before)s)
        AND (%(ids)s::text[] IS NULL OR event.id = ANY(%(ids)s))
    ORDER BY event.tx, event.seq LIMIT %(limit)s),
sized AS (
    SELECT found.*, sum(octet_length(body)) OVER (ORDER BY tx, seq) - octet_length(body) AS before
    FROM found),
chosen AS MATERIALIZED (SELECT * FROM sized WHERE before < %(bytes)s),
copies AS (
    INSERT INTO promenade_event (tx, topic, id, key, headers, body, published)
    SELECT {POSITION}, -topic, id, key, headers, body, published FROM chosen
    WHERE %(hands_out)s AND NOT is_unsettled ORDER BY tx, seq RETURNING tx, seq, topic),
again AS (
    INSERT INTO promenade_delivery (subscription, tx, seq, owner, redelivered, history)
    SELECT target.id, copies.tx, copies.seq, 0, true, %(history)s
    FROM copies JOIN target ON target.topic = -copies.topic)
SELECT count(*) FILTER (WHERE NOT is_unsettled), count(*) FILTER (WHERE is_unsettled),
    (SELECT count(*) FROM passed) < %(window)s,
    (SELECT count(*) FROM found) < %(limit)s AND count(*) = (SELECT count(*) FROM found),
    (SELECT array_agg(DISTINCT target) FROM chosen WHERE NOT is_unsettled),
    (SELECT ARRAY[tx, seq] FROM chosen ORDER BY tx DESC, seq DESC LIMIT 1),
    (SELECT ARRAY[tx, seq] FROM passed ORDER BY tx DESC, seq DESC LIMIT 1)
FROM chosen"""

_NAMES: Final = "SELECT DISTINCT service_group FROM promenade_subscription WHERE NOT broadcast ORDER BY 1"


@attrs.define
class _Progress:
    """The progress of a replay: the position of the last event, and what came of those before."""

    tx: int = 0
    seq: int = 0
    events: int = 0
    unsettled: int = 0
    is_done: bool = False

    def told(self) -> Replayed:
        return Replayed(events=self.events, unsettled=self.unsettled, is_done=self.is_done)


class PostgresAdministration:
    """Implements ``bus_core.abc.Administration``; methods raise ``PostgresFailure``."""

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services

    # --- groups -------------------------------------------------------------------------------------------

    async def groups(self) -> Sequence[GroupFigures]:
        """Every group, once for each of its topics or patterns."""
        return await self._services().database.run(self._figures)

    def _figures(self, connection: Connection) -> Sequence[GroupFigures]:
        services = self._services()
        sql, topics = services.sql, services.topics
        with connection.transaction():
            connection.execute(_ONE_SNAPSHOT)  # an event that is handed out meanwhile counts once
            topics.learn(connection)
            rows = connection.execute(sql(_GROUPS), ([*services.heartbeats.dead],)).fetchall()
            asked = [(row[0], topic) for row in rows for topic in topics.matching(row[3])[1]]
            columns = [number for number, _ in asked], [topic for _, topic in asked]
            events = {row[0]: row[1:] for row in connection.execute(sql(_EVENTS), columns).fetchall()}
        found = []
        for number, group, name, pattern, held, waiting, dead, instances, now in rows:
            published, lag, oldest = events.get(number, (0, 0, None))
            found.append(
                GroupFigures(
                    group=group,
                    subscription=name,
                    topic=pattern,
                    instances=instances,
                    published=published,
                    backlog=held + lag,
                    lag=lag,
                    in_flight=held - waiting,
                    retries=waiting,
                    dead=dead,
                    oldest=None if oldest is None else max(0.0, now - oldest),
                )
            )
        return found

    # --- replay -------------------------------------------------------------------------------------------

    async def replay(self, group: str, where: ReplayFilter, *, replay_id: str | None, limit: int) -> Replayed:
        """Takes the next step of a replay; see ``bus_core.abc.Administration``."""
        services = self._services()
        if replay_id is None:
            return await self._count(group, where)
        facts = {"id": replay_id, "group": group}
        woken: set[int] = set()

        def run(connection: Connection) -> Replayed:
            with connection.transaction():
                row = connection.execute(services.sql(_BEGIN), facts).fetchone()
                assert row is not None, "it returns a row"
                progress = _Progress(*row)
                targets = self._targets(connection, group, where)
                if not progress.is_done:
                    most = min(limit, _AT_ONCE)
                    woken.update(self._step(connection, targets, where, progress, most, hands_out=True))
                    connection.execute(services.sql(_NOTE), {**facts, **attrs.asdict(progress)})
                    connection.execute(services.sql(_FORGET), (_KEPT,))
            return progress.told()

        told = await services.database.run(run)
        for subscription in woken:
            services.freed(subscription)
        return told

    async def _count(self, group: str, where: ReplayFilter) -> Replayed:
        """Counts in many short calls, because each has a time limit."""
        progress = _Progress()

        def run(connection: Connection) -> None:
            targets = self._targets(connection, group, where)
            self._step(connection, targets, where, progress, _AT_ONCE, hands_out=False)

        while not progress.is_done:
            await self._services().database.run(run)
        return progress.told()

    def _step(
        self,
        connection: Connection,
        targets: Sequence[tuple[int, int]],
        where: ReplayFilter,
        progress: _Progress,
        most: int,
        *,
        hands_out: bool,
    ) -> Sequence[int]:
        """Looks at the next events, and returns the subscriptions that got some."""
        facts: dict[str, Any] = {
            "subscriptions": [number for number, _ in targets],
            "topics": [topic for _, topic in targets],
            "tx": progress.tx,
            "seq": progress.seq,
            "since": None if where.stored_since is None else where.stored_since.timestamp(),
            "before": None if where.stored_before is None else where.stored_before.timestamp(),
            "ids": None if where.event_ids is None else sorted(where.event_ids),
            "limit": most,
            "window": _WINDOW,
            "bytes": _MOST_BYTES,
            "hands_out": hands_out,
            "history": text_of_attempts((replayed_at(datetime.now(UTC)),)),
        }
        row = connection.execute(self._services().sql(_STEP), facts).fetchone()
        assert row is not None, "it returns a row"
        events, unsettled, is_last, is_all, woken, last_chosen, last_passed = row
        progress.events += events
        progress.unsettled += unsettled
        progress.is_done = is_last and is_all
        last = last_passed if is_all else last_chosen
        if last is not None:
            progress.tx, progress.seq = last
        return woken or ()

    def _targets(self, connection: Connection, group: str, where: ReplayFilter) -> Sequence[tuple[int, int]]:
        """The subscription of each selected topic, and the topic; raises ``UnknownSubscription``."""
        services = self._services()
        sql, topics = services.sql, services.topics
        topics.learn(connection)
        rows = siblings_of(connection, sql, group, services.heartbeats.dead)
        if not rows:
            known = [name for (name,) in connection.execute(sql(_NAMES)).fetchall()]
            raise unknown_group(group, known, f"the database at {services.database.place}")
        selected = dict.fromkeys(topic for each in rows for topic in topics.matching(each.pattern)[1])
        names = {topic: topics.known_name_of(topic) for topic in selected}
        return [
            (row.number, topic)
            for topic, name in names.items()
            if (where.topic is None or matches(where.topic, name)) and (row := row_for(rows, name))
        ]
