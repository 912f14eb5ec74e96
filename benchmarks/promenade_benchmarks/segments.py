"""The method: short segments of every contender in turn, many times, in one process.

A shared machine changes its speed from one second to the next. Contenders that take turns every few
milliseconds all meet the same weather, so that their ratios hold still where their rates do not. The time is
the processor's time of this process: what others do on the machine counts only through the caches.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Contender", "Timing", "take_turns", "take_turns_by"]

_LEAST_ROUNDS = 2
"""So many rounds are run, however long they take."""


@dataclass(frozen=True)
class Contender:
    """Something to measure. One call of ``segment`` makes so many ``deliveries``, and waits for the last.

    ``prepare`` comes before each of them, and is not measured.
    """

    name: str
    title: str
    deliveries: int
    segment: Callable[[], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Timing:
    """Nanoseconds per delivery, one for each segment."""

    title: str
    deliveries: int
    nanoseconds: tuple[float, ...]

    @property
    def least(self) -> float:
        return min(self.nanoseconds)

    @property
    def median(self) -> float:
        return median(self.nanoseconds)


async def take_turns(contenders: Sequence[Contender], seconds: float) -> Mapping[str, Timing]:
    """Runs every contender once unmeasured, then in rounds until the seconds are over.

    Each round begins with another one.
    """
    (taken,) = await take_turns_by([time.process_time_ns], contenders, seconds)
    return taken


async def take_turns_by(
    clocks: Sequence[Callable[[], int]], contenders: Sequence[Contender], seconds: float
) -> list[Mapping[str, Timing]]:
    """The same by several clocks of nanoseconds at once; what each of them says."""
    taken: list[dict[str, list[float]]] = [{contender.name: [] for contender in contenders} for _ in clocks]

    async def run(contender: Contender) -> list[float]:
        if contender.prepare is not None:
            await contender.prepare()
        began = [clock() for clock in clocks]
        await contender.segment()
        return [(clock() - first) / contender.deliveries for clock, first in zip(clocks, began, strict=True)]

    end = time.monotonic() + seconds
    for contender in contenders:
        await run(contender)
    gc.collect()
    turn = 0
    while turn < _LEAST_ROUNDS or time.monotonic() < end:
        first = turn % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            for found, nanoseconds in zip(taken, await run(contender), strict=True):
                found[contender.name].append(nanoseconds)
        turn += 1
    return [
        {
            contender.name: Timing(contender.title, contender.deliveries, tuple(found[contender.name]))
            for contender in contenders
        }
        for found in taken
    ]
