"""The scenarios of the adapter on SQLite: those of the Redis adapter that apply to a file, and its own."""

from __future__ import annotations

from chaos import checks
from chaos.injections import Kill, RollingRestart
from chaos.scenario import Load, Scenario, Size
from chaos.sqlite_site import FillDisk, Lock, SqliteFile, StandStill

__all__ = ["SQLITE_SCENARIOS"]

_LOAD = Load(rate=Size(1_000, 300), consumers=Size(4, 3))

SQLITE_SCENARIOS = (
    Scenario(
        number=101,
        name="sqlite kill consumers",
        story="SIGKILL to a consumer every 200 ms",
        site=SqliteFile,
        load=_LOAD,
        faults=(Kill(who="consumers", every=0.2, seconds=Size(60, 2)),),
        duplicates={"kills": 16},
        checks=(checks.Happened("kills", 5),),
    ),
    Scenario(
        number=102,
        name="sqlite kill publishers",
        story="SIGKILL to a publisher every 200 ms",
        site=SqliteFile,
        load=Load(rate=Size(1_000, 300), producers=2),
        faults=(Kill(who="producers", every=0.2, seconds=Size(60, 2)),),
        checks=(checks.Happened("kills", 3),),
    ),
    Scenario(
        number=103,
        name="sqlite rolling restart",
        story="SIGTERM to one consumer after the other",
        site=SqliteFile,
        load=_LOAD,
        faults=(RollingRestart(times=Size(30, 4)),),
        checks=(checks.attempts_are_first, checks.EndsWithin(5.0), checks.Happened("restarts", 3)),
    ),
    Scenario(
        number=104,
        name="sqlite standstill",
        story="SIGSTOP to a consumer for three leases, then SIGCONT",
        site=SqliteFile,
        # Busy enough that some handler is running when its process is stopped.
        load=Load(work=0.03, concurrency=4, rate=Size(450, 300), consumers=Size(4, 3)),
        faults=(StandStill(leases=3, times=Size(5, 1)),),
        duplicates={"stops": 4},  # the handlers that were running
        checks=(checks.late_is_counted, checks.Happened("stops", 1)),
    ),
    Scenario(
        number=105,
        name="sqlite disk full",
        story="no file can grow for some time",
        site=SqliteFile,
        load=Load(rate=Size(1_000, 300), publish_timeout=2.0),
        faults=(FillDisk(seconds=Size(10, 2)),),
        duplicates={"fillings": 200},  # acknowledgements that could not be stored, when a lease had ended
        checks=(
            checks.Happened("fillings", 1),
            checks.refused_some,
            checks.Told("the system reports an I/O error"),
            checks.nothing_was_lost,
        ),
    ),
    Scenario(
        number=106,
        name="sqlite locked",
        story="somebody keeps a transaction open for longer than busy_timeout, and than half a lease",
        site=SqliteFile,
        load=_LOAD,
        faults=(Lock(seconds=1.2, times=Size(10, 2)),),
        checks=(checks.Happened("locks", 2), checks.Told("is locked"), checks.nothing_was_lost),
    ),
    Scenario(
        number=107,
        name="sqlite order",
        story="SIGKILL to the instance of an ordered subscription, and to those that stand by",
        site=SqliteFile,
        load=Load(rate=Size(500, 200), ordered=True, consumers=Size(4, 3), lease=Size(0.6, 0.6), delay=None),
        faults=(Kill(who="consumers", every=0.5, seconds=Size(30, 2)),),
        duplicates={"kills": 40},
        checks=(checks.Happened("kills", 3),),
    ),
)
