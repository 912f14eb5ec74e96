"""A file in place of servers, and what goes wrong with files."""

from __future__ import annotations

import resource
import signal
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import attrs

from bus_core import AnyAdapter
from chaos.crew import Post
from chaos.scenario import Size
from chaos.sites import Site
from chaos.stage import Stage
from promenade_bus_sqlite.adapter import SqliteAdapter
from promenade_bus_sqlite.losses import count_losses

__all__ = ["FillDisk", "Lock", "SqliteFile", "StandStill"]

_LEFT = """SELECT (SELECT count(*) FROM promenade_delivery WHERE subscription = each.id) + (SELECT count(*)
FROM promenade_event WHERE seq > each.cursor
AND topic = (SELECT id FROM promenade_topic WHERE name = each.pattern))
FROM promenade_subscription AS each WHERE service_group = ? AND pattern = ?"""


class SqliteFile(Site):
    """One file that all processes share."""

    def open(self, stack: ExitStack) -> None:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="promenade-sqlite-"))
        self.path = Path(directory) / "events.db"

    def section(self, own: Mapping[str, Any], *, proxied: bool) -> dict[str, Any]:
        options = {name: value for name, value in own.items() if name != "durability"}
        return {"adapter": "sqlite", "sqlite": {"path": str(self.path), "busy_timeout": 1.0, **options}}

    def left(self, topic: str, group: str) -> int:
        return self._ask(_LEFT, group, topic)

    def held(self, topic: str, group: str, pid: int) -> int:
        # Which process an owner belongs to is nobody's business but its own: this is what all of them hold.
        return self._ask(
            "SELECT count(*) FROM promenade_delivery JOIN promenade_subscription ON subscription = id"
            " WHERE service_group = ? AND pattern = ? AND owner > 0",
            group,
            topic,
        )

    def _ask(self, statement: str, *values: object) -> int:
        with closing(sqlite3.connect(self.path, timeout=10)) as db:
            row = db.execute(statement, values).fetchone()
        return 0 if row is None else int(row[0])

    async def losses_of(self, adapter: AnyAdapter) -> int:
        assert isinstance(adapter, SqliteAdapter)
        return await adapter.running.worker.read(count_losses)


@attrs.frozen(kw_only=True)
class FillDisk:
    """No process can make its files larger for some time: the system refuses it. Noted as ``fillings``."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        assert isinstance(stage.site, SqliteFile)
        pids = [post.member.pid for post in (*stage.crew.consumers, *stage.crew.producers)]
        files = [stage.site.path, stage.site.path.with_name(stage.site.path.name + "-wal")]
        largest = max(each.stat().st_size for each in files)
        before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, hard))
        stage.notes["fillings"] += 1
        time.sleep(stage.size(self.seconds))
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@attrs.frozen(kw_only=True)
class Lock:
    """Somebody keeps a transaction open for some time, again and again. Noted as ``locks``."""

    seconds: float
    times: Size

    def __call__(self, stage: Stage) -> None:
        assert isinstance(stage.site, SqliteFile)
        for _ in range(stage.times(self.times)):
            with closing(sqlite3.connect(stage.site.path, timeout=10, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                stage.notes["locks"] += 1
                time.sleep(self.seconds)
                db.execute("ROLLBACK")
            time.sleep(0.3)


@attrs.frozen(kw_only=True)
class StandStill:
    """SIGSTOP to a consumer for some leases, then SIGCONT; not within a transaction, which would stop all.

    Noted as ``stops``.
    """

    leases: float
    times: Size

    def __call__(self, stage: Stage) -> None:
        for number in range(stage.times(self.times)):
            post = stage.crew.consumers[number % len(stage.crew.consumers)]
            while not self._stopped_outside_of_a_transaction(stage, post):
                post.member.signal(signal.SIGCONT)
                time.sleep(0.01)
            stage.notes["stops"] += 1
            try:
                time.sleep(self.leases * stage.lease)
            finally:
                post.member.signal(signal.SIGCONT)
            time.sleep(stage.lease / 2)

    @staticmethod
    def _stopped_outside_of_a_transaction(stage: Stage, post: Post) -> bool:
        assert isinstance(stage.site, SqliteFile)
        post.member.signal(signal.SIGSTOP)
        with closing(sqlite3.connect(stage.site.path, timeout=0.3, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            db.execute("ROLLBACK")
        return True
