"""Maintains the file while the adapter runs: retention, losses and groups that nobody uses any more."""

from __future__ import annotations

import asyncio
import sqlite3

from bus_core.runtime import FIRST_PAUSE, BackgroundTask, Trouble, fault_of, next_pause
from promenade_bus_sqlite.losses import count_losses
from promenade_bus_sqlite.retention import Retention
from promenade_bus_sqlite.services import Services
from promenade_bus_sqlite.siblings import hand_over
from promenade_bus_sqlite.subscriptions import end_broadcasts_of_the_dead

__all__ = ["Upkeep"]


class Upkeep:
    """``lost`` counts since the start; ``orphans`` are groups that no instance has used for long.

    ``left`` are topics and patterns with events that wait for nobody, of groups that are served on others.
    """

    def __init__(self, services: Services) -> None:
        self.lost = 0
        self.orphans: tuple[tuple[str, str], ...] = ()
        self.left: tuple[tuple[str, str], ...] = ()
        self.retention = Retention(services.options.retention, services.topics)
        self.trouble = Trouble(f"the retention of {services.file.path!r}")
        self.runs = 0
        self._services = services
        self._more = False
        self._lost_before: int | None = None
        self._task = BackgroundTask(self._run, "promenade-sqlite-upkeep")

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
            self._more = False
            fault = await fault_of(self._look())
            if fault is None:
                self.trouble.over()
                self.runs += 1
                pause = FIRST_PAUSE if self._more else self.retention.interval
            else:
                self.trouble.failed("go on", fault)
                pause = next_pause(min(pause, FIRST_PAUSE * 40))

    async def _look(self) -> None:
        self._more = await self._services.worker.write(self.look)

    def look(self, db: sqlite3.Connection) -> bool:
        """Runs one check in the worker's thread. Returns True if there is more to do at once."""
        services = self._services
        now, dead = services.file.now(), dict(services.heartbeats.dead)
        end_broadcasts_of_the_dead(db, dead)
        more = self.retention.step(db, now)
        # An owner with heartbeats is alive. Dead owners are removed by the consumers that claim their
        # deliveries.
        rows = db.execute("SELECT subscription, name FROM promenade_owner").fetchall()
        served = {(subscription,) for subscription, name in rows if name not in dead}
        db.executemany(
            "UPDATE promenade_subscription SET served = ? WHERE id = ?", [(now, *each) for each in served]
        )
        orphans = db.execute(
            "SELECT service_group, pattern FROM promenade_subscription WHERE served < ? AND NOT broadcast"
            " ORDER BY service_group, pattern LIMIT 100",
            (now - services.options.retention.orphaned_after,),
        ).fetchall()
        lost = count_losses(db)
        if self._lost_before is None:
            self._lost_before = lost
        self.lost = lost - self._lost_before
        self.orphans = tuple(orphans)
        self.left = tuple(hand_over(db, services.topics, dead))
        return more
