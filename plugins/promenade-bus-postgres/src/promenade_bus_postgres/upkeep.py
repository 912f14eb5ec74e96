"""Maintains the tables while the adapter runs: retention, losses, and groups without instances."""

from __future__ import annotations

import asyncio
from typing import Final

from bus_core.runtime import FIRST_PAUSE, BackgroundTask, Trouble, fault_of, next_pause
from promenade_bus_postgres.connections import Connection
from promenade_bus_postgres.losses import count_losses
from promenade_bus_postgres.positions import NOW
from promenade_bus_postgres.retention import Retention
from promenade_bus_postgres.services import Services
from promenade_bus_postgres.siblings import hand_over
from promenade_bus_postgres.subscriptions import end_broadcasts_of_the_dead

__all__ = ["Upkeep"]

# Whoever has an owner with heartbeats is served; the dead are removed by those who take over from them.
_SERVED: Final = f"""
UPDATE promenade_subscription SET served = {NOW} WHERE id IN (
    SELECT subscription FROM promenade_owner WHERE name <> ALL(%s::text[])) AND served < {NOW} - %s"""

_ORPHANS: Final = f"""
SELECT service_group, pattern FROM promenade_subscription WHERE served < {NOW} - %s AND NOT broadcast
ORDER BY service_group, pattern LIMIT 100"""

# A clock that was set back must not make a retry wait for longer than its delay.
_TOO_LATE: Final = f"""
UPDATE promenade_delivery SET due = {NOW} + delay WHERE owner = 0 AND due > {NOW} + delay"""


class Upkeep:
    """``lost`` counts since the start; ``orphans`` are groups that no instance has used for long.

    ``left`` are topics and patterns with events that wait for nobody, of groups that are served on others.
    """

    def __init__(self, services: Services) -> None:
        self.lost = 0
        self.orphans: tuple[tuple[str, str], ...] = ()
        self.left: tuple[tuple[str, str], ...] = ()
        self.retention = Retention(services.options.retention, services.sql)
        self.trouble = Trouble(f"the retention of PostgreSQL at {services.database.place}")
        self.runs = 0
        self._services = services
        self._lost_before: int | None = None
        self._task = BackgroundTask(self._run, "promenade-postgres-upkeep")

    def start(self) -> None:
        """Starts the background checks."""
        self._task.start()

    async def close(self) -> None:
        """Stops the background checks."""
        await self._task.end()

    async def _run(self) -> None:
        pause = self.retention.interval
        while True:
            await asyncio.sleep(pause)
            more = False

            async def look() -> None:
                nonlocal more
                more = await self._services.database.run(self.look)

            fault = await fault_of(look())
            if fault is None:
                self.trouble.over()
                self.runs += 1
                pause = FIRST_PAUSE if more else self.retention.interval
            else:
                self.trouble.failed("go on", fault)
                pause = next_pause(min(pause, FIRST_PAUSE * 40))

    def begin(self, connection: Connection) -> None:
        """Notes the number of losses so far. Runs in a thread."""
        self.note_losses(count_losses(connection, self._services.sql))

    def look(self, connection: Connection) -> bool:
        """Runs one check in a thread. Returns True if there is more to do at once."""
        services, sql = self._services, self._services.sql
        dead = dict(services.heartbeats.dead)
        end_broadcasts_of_the_dead(connection, sql, dead)
        more = self.retention.step(connection)
        orphaned_after = services.options.retention.orphaned_after
        connection.execute(sql(_SERVED), ([*dead], min(10.0, orphaned_after / 10)))
        connection.execute(sql(_TOO_LATE))
        orphans = connection.execute(sql(_ORPHANS), (orphaned_after,)).fetchall()
        self.left = tuple(hand_over(connection, sql, services.topics, dead))
        self.note_losses(count_losses(connection, sql))
        self.orphans = tuple((str(group), str(pattern)) for group, pattern in orphans)
        return more

    def note_losses(self, lost: int) -> None:
        """Compares the counter of the database with its state at the start."""
        if self._lost_before is None:
            self._lost_before = lost
        self.lost = lost - self._lost_before
