"""The groups in a file: their backlogs, and the removal of a group."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from bus_core.adapters import GroupReport, groups_to_forget
from promenade_bus_sqlite.claiming import backlog_of
from promenade_bus_sqlite.services import Services

__all__ = ["SqliteGroups"]

_OWNERS: Final = """
SELECT owner.name FROM promenade_owner AS owner
JOIN promenade_subscription AS own ON own.id = owner.subscription
WHERE own.service_group = ?"""


class SqliteGroups:
    """The groups of a started adapter."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self) -> Sequence[GroupReport]:
        """Every group, by its name. Raises ``SqliteFailure``."""
        return await self._services.worker.read(self._reports)

    def _reports(self, db: sqlite3.Connection) -> Sequence[GroupReport]:
        services = self._services
        dead, now = services.heartbeats.dead, services.file.now()
        rows = db.execute(
            "SELECT id, service_group, pattern, served FROM promenade_subscription WHERE NOT broadcast"
            " ORDER BY service_group, pattern"
        ).fetchall()
        owners = db.execute("SELECT subscription, name FROM promenade_owner").fetchall()
        alive = [subscription for subscription, name in owners if name not in dead]
        return [
            GroupReport(
                group=group,
                topic=pattern,
                backlog=backlog_of(db, services.topics, number, pattern),
                instances=alive.count(number),
                unserved=0.0 if number in alive else max(0.0, now - served),
            )
            for number, group, pattern, served in rows
        ]

    async def forget(
        self, group: str, *, topic: str | None = None, force: bool = False
    ) -> Sequence[GroupReport]:
        """Removes a group, on one topic or pattern or on all; its dead letters stay.

        Without ``force``, waits until its instances are known to live or to be dead: a lease at most. Returns
        its backlog. Raises ``UnknownSubscription`` and ``GroupInUse``, and then removes nothing.
        """
        services = self._services
        if not force:
            owners = await services.worker.read(lambda db: db.execute(_OWNERS, (group,)).fetchall())
            await services.heartbeats.judged([name for (name,) in owners])

        def run(db: sqlite3.Connection) -> Sequence[GroupReport]:
            found = groups_to_forget(
                self._reports(db), group, topic=topic, force=force, where=repr(self._services.file.path)
            )
            for report in found:
                each = (report.group, report.topic)
                number = "(SELECT id FROM promenade_subscription WHERE service_group = ? AND pattern = ?)"
                db.execute(f"DELETE FROM promenade_delivery WHERE subscription = {number}", each)
                db.execute(f"DELETE FROM promenade_owner WHERE subscription = {number}", each)
                db.execute(f"DELETE FROM promenade_subscription WHERE id = {number}", each)
            return found

        return await self._services.worker.write(run)
