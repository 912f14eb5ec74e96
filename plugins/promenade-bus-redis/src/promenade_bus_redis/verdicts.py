"""The result of a health check from its problems, for both modes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from bus_core import CheckResult, FrozenMapping, HealthStatus

__all__ = ["DEGRADED", "NOT_IN_USE", "UNHEALTHY", "Figures", "Problem", "slow_answer", "verdict"]

DEGRADED: Final = HealthStatus.DEGRADED
UNHEALTHY: Final = HealthStatus.UNHEALTHY

Problem = tuple[HealthStatus, str]
"""A status, and a description with the remedy."""

Figures = Mapping[str, float | int | str | bool]

NOT_IN_USE: Final = CheckResult(DEGRADED, "the bus does not use Redis but its fallback")


def verdict(problems: Iterable[Problem], all_well: str, figures: Figures) -> CheckResult:
    """Returns the worst status with all problems, the worst first, or ``all_well`` without any."""
    ordered = sorted(problems, key=lambda each: -each[0].severity)
    if not ordered:
        return CheckResult(HealthStatus.HEALTHY, all_well, FrozenMapping(figures))
    return CheckResult(ordered[0][0], ". ".join(text for _, text in ordered), FrozenMapping(figures))


def slow_answer(seconds: float, most: float) -> Iterator[Problem]:
    """Yields a problem for a round trip at or above the threshold."""
    if seconds >= most:
        yield DEGRADED, f"the server took {seconds * 1000:.0f} ms to reply to PING"
