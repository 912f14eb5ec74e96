"""The groups in a file and replays, as ``bus_core.abc.Administration`` has them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from bus_core.abc import GroupFigures, Replayed, ReplayFilter
from bus_core.adapters import matches, replayed_at, row_for, text_of_attempts, unknown_group
from promenade_bus_sqlite.publishing import insert_events
from promenade_bus_sqlite.services import Services
from promenade_bus_sqlite.siblings import Sibling, siblings_of

__all__ = ["SqliteAdministration"]

_AT_ONCE: Final = 500
"""Events of one transaction: others have to write, too."""

_MOST_BYTES: Final = 4_000_000

_KEPT: Final = 7 * 86_400.0
"""Seconds for which the progress of a replay is kept."""


@attrs.define
class _Progress:
    """The progress of a replay: the last event, what came of those before, and when that was."""

    seq: int = 0
    events: int = 0
    unsettled: int = 0
    is_done: bool = False

    def told(self) -> Replayed:
        return Replayed(events=self.events, unsettled=self.unsettled, is_done=self.is_done)


class SqliteAdministration:
    """Implements ``bus_core.abc.Administration``; methods raise ``SqliteFailure``."""

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services

    # --- groups -------------------------------------------------------------------------------------------

    async def groups(self) -> Sequence[GroupFigures]:
        """Every group, once for each of its topics or patterns."""
        return await self._services().worker.read(self._figures)

    def _figures(self, db: sqlite3.Connection) -> Sequence[GroupFigures]:
        services = self._services()
        dead, now = services.heartbeats.dead, services.file.now()
        owners = db.execute("SELECT subscription, name FROM promenade_owner").fetchall()
        alive = [subscription for subscription, name in owners if name not in dead]
        rows = db.execute(
            "SELECT id, service_group, name, pattern, cursor FROM promenade_subscription WHERE NOT broadcast"
            " ORDER BY service_group, pattern"
        ).fetchall()
        found = []
        for number, group, name, pattern, cursor in rows:
            topics = json.dumps(self._topics(db, pattern))
            lag, oldest = db.execute(
                "SELECT count(*), min(published) FROM promenade_event"
                " WHERE topic IN (SELECT value FROM json_each(?)) AND seq > ?",
                (topics, cursor),
            ).fetchone()
            held, waiting = db.execute(
                "SELECT count(*), coalesce(sum(owner = 0), 0) FROM promenade_delivery WHERE subscription = ?",
                (number,),
            ).fetchone()
            (letters,) = db.execute(
                "SELECT count(*) FROM promenade_letter WHERE service_group = ? AND pattern = ?",
                (group, pattern),
            ).fetchone()
            found.append(
                GroupFigures(
                    group=group,
                    subscription=name,
                    topic=pattern,
                    instances=alive.count(number),
                    published=self._published(db, topics),
                    backlog=held + lag,
                    lag=lag,
                    in_flight=held - waiting,
                    retries=waiting,
                    dead=letters,
                    oldest=None if oldest is None else max(0.0, now - oldest),
                )
            )
        return found

    def _topics(self, db: sqlite3.Connection, pattern: str) -> list[int]:
        topics = self._services().topics
        topics.learn(db)
        return [number for number, name in topics.names.items() if matches(pattern, name)]

    @staticmethod
    def _published(db: sqlite3.Connection, topics: str) -> int:
        """The number of events on topics. Only events that are old enough to be removed are missing."""
        (count,) = db.execute(
            "SELECT count(*) FROM promenade_event WHERE topic IN (SELECT value FROM json_each(?))", (topics,)
        ).fetchone()
        return int(count)

    # --- replay -------------------------------------------------------------------------------------------

    async def replay(self, group: str, where: ReplayFilter, *, replay_id: str | None, limit: int) -> Replayed:
        """Takes the next step of a replay; see ``bus_core.abc.Administration``."""
        if replay_id is None:
            return await self._counted(group, where)
        woken: set[int] = set()

        def run(db: sqlite3.Connection) -> _Progress:
            woken.clear()
            name = f"replay {replay_id} {group}"
            progress = self._noted(db, name)
            if not progress.is_done:
                progress = self._looked(db, group, where, progress, min(limit, _AT_ONCE), woken)
                self._note(db, name, progress)
            return progress

        progress = await self._services().worker.write(run)
        for subscription in woken:
            self._services().woken(subscription)
        return progress.told()

    async def _counted(self, group: str, where: ReplayFilter) -> Replayed:
        """Counts in many short calls, between which the worker serves others."""
        progress = _Progress()

        def run(db: sqlite3.Connection) -> _Progress:
            return self._looked(db, group, where, progress, _AT_ONCE, None)

        while not progress.is_done:
            progress = await self._services().worker.read(run)
        return progress.told()

    def _noted(self, db: sqlite3.Connection, name: str) -> _Progress:
        row = db.execute("SELECT value FROM promenade_meta WHERE name = ?", (name,)).fetchone()
        return _Progress() if row is None else _Progress(*json.loads(row[0])[1:])

    def _note(self, db: sqlite3.Connection, name: str, progress: _Progress) -> None:
        """Stores the progress in the transaction of its events, and forgets that of long ago."""
        now = self._services().file.now()
        value = json.dumps([now, *attrs.astuple(progress)])
        db.execute("INSERT OR REPLACE INTO promenade_meta VALUES (?, ?)", (name, value))
        noted = "SELECT name, value FROM promenade_meta WHERE name LIKE 'replay %'"
        for other, text in db.execute(noted).fetchall():
            if json.loads(text)[0] < now - _KEPT:
                db.execute("DELETE FROM promenade_meta WHERE name = ?", (other,))

    def _looked(
        self,
        db: sqlite3.Connection,
        group: str,
        where: ReplayFilter,
        before: _Progress,
        most: int,
        woken: set[int] | None,
    ) -> _Progress:
        """Looks at the next events. Without ``woken`` it only counts them."""
        owners = self._owners(db, group, where)
        progress = attrs.evolve(before)
        history = text_of_attempts((replayed_at(datetime.now(UTC)),))
        rows = db.execute(*_selection(owners, where, before.seq, most)).fetchall()
        size = 0
        for seq, topic, event_id, key, headers, body, published in rows:
            if size >= _MOST_BYTES:
                return progress
            size += _size_of(body)
            progress.seq = seq
            owner = owners[topic]
            if seq > owner.cursor or _is_held(db, owner.number, seq):
                progress.unsettled += 1
                continue
            progress.events += 1
            if woken is not None:
                insert_events(db, [(-topic, event_id, key, headers, body, published)])
                (copy,) = db.execute("SELECT last_insert_rowid()").fetchone()
                db.execute(
                    "INSERT INTO promenade_delivery (subscription, seq, owner, redelivered, history)"
                    " VALUES (?, ?, 0, 1, ?)",
                    (owner.number, copy, history),
                )
                woken.add(owner.number)
        progress.is_done = len(rows) < most
        return progress

    def _owners(self, db: sqlite3.Connection, group: str, where: ReplayFilter) -> dict[int, Sibling]:
        """The subscription of each selected topic; raises ``UnknownSubscription``."""
        rows = siblings_of(db, group, self._services().heartbeats.dead)
        if not rows:
            known = [
                name
                for (name,) in db.execute(
                    "SELECT DISTINCT service_group FROM promenade_subscription WHERE NOT broadcast ORDER BY 1"
                )
            ]
            raise unknown_group(group, known, repr(self._services().file.path))
        topics = self._services().topics
        topics.learn(db)
        return {
            topic: row
            for topic, name in topics.names.items()
            if (where.topic is None or matches(where.topic, name)) and (row := row_for(rows, name))
        }


def _size_of(body: Any) -> int:
    return len(body) if isinstance(body, bytes | str) else 8


def _is_held(db: sqlite3.Connection, subscription: int, seq: int) -> bool:
    wanted = "SELECT 1 FROM promenade_delivery WHERE subscription = ? AND seq = ?"
    return db.execute(wanted, (subscription, seq)).fetchone() is not None


def _selection(
    owners: dict[int, Sibling], where: ReplayFilter, behind: int, most: int
) -> tuple[str, Sequence[Any]]:
    """The statement that selects the next events, and its values."""
    conditions = ["topic IN (SELECT value FROM json_each(?))", "seq > ?"]
    values: list[Any] = [json.dumps([*owners]), behind]
    if where.stored_since is not None:
        conditions.append("published >= ?")
        values.append(where.stored_since.timestamp())
    if where.stored_before is not None:
        conditions.append("published < ?")
        values.append(where.stored_before.timestamp())
    if where.event_ids is not None:
        conditions.append("id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(sorted(where.event_ids)))
    columns = "SELECT seq, topic, id, key, headers, body, published FROM promenade_event"
    return f"{columns} WHERE {' AND '.join(conditions)} ORDER BY seq LIMIT ?", (*values, most)
