"""Looks for what no notification has told: one query for all subscriptions of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from bus_core.events import is_pattern
from bus_core.runtime import FIRST_PAUSE, BackgroundTask, Trouble, fault_of, next_pause
from promenade_bus_postgres.connections import Connection
from promenade_bus_postgres.positions import NOW
from promenade_bus_postgres.services import Services

if TYPE_CHECKING:
    from promenade_bus_postgres.consumers import PostgresConsumer

__all__ = ["Lookout"]

# The first delivery and the last event tell: a look reads one row of an index for each.
_LOOK: Final = f"""
SELECT own.id, coalesce((SELECT min(due) FROM promenade_delivery AS free
    WHERE free.subscription = own.id AND free.owner = 0) <= {NOW}, false) AS is_free,
    coalesce(CASE WHEN own.id = ANY(%(patterns)s::bigint[]) THEN (
        SELECT (tx, seq) > (own.cursor_tx, own.cursor_seq) FROM promenade_event
        ORDER BY tx DESC, seq DESC LIMIT 1)
    ELSE (
        SELECT (tx, seq) > (own.cursor_tx, own.cursor_seq) FROM promenade_event
        WHERE topic = (SELECT id FROM promenade_topic WHERE name = own.pattern)
        ORDER BY tx DESC, seq DESC LIMIT 1) END, false) AS is_new
FROM promenade_subscription AS own WHERE own.id = ANY(%(all)s::bigint[])"""


class Lookout:
    """Wakes consumers at intervals of ``poll``. ``consumers`` returns those that are open."""

    def __init__(self, services: Services, consumers: Callable[[], Iterable[PostgresConsumer]]) -> None:
        self.looks = 0
        self.trouble = Trouble(f"the look for new events in PostgreSQL at {services.database.place}")
        self._services = services
        self._consumers = consumers
        self._told: dict[str, int | None] = {}
        self._task = BackgroundTask(self._run, "promenade-postgres-lookout")

    def start(self) -> None:
        """Starts to look."""
        self._task.start()

    async def close(self) -> None:
        """Ends."""
        await self._task.end()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            fault = await fault_of(self._look())
            if fault is None:
                self.trouble.over()
                pause = FIRST_PAUSE
                await asyncio.sleep(self._services.options.poll)
            else:
                self.trouble.failed("be carried out", fault)
                await asyncio.sleep(pause)
                pause = next_pause(pause)

    async def _look(self) -> None:
        consumers = {each.owner.subscription: each for each in self._consumers()}
        dead, told = dict(self._services.heartbeats.dead), self._told
        self._told = dead
        if any(name not in told or told[name] != beats for name, beats in dead.items()):
            for each in consumers.values():
                each.look()
        if not consumers:
            return
        patterns = [number for number, each in consumers.items() if is_pattern(each.spec.topic)]
        facts = {"all": [*consumers], "patterns": patterns}

        def run(connection: Connection) -> list[tuple[int, bool, bool]]:
            rows = connection.execute(self._services.sql(_LOOK), facts).fetchall()
            return [(number, is_free, is_new) for number, is_free, is_new in rows]

        found = await self._services.database.run(run)
        self.looks += 1
        known = {number for number, _, _ in found}
        for number, is_free, is_new in found:
            if is_free:
                consumers[number].free()
            elif is_new or consumers[number].spec.ordered:
                consumers[number].look()
        for number in consumers.keys() - known:
            consumers[number].look()  # it was removed: its subscription is told so
