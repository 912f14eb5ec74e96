"""The probe of dead letters: their number, their growth, and the age of the oldest one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs

from bus_core import (
    AnyAdapter,
    BusError,
    CheckResult,
    Clock,
    DeadLetterFilter,
    DeadLetterTally,
    EngineState,
    FrozenMapping,
    HealthProbe,
    HealthStatus,
)
from bus_core.config import format_duration
from promenade_bus_health.config import DeadLetterOptions, LetterThresholds
from promenade_bus_health.judging import judged

__all__ = ["DeadLetterProbe"]

_Problem = tuple[HealthStatus, str]

_PATIENCE: Final = 0.2
"""Seconds of real time for which a check waits for a new tally where it knows an earlier one."""

_FIRST_PATIENCE: Final = 2.0
"""The same for the first tally: without one, the letters are judged by their number alone."""

_SHARE: Final = 10
"""A rest between tallies lasts at least so many times as long as one took: the store has other work."""

_LONGEST_KNOWN: Final = 60.0
"""Seconds after which a tally is made again although the number of letters is the same."""

_MOST_NAMED: Final = 20
"""Subscriptions that have a figure of their own."""

_OTHERS: Final = ""
"""The subscriptions that have no thresholds of their own, together."""


@attrs.define
class _Seen:
    """Letters of one or of several subscriptions: how many, when the first died, and which has most."""

    count: int = 0
    oldest: datetime | None = None
    most: tuple[int, str] = (0, "")

    def add(self, tally: DeadLetterTally, of_subscription: int) -> None:
        self.count += tally.count
        self.oldest = tally.oldest if self.oldest is None else min(self.oldest, tally.oldest)
        self.most = max(self.most, (of_subscription, tally.subscription))


class _Trend:
    """The number of letters over a window of time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def growth(self, now: float, count: int, window: float) -> int:
        """Notes how many there are, and returns by how many they exceed the least number in the window."""
        while self._seen and self._seen[0][0] < now - window:
            self._seen.popleft()
        while self._seen and self._seen[-1][1] >= count:  # the least of the window is the first
            self._seen.pop()
        self._seen.append((now, count))
        return count - self._seen[0][1]


class DeadLetterProbe(HealthProbe):
    """Counts the letters with each check. The store is asked for more only as often as it can well afford."""

    def __init__(self, options: DeadLetterOptions, clock: Clock, adapter: AnyAdapter | None) -> None:
        self._options = options
        self._clock = clock
        self._adapter = adapter
        self._trends: dict[str, _Trend] = {}
        self._known: Sequence[DeadLetterTally] | None = None
        self._known_count = 0
        self._known_at = 0.0
        self._rests_until = 0.0
        self._tallying: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._tallying is not None:
            self._tallying.cancel()
            self._tallying = None

    async def check(self, state: EngineState) -> CheckResult:
        adapter = self._adapter
        if adapter is None:
            return CheckResult(HealthStatus.DEGRADED, "nothing is measured: the probe knows no adapter")
        try:
            count = await adapter.dead_letters.count(DeadLetterFilter())
            tallies = await self._tally(adapter, count)
        except BusError as error:
            return CheckResult(HealthStatus.UNHEALTHY, f"the dead letters cannot be counted: {error}")
        by_subscription = _by_subscription(tallies)
        seen = self._grouped(tallies, by_subscription)
        seen[_OTHERS].count += count - sum(each.count for each in seen.values())  # since the last tally
        now = self._clock.monotonic()
        growth = {
            name: self._trends.setdefault(name, _Trend()).growth(now, each.count, self._options.window)
            for name, each in seen.items()
        }
        problems = sorted(
            (problem for name, each in seen.items() for problem in self._problems(name, each, growth[name])),
            key=lambda problem: -problem[0].severity,
        )
        figures = self._figures(count, sum(growth.values()), tallies, by_subscription)
        if problems:
            told = ". ".join(text for _, text in problems)
            remedy = "look at them with 'promenade-bus dead-letters count --by error'"
            return CheckResult(problems[0][0], f"{told}: {remedy}", figures)
        return CheckResult(HealthStatus.HEALTHY, _well(count), figures)

    # --- what the store says ------------------------------------------------------------------------------

    async def _tally(self, adapter: AnyAdapter, count: int) -> Sequence[DeadLetterTally]:
        """The letters in groups, as they are now or were a little while ago."""
        if not count:
            self._known, self._known_count = (), 0
            return ()
        now = time.monotonic()
        is_old = count != self._known_count or now - self._known_at > _LONGEST_KNOWN
        if self._known is None or (is_old and now >= self._rests_until):
            tallying = self._tallying
            if tallying is None or tallying.done():
                tallying = asyncio.create_task(self._look(adapter, count), name="tally dead letters")
                self._tallying = tallying
            patience = _FIRST_PATIENCE if self._known is None else _PATIENCE
            await asyncio.wait((tallying,), timeout=patience)  # it goes on when nobody waits
            if tallying.done() and not tallying.cancelled():
                tallying.result()
        return self._known or ()

    async def _look(self, adapter: AnyAdapter, count: int) -> None:
        began = time.monotonic()
        self._known = await adapter.dead_letters.tally(DeadLetterFilter())
        self._known_count, self._known_at = count, time.monotonic()
        self._rests_until = self._known_at + _SHARE * (self._known_at - began)

    def _grouped(
        self, tallies: Sequence[DeadLetterTally], by_subscription: Mapping[str, int]
    ) -> dict[str, _Seen]:
        """The letters of each subscription with its own thresholds, and of all others together."""
        seen = {name: _Seen() for name in (_OTHERS, *self._options.subscriptions)}
        for tally in tallies:
            name = tally.subscription
            seen[name if name in seen else _OTHERS].add(tally, by_subscription[name])
        return seen

    # --- what that means ----------------------------------------------------------------------------------

    def _problems(self, name: str, seen: _Seen, growth: int) -> Iterator[_Problem]:
        limits: LetterThresholds = self._options.subscriptions.get(name, self._options)
        whose = f" of {name!r}" if name else ""
        most = f", most of all {seen.most[1]!r} with {seen.most[0]:,}" if seen.most[0] and not name else ""
        status, limit = judged(seen.count, limits.degraded, limits.unhealthy)
        if limit is not None:
            yield status, f"{seen.count:,} dead letters{whose} (the threshold is {limit:,}){most}"
        status, limit = judged(growth, limits.growth_degraded, limits.growth_unhealthy)
        if limit is not None:
            window = format_duration(self._options.window)
            yield status, f"{growth:,} more dead letters{whose} within {window} (the threshold is {limit:,})"
        if seen.oldest is None:
            return
        age = max(0.0, (self._clock.now() - seen.oldest).total_seconds())
        late, limit_of_age = judged(age, limits.oldest_degraded, limits.oldest_unhealthy)
        if limit_of_age is not None:
            told, least = format_duration(float(round(age))), format_duration(limit_of_age)
            yield late, f"the oldest dead letter{whose} died {told} ago (the threshold is {least})"

    def _figures(
        self,
        count: int,
        growth: int,
        tallies: Sequence[DeadLetterTally],
        by_subscription: Mapping[str, int],
    ) -> FrozenMapping[str, float | int | str | bool]:
        oldest = min((tally.oldest for tally in tallies), default=None)
        figures: dict[str, float | int | str | bool] = {"dead_letters": count, "growth": growth}
        if oldest is not None:
            age = (self._clock.now() - oldest).total_seconds()
            figures["oldest_s"] = round(max(0.0, age), 3)
        for name, number in [*by_subscription.items()][:_MOST_NAMED]:
            figures[f"dead_letters.{name}"] = number
        return FrozenMapping(figures)


def _by_subscription(tallies: Sequence[DeadLetterTally]) -> Mapping[str, int]:
    """The letters of each subscription, the most first."""
    found: dict[str, int] = {}
    for tally in tallies:
        found[tally.subscription] = found.get(tally.subscription, 0) + tally.count
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _well(count: int) -> str:
    return "there is no dead letter" if not count else f"{count:,} dead letters, fewer than the thresholds"
