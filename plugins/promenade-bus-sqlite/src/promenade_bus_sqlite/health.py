"""The health probe ``sqlite``: checks the file, the free space, and the backlogs of groups."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import attrs

from bus_core import (
    AnyAdapter,
    CheckResult,
    EngineState,
    FrozenMapping,
    HealthProbe,
    HealthStatus,
    SubscriptionSpec,
)
from bus_core.runtime import counted
from promenade_bus_sqlite.adapter import SqliteAdapter
from promenade_bus_sqlite.config import ProbeOptions
from promenade_bus_sqlite.failures import Kind, SqliteFailure

__all__ = ["SqliteProbe"]

_MOST_NAMES = 5

Problem = tuple[HealthStatus, str]


@attrs.frozen
class _Findings:
    seconds: float
    size: int
    log_size: int
    free: float
    backlogs: dict[str, int]
    letters: int


class SqliteProbe(HealthProbe):
    """Compares the state of the file with the thresholds, and reports all problems, the worst first."""

    def __init__(self, options: ProbeOptions, adapter: AnyAdapter | None) -> None:
        self._options = options
        self._adapter = adapter

    async def check(self, state: EngineState) -> CheckResult:
        adapter = self._adapter
        if not isinstance(adapter, SqliteAdapter):
            name = "another adapter" if adapter is None else repr(adapter.name)
            return CheckResult(HealthStatus.HEALTHY, f"the bus runs on {name}, not on SQLite")
        if not adapter.is_running:
            return CheckResult(
                HealthStatus.DEGRADED, "the bus uses its fallback instead of SQLite at the moment"
            )
        try:
            found = await self._look(adapter)
        except SqliteFailure as failure:
            status = HealthStatus.DEGRADED if failure.kind is Kind.BUSY else HealthStatus.UNHEALTHY
            return CheckResult(status, str(failure), FrozenMapping({"lost": adapter.lost}))
        problems = sorted(self._problems(adapter, found), key=lambda each: -each[0].severity)
        figures = _figures(adapter, found)
        if problems:
            return CheckResult(problems[0][0], ". ".join(text for _, text in problems), figures)
        waiting = sum(found.backlogs.values())
        return CheckResult(
            HealthStatus.HEALTHY,
            f"answers in {found.seconds * 1000:.1f} ms, {counted(waiting, 'event')} waiting, nothing lost; "
            f"synchronous {adapter.options.synchronous}",
            figures,
        )

    async def _look(self, adapter: SqliteAdapter) -> _Findings:
        services = adapter.running
        began = time.perf_counter()

        def run(db: sqlite3.Connection) -> int:
            services.file.check_identity()
            (letters,) = db.execute("SELECT count(*) FROM promenade_letter").fetchone()
            return int(letters)

        letters = await services.worker.read(run)
        seconds = time.perf_counter() - began
        specs: list[SubscriptionSpec] = adapter.specs
        backlogs = await adapter.backlogs(specs)
        disk = shutil.disk_usage(services.file.directory)
        return _Findings(
            seconds=seconds,
            size=_size(services.file.path),
            log_size=_size(services.file.path + "-wal"),
            free=disk.free / disk.total if disk.total else 1.0,
            backlogs={spec.name: count for spec, count in zip(specs, backlogs, strict=True)},
            letters=letters,
        )

    def _problems(self, adapter: SqliteAdapter, found: _Findings) -> Iterator[Problem]:
        if found.seconds >= self._options.slow:
            yield HealthStatus.DEGRADED, f"a query of the file took {found.seconds * 1000:.0f} ms"
        if found.free < self._options.disk_free:
            yield (
                HealthStatus.DEGRADED,
                f"only {found.free:.1%} of the disk is free: make room before it is full",
            )
        behind = [
            f"{name!r} ({count:,})" for name, count in found.backlogs.items() if count >= self._options.lag
        ]
        if behind:
            yield HealthStatus.DEGRADED, f"events wait for {', '.join(sorted(behind)[:_MOST_NAMES])}"
        if adapter.lost:
            lost = counted(adapter.lost, "event was", "events were")
            yield HealthStatus.DEGRADED, f"{lost} lost since the start"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _figures(adapter: SqliteAdapter, found: _Findings) -> FrozenMapping[str, Any]:
    figures: dict[str, float | int | str | bool] = {
        "lost": adapter.lost,
        "seconds": round(found.seconds, 6),
        "file_bytes": found.size,
        "log_bytes": found.log_size,
        "disk_free": round(found.free, 4),
        "dead_letters": found.letters,
        "removed": adapter.upkeep.retention.removed,
        "synchronous": adapter.options.synchronous,
    }
    for name, count in found.backlogs.items():
        figures[f"backlog {name}"] = count
    return FrozenMapping(figures)
