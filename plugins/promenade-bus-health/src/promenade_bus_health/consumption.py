"""The health probe ``consumption``: subscriptions that have work, and settle nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, cast

import attrs

from bus_core import (
    AnyAdapter,
    CheckResult,
    Clock,
    EngineState,
    FrozenMapping,
    HealthProbe,
    HealthStatus,
    SubscriptionState,
)
from bus_core.abc import AdministeredAdapter
from bus_core.config import format_duration
from bus_core.runtime import counted
from promenade_bus_health.config import ConsumptionOptions
from promenade_bus_health.judging import judged

__all__ = ["ConsumptionProbe"]

_MOST_NAMED: Final = 5


@attrs.frozen
class _Owed:
    """The part of a group that no instance has received, and the number that all have settled."""

    unread: int
    settled: int | None


@attrs.define
class _Watched:
    """The last progress of a subscription, and since when it has had work without any."""

    outcomes: int = -1
    settled: int | None = None
    idle_since: float | None = None


class ConsumptionProbe(HealthProbe):
    """Looks for progress with each check.

    Progress is any outcome of an attempt here. Where the storage tells it, it is also an event that any
    instance of the group has settled, because a standby of an ordered subscription settles none. Work is
    what waits here or runs, and what nobody has received. The storage is asked beside the checks, which do
    not wait.
    """

    def __init__(
        self, options: ConsumptionOptions, service: str, clock: Clock, adapter: AnyAdapter | None
    ) -> None:
        self._options = options
        self._service = service
        self._clock = clock
        self._adapter = adapter if options.backlog else None
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._owed: Mapping[tuple[str, str], _Owed] = {}
        self._asking: asyncio.Task[None] | None = None
        self._asked_at: float | None = None

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def check(self, state: EngineState) -> CheckResult:
        now = self._clock.monotonic()
        self._ask(now)
        names = {(each.name, each.topic) for each in state.subscriptions}
        self._watched = {name: each for name, each in self._watched.items() if name in names}
        idle = {each: self._idle_for(each, now) for each in state.subscriptions}
        longest = max(idle.values(), default=0.0)
        figures = FrozenMapping({"longest_without_progress_s": round(longest, 3)})
        status, limit = judged(longest, self._options.degraded, self._options.unhealthy)
        if limit is None:
            return CheckResult(HealthStatus.HEALTHY, "every subscription with work makes progress", figures)
        stuck = sorted(
            (each for each, seconds in idle.items() if seconds >= self._options.degraded),
            key=lambda each: -idle[each],
        )
        told = [
            f"{each.name!r} has settled nothing for {format_duration(float(round(idle[each])))}, and "
            f"{self._work_of(each)}"
            for each in stuck[:_MOST_NAMED]
        ]
        more = f". {len(stuck) - _MOST_NAMED} more" if len(stuck) > _MOST_NAMED else ""
        return CheckResult(
            status,
            f"{'. '.join(told)}{more} (the threshold is {format_duration(limit)}): find out why its handler "
            "waits, or why nothing is received",
            figures,
        )

    # --- one subscription ---------------------------------------------------------------------------------

    def _idle_for(self, state: SubscriptionState, now: float) -> float:
        """The seconds for which a subscription has had work without progress."""
        name = (state.name, state.topic)
        watched = self._watched.setdefault(name, _Watched())
        owed = self._owed.get(name)
        outcomes = state.handled + state.skipped + state.failed_attempts + state.dead_lettered + state.late
        progressed = outcomes != watched.outcomes
        if owed is not None and owed.settled is not None:
            progressed = progressed or (watched.settled is not None and owed.settled > watched.settled)
            watched.settled = owed.settled
        watched.outcomes = outcomes
        has_work = state.queued or state.running or (owed is not None and owed.unread)
        if progressed or state.paused or not has_work:
            watched.idle_since = now if has_work and not state.paused else None
        elif watched.idle_since is None:
            watched.idle_since = now
        return 0.0 if watched.idle_since is None else now - watched.idle_since

    def _work_of(self, state: SubscriptionState) -> str:
        owed = self._owed.get((state.name, state.topic))
        if state.queued or state.running or owed is None:
            return f"{counted(state.queued + state.running, 'event is', 'events are')} in its hands"
        return f"{counted(owed.unread, 'event waits', 'events wait')} in the storage"

    # --- the storage --------------------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        """Asks the storage again, if it is time, and does not wait for the answer."""
        if self._adapter is None or not self._adapter.features.admin:
            return
        is_time = self._asked_at is None or now - self._asked_at >= self._options.interval
        if is_time and (self._asking is None or self._asking.done()):
            self._asked_at = now
            admin = cast(AdministeredAdapter, self._adapter)
            self._asking = asyncio.create_task(self._look(admin), name="look at the groups")

    async def _look(self, adapter: AdministeredAdapter) -> None:
        try:
            groups = await adapter.admin.groups()
        except Exception:  # the checks of the adapter tell what is wrong with it
            self._owed = {}
            return
        self._owed = {
            (each.subscription, each.topic): _Owed(
                each.lag or 0, None if each.published is None else each.published - each.backlog
            )
            for each in groups
            if each.group == f"{self._service}.{each.subscription}"
        }
