"""The state of the outbox: waiting events, their age, the relays, and the blocking transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import attrs

from promenade_bus_outbox.connection import OutboxConnection
from promenade_bus_outbox.dialects import as_utc
from promenade_bus_outbox.names import TableNames
from promenade_bus_outbox.rows import Refusal, Rows

__all__ = ["Blocker", "OutboxStatus", "PartitionStatus", "read_status"]

_MOST_REFUSALS = 20


@attrs.frozen(kw_only=True)
class PartitionStatus:
    """A partition that has events, or an owner; ``relay`` delivers it. Times are seconds."""

    partition: int
    relay: str | None
    waiting: int
    oldest: float


@attrs.frozen(kw_only=True)
class Blocker:
    """A transaction that still runs, and that began before others which have written events.

    ``pid`` is the process of the server that runs it; None for a prepared transaction, whose name is
    ``application``. ``state`` is what the server says it does, and ``seconds`` for how long it runs; both
    are unknown to roles that may not see the activity of others.
    """

    pid: int | None
    database: str
    user: str
    application: str
    state: str
    seconds: float | None

    def __str__(self) -> str:
        age = "" if self.seconds is None else f" for {self.seconds:.0f} s"
        if self.pid is None:
            return (
                f"the prepared transaction {self.application!r} of {self.user!r} in the database "
                f"{self.database!r}{age}; end it with COMMIT PREPARED or ROLLBACK PREPARED"
            )
        by = f" ({self.application})" if self.application else ""
        return (
            f"the transaction of process {self.pid}, {self.user!r} in the database {self.database!r}{by}, "
            f"{self.state or 'running'}{age}; end it, or ask for SELECT pg_terminate_backend({self.pid})"
        )


@attrs.frozen(kw_only=True)
class OutboxStatus:
    """A look at an outbox. ``oldest`` is the age in seconds of the event that has waited longest, or 0.

    ``held`` counts the events that wait for ``blocked_by`` to end. ``refused`` counts those that the bus has
    refused for good, and ``refusals`` shows the first of them. ``kept`` counts delivered ones.
    """

    waiting: int
    oldest: float
    held: int
    refused: int
    kept: int
    partitions: tuple[PartitionStatus, ...]
    refusals: tuple[Refusal, ...]
    relays: int
    blocked_by: Blocker | None

    def to_dict(self) -> dict[str, Any]:
        """The status as plain data for JSON."""
        shown = attrs.asdict(self)
        shown["partitions"] = [attrs.asdict(each) for each in self.partitions]
        shown["refusals"] = [each.to_dict() for each in self.refusals]
        return shown


def read_status(connection: OutboxConnection, names: TableNames, rows: Rows) -> OutboxStatus:
    """Reads the status once."""
    now = datetime.now(UTC)
    owners: dict[int, str | None] = {}
    for number, owner in connection.query(f"SELECT partition, owner FROM {names.partitions}"):
        owners[number] = owner
    waiting = {
        partition: (count, max(0.0, (now - as_utc(oldest)).total_seconds()))
        for partition, count, oldest in connection.query(
            f"SELECT partition, count(*), min(written_at) FROM {names.events} WHERE {rows.waiting} "
            "GROUP BY partition"
        )
    }

    def count_of(condition: str) -> int:
        return int(connection.query(f"SELECT count(*) FROM {names.events} WHERE {condition}")[0][0])

    held = count_of(f"{rows.waiting} AND {rows.held}")
    partitions = tuple(
        PartitionStatus(
            partition=number,
            relay=owners.get(number),
            waiting=waiting.get(number, (0, 0.0))[0],
            oldest=waiting.get(number, (0, 0.0))[1],
        )
        for number in sorted({*owners, *waiting})
    )
    return OutboxStatus(
        waiting=sum(count for count, _ in waiting.values()),
        oldest=max((age for _, age in waiting.values()), default=0.0),
        held=held,
        refused=count_of("refused_at IS NOT NULL"),
        kept=count_of("delivered_at IS NOT NULL"),
        partitions=partitions,
        refusals=tuple(rows.refusals(connection, _MOST_REFUSALS)),
        relays=len({owner for owner in owners.values() if owner is not None}),
        blocked_by=_blocker(connection) if held else None,
    )


# Every transaction with an id holds a lock on it, which any role may see.
_OLDEST: Final = """
    SELECT lock.pid, activity.datname, activity.usename, activity.application_name, activity.state,
           extract(epoch FROM clock_timestamp() - activity.xact_start)
    FROM pg_locks AS lock
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
    WHERE lock.locktype = 'transactionid' AND lock.mode = 'ExclusiveLock' AND lock.granted
      AND CAST(CAST(lock.transactionid AS text) AS bigint)
        = CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) % 4294967296
"""
_PREPARED: Final = """
    SELECT database, owner, gid, extract(epoch FROM clock_timestamp() - prepared)
    FROM pg_prepared_xacts
    WHERE CAST(CAST(transaction AS text) AS bigint)
        = CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) % 4294967296
"""


def _blocker(connection: OutboxConnection) -> Blocker | None:
    """The oldest running transaction; None when it has ended meanwhile."""
    for database, owner, gid, seconds in connection.query(_PREPARED):
        return Blocker(
            pid=None,
            database=str(database),
            user=str(owner),
            application=str(gid),
            state="prepared",
            seconds=float(seconds),
        )
    for pid, database, user, application, state, seconds in connection.query(_OLDEST):
        if pid is not None:
            return Blocker(
                pid=pid,
                database=str(database or ""),
                user=str(user or ""),
                application=str(application or ""),
                state=str(state or ""),
                seconds=None if seconds is None else float(seconds),
            )
    return None
