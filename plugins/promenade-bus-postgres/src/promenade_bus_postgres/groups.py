"""The groups in a database: what each is owed, and how one is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bus_core.adapters import GroupReport, groups_to_forget
from bus_core.events import is_pattern
from promenade_bus_postgres.connections import Connection, Sql
from promenade_bus_postgres.positions import NOW
from promenade_bus_postgres.services import Services
from promenade_bus_postgres.topics import Topics

__all__ = ["PostgresGroups", "backlogs_of"]

_HELD: Final = (
    "SELECT subscription, count(*) FROM promenade_delivery WHERE subscription = ANY(%s::bigint[]) GROUP BY 1"
)

_UNREAD: Final = """
SELECT own.id, count(*) FROM promenade_subscription AS own
JOIN unnest(%s::bigint[], %s::int[]) AS asked (id, topic) ON asked.id = own.id
JOIN promenade_event AS new ON new.topic = asked.topic
    AND (new.tx, new.seq) > (own.cursor_tx, own.cursor_seq)
GROUP BY own.id"""

_BOTH: Final = f"""
SELECT own.id, coalesce(held.number, 0) + coalesce(unread.number, 0) FROM promenade_subscription AS own
LEFT JOIN ({_HELD}) AS held (id, number) ON held.id = own.id
LEFT JOIN ({_UNREAD}) AS unread (id, number) ON unread.id = own.id
WHERE own.id = ANY(%s::bigint[])"""

_GROUPS: Final = f"""
SELECT id, service_group, pattern, {NOW} - served FROM promenade_subscription WHERE NOT broadcast
ORDER BY service_group, pattern"""

_OWNERS: Final = """
SELECT owner.name FROM promenade_owner AS owner
JOIN promenade_subscription AS own ON own.id = owner.subscription
WHERE own.service_group = %s"""

_ALIVE: Final = "SELECT subscription FROM promenade_owner WHERE name <> ALL(%s::text[])"

_FORGET: Final = """
WITH gone AS (
    DELETE FROM promenade_subscription WHERE service_group = %s AND pattern = ANY(%s::text[]) RETURNING id),
held AS (DELETE FROM promenade_delivery USING gone WHERE subscription = gone.id)
DELETE FROM promenade_owner USING gone WHERE subscription = gone.id"""


def backlogs_of(
    connection: Connection, sql: Sql, topics: Topics, patterns: Mapping[int, str]
) -> Mapping[int, int]:
    """The number of unsettled messages of each subscription: deliveries, and events behind its cursor."""
    known = topics.learn(connection)
    asked: list[tuple[int, int]] = []
    for subscription, pattern in patterns.items():
        if is_pattern(pattern):
            asked += [(subscription, topic) for topic in topics.matching(pattern)[1]]
        elif pattern in known:
            asked.append((subscription, known[pattern]))
    ids = [*patterns]
    unread = [subscription for subscription, _ in asked], [topic for _, topic in asked]
    return dict(connection.execute(sql(_BOTH), (ids, *unread, ids)).fetchall())


class PostgresGroups:
    """The groups of a started adapter."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self) -> Sequence[GroupReport]:
        """Every group, by its name. Raises ``PostgresFailure``."""
        return await self._services.database.run(self._reports)

    def _reports(self, connection: Connection) -> Sequence[GroupReport]:
        services, sql = self._services, self._services.sql
        rows = connection.execute(sql(_GROUPS)).fetchall()
        owners = connection.execute(sql(_ALIVE), ([*services.heartbeats.dead],)).fetchall()
        alive = [subscription for (subscription,) in owners]
        patterns = {number: pattern for number, _, pattern, _ in rows}
        backlogs = backlogs_of(connection, sql, services.topics, patterns)
        return [
            GroupReport(
                group=group,
                topic=pattern,
                backlog=backlogs.get(number, 0),
                instances=alive.count(number),
                unserved=0.0 if number in alive else max(0.0, since),
            )
            for number, group, pattern, since in rows
        ]

    async def forget(
        self, group: str, *, topic: str | None = None, force: bool = False
    ) -> Sequence[GroupReport]:
        """Removes a group, on one topic or pattern or on all; its dead letters stay.

        Without ``force``, waits until its instances are known to live or to be dead: a lease at most. Returns
        what it was owed. Raises ``UnknownSubscription`` and ``GroupInUse``, and removes nothing then.
        """
        services = self._services
        if not force:
            owners = await services.database.run(
                lambda connection: connection.execute(services.sql(_OWNERS), (group,)).fetchall()
            )
            await services.heartbeats.judged([name for (name,) in owners])

        def run(connection: Connection) -> Sequence[GroupReport]:
            place = f"the database at {services.database.place}"
            found = groups_to_forget(self._reports(connection), group, topic=topic, force=force, where=place)
            connection.execute(services.sql(_FORGET), (group, [each.topic for each in found]))
            return found

        return await services.database.run(run)
