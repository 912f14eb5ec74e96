"""The scenarios of the adapter on PostgreSQL: those of the Redis adapter that apply, and its own."""

from __future__ import annotations

from chaos import checks
from chaos.injections import Kill, RollingRestart, StandStill
from chaos.postgres_site import CutConnections, HoldTransaction, OnePostgres, RestartPostgres
from chaos.scenario import Load, Scenario, Size

__all__ = ["POSTGRES_SCENARIOS"]

_LOAD = Load(rate=Size(1_000, 300), consumers=Size(4, 3))

POSTGRES_SCENARIOS = (
    Scenario(
        number=201,
        name="postgres kill consumers",
        story="SIGKILL to a consumer every 200 ms",
        site=OnePostgres,
        load=_LOAD,
        faults=(Kill(who="consumers", every=0.2, seconds=Size(60, 2)),),
        duplicates={"kills": 16},
        checks=(checks.Happened("kills", 3),),
    ),
    Scenario(
        number=202,
        name="postgres kill publishers",
        story="SIGKILL to a publisher every 200 ms",
        site=OnePostgres,
        load=Load(rate=Size(1_000, 300), producers=2),
        faults=(Kill(who="producers", every=0.2, seconds=Size(60, 2)),),
        checks=(checks.Happened("kills", 2),),
    ),
    Scenario(
        number=203,
        name="postgres rolling restart",
        story="SIGTERM to one consumer after the other",
        site=OnePostgres,
        load=_LOAD,
        faults=(RollingRestart(times=Size(30, 4)),),
        checks=(checks.attempts_are_first, checks.EndsWithin(5.0), checks.Happened("restarts", 3)),
    ),
    Scenario(
        number=204,
        name="postgres standstill",
        story="SIGSTOP to a consumer for three leases, then SIGCONT",
        site=OnePostgres,
        # Busy enough that some handler is running when its process is stopped.
        load=Load(work=0.03, concurrency=4, rate=Size(450, 300), consumers=Size(4, 3)),
        faults=(StandStill(leases=3, times=Size(5, 1)),),
        duplicates={"stops": 4},  # the handlers that were running
        checks=(checks.late_is_counted, checks.Happened("stops", 1)),
    ),
    Scenario(
        number=205,
        name="postgres cut connections",
        story="every connection is cut every 200 ms; the publisher tries again",
        site=OnePostgres,
        load=Load(rate=Size(1_000, 300), consumers=Size(4, 3), insists=True),
        faults=(CutConnections(every=0.2, times=Size(200, 8)),),
        # Publishes that were repeated, and acknowledgements whose answer was lost when a lease had ended.
        duplicates={"cuts": 256},
        checks=(checks.Happened("cuts", 5), checks.nothing_was_lost),
    ),
    Scenario(
        number=206,
        name="postgres restart",
        story="SIGKILL to the server, which starts again a second later",
        site=OnePostgres,
        load=Load(rate=Size(1_000, 300), consumers=Size(4, 3), insists=True),
        faults=(RestartPostgres(seconds=1.0, times=Size(10, 1)),),
        duplicates={"restarts": 512},
        checks=(checks.Happened("restarts", 1), checks.nothing_was_lost),
    ),
    Scenario(
        number=207,
        name="postgres order",
        story="SIGKILL to the instance of an ordered subscription, and to those that stand by",
        site=OnePostgres,
        load=Load(rate=Size(500, 200), ordered=True, consumers=Size(4, 3), lease=Size(0.6, 0.6), delay=None),
        faults=(Kill(who="consumers", every=0.5, seconds=Size(30, 2)),),
        duplicates={"kills": 40},
        checks=(checks.Happened("kills", 3),),
    ),
    Scenario(
        number=208,
        name="postgres held",
        story="somebody keeps a writing transaction open for longer than a lease",
        site=OnePostgres,
        load=_LOAD,
        faults=(HoldTransaction(seconds=2.0, times=Size(10, 1)),),
        checks=(checks.Happened("holds", 1), checks.nothing_was_lost, checks.attempts_are_first),
    ),
)
