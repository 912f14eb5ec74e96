"""How the health probes of both modes come from problems to a result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from bus_core import CheckResult, FrozenMapping, HealthStatus

__all__ = ["DEGRADED", "NOT_IN_USE", "UNHEALTHY", "Figures", "Problem", "slow_answer", "verdict"]

DEGRADED: Final = HealthStatus.DEGRADED
UNHEALTHY: Final = HealthStatus.UNHEALTHY

Problem = tuple[HealthStatus, str]
"""How bad it is, and what it is, with what to do about it."""

Figures = Mapping[str, float | int | str | bool]

NOT_IN_USE: Final = CheckResult(DEGRADED, "the bus does not use Redis at the moment, but its fallback")


def verdict(problems: Iterable[Problem], all_well: str, figures: Figures) -> CheckResult:
    """The worst problem decides, and all of them are told, the worst first; without any ``all_well`` is."""
    ordered = sorted(problems, key=lambda each: -each[0].severity)
    if not ordered:
        return CheckResult(HealthStatus.HEALTHY, all_well, FrozenMapping(figures))
    return CheckResult(ordered[0][0], ". ".join(text for _, text in ordered), FrozenMapping(figures))


def slow_answer(seconds: float, most: float) -> Iterator[Problem]:
    """A round trip that took as long as the threshold, or longer."""
    if seconds >= most:
        yield DEGRADED, f"the server took {seconds * 1000:.0f} ms to answer PING"
