"""The health probe ``postgres``: does the server answer, do the groups keep up, and what holds up events?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import attrs

from bus_core import AnyAdapter, CheckResult, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.runtime import counted
from promenade_bus_postgres.adapter import PostgresAdapter
from promenade_bus_postgres.config import ProbeOptions
from promenade_bus_postgres.connections import Connection
from promenade_bus_postgres.failures import PostgresFailure
from promenade_bus_postgres.positions import HELD_BY, HORIZON, NOW

__all__ = ["PostgresProbe"]

_MOST_NAMES: Final = 5

_LETTERS: Final = "SELECT count(*) FROM promenade_letter"
_HELD: Final = f"""
SELECT {NOW} - min(published) FROM (
    SELECT published FROM promenade_event WHERE tx >= {HORIZON} ORDER BY tx, seq LIMIT 1) AS oldest"""
_DEAD_TUPLES: Final = """
SELECT relname, n_dead_tup, n_live_tup FROM pg_stat_all_tables
WHERE schemaname = %s AND relname LIKE 'promenade\\_%%' ORDER BY n_dead_tup DESC LIMIT 1"""

Problem = tuple[HealthStatus, str]


@attrs.frozen
class _Findings:
    seconds: float
    letters: int
    held: float  # seconds for which the oldest event has been held up
    holder: tuple[int | None, str, str, float] | None
    table: str
    dead_tuples: int
    live_tuples: int
    backlogs: dict[str, int]


class PostgresProbe(HealthProbe):
    """Compares the state of the database with the thresholds, and reports all problems, the worst first."""

    def __init__(self, options: ProbeOptions, adapter: AnyAdapter | None) -> None:
        self._options = options
        self._adapter = adapter

    async def check(self, state: EngineState) -> CheckResult:
        adapter = self._adapter
        if not isinstance(adapter, PostgresAdapter):
            name = "another adapter" if adapter is None else repr(adapter.name)
            return CheckResult(HealthStatus.HEALTHY, f"the bus runs on {name}, not on PostgreSQL")
        if not adapter.is_running:
            return CheckResult(
                HealthStatus.DEGRADED, "the bus uses its fallback instead of PostgreSQL at the moment"
            )
        try:
            found = await self._look(adapter)
        except PostgresFailure as failure:
            return CheckResult(HealthStatus.UNHEALTHY, str(failure), FrozenMapping({"lost": adapter.lost}))
        problems = [*self._problems(adapter, found)]
        figures = _figures(adapter, found)
        if problems:
            return CheckResult(HealthStatus.DEGRADED, ". ".join(problems), figures)
        waiting = sum(found.backlogs.values())
        return CheckResult(
            HealthStatus.HEALTHY,
            f"answers in {found.seconds * 1000:.1f} ms, {counted(waiting, 'event')} waiting, nothing lost",
            figures,
        )

    async def _look(self, adapter: PostgresAdapter) -> _Findings:
        services = adapter.running
        sql = services.sql
        began = time.perf_counter()

        def run(connection: Connection) -> tuple[Any, ...]:
            (letters,) = _row(connection.execute(sql(_LETTERS)))
            seconds = time.perf_counter() - began
            (held,) = _row(connection.execute(sql(_HELD)))
            holder = connection.execute(HELD_BY.encode()).fetchone() if held is not None else None
            table = connection.execute(_DEAD_TUPLES.encode(), (sql.schema,)).fetchone() or ("", 0, 0)
            return (seconds, letters, max(0.0, held or 0.0), holder, *table)

        found = await services.database.run(run)
        specs = adapter.specs
        backlogs = await adapter.backlogs(specs)
        by_name = {spec.name: count for spec, count in zip(specs, backlogs, strict=True)}
        seconds, letters, held, holder, table, dead_tuples, live_tuples = found
        return _Findings(seconds, letters, held, holder, table, dead_tuples, live_tuples, by_name)

    def _problems(self, adapter: PostgresAdapter, found: _Findings) -> Iterator[str]:
        if found.seconds >= self._options.slow:
            yield f"a query took {found.seconds * 1000:.0f} ms"
        if found.holder is None and found.held >= self._options.held:
            yield (
                f"a transaction that this role may not see has held up new events for {found.held:.0f} s: "
                "GRANT pg_read_all_stats to the role, so that it can be named"
            )
        elif found.holder is not None and found.holder[0] is None and found.holder[3] >= self._options.held:
            _, name, database, age = found.holder
            yield (
                f"the prepared transaction {name!r} (database {database!r}) is {age:.0f} s old, and holds up "
                "new events: COMMIT PREPARED it, or ROLLBACK PREPARED"
            )
        elif found.holder is not None and found.holder[3] >= self._options.held:
            pid, user, database, age = found.holder
            yield (
                f"a transaction of process {pid} (user {user!r}, database {database!r}) has been running for "
                f"{age:.0f} s, and holds up new events: end it, or SELECT pg_terminate_backend({pid})"
            )
        if found.dead_tuples >= max(self._options.dead_tuples, found.live_tuples):
            yield (
                f"{found.dead_tuples:,} rows of {found.table} are dead and not removed: look for old "
                "transactions and for a disabled autovacuum"
            )
        behind = [
            f"{name!r} ({count:,})" for name, count in found.backlogs.items() if count >= self._options.lag
        ]
        if behind:
            yield f"events wait for {', '.join(sorted(behind)[:_MOST_NAMES])}"
        if adapter.lost:
            yield f"{counted(adapter.lost, 'event was', 'events were')} lost since the start"


def _row(cursor: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone()
    return row


def _figures(adapter: PostgresAdapter, found: _Findings) -> FrozenMapping[str, Any]:
    figures: dict[str, float | int | str | bool] = {
        "lost": adapter.lost,
        "seconds": round(found.seconds, 6),
        "dead_letters": found.letters,
        "removed": adapter.upkeep.retention.removed,
        "dead_tuples": found.dead_tuples,
        "held_seconds": round(found.held if found.holder is None else found.holder[3], 3),
    }
    for name, count in found.backlogs.items():
        figures[f"backlog {name}"] = count
    return FrozenMapping(figures)
