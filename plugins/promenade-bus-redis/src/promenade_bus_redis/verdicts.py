"""The result of a health check from its problems, for both modes and the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from bus_core import CheckResult, FrozenMapping, HealthStatus
from promenade_bus_redis.server.checks import evicts_keys, is_replica

__all__ = [
    "DEGRADED",
    "NOT_IN_USE",
    "UNHEALTHY",
    "Figures",
    "Problem",
    "server_problems",
    "slow_answer",
    "verdict",
]

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


def server_problems(
    name: str, info: Mapping[str, str], *, loses: str, fails: str, fill: float | None = None
) -> Iterator[Problem]:
    """Yields the problems that INFO shows of a server that has to keep its data.

    ``loses`` is what it deletes when its memory is full, and ``fails`` what happens when it takes no write.
    ``fill`` is the share of its maxmemory from which it is reported; None for none.
    """
    if is_replica(info):
        yield UNHEALTHY, f"{name} is a replica, which takes no writes: {fails}"
    policy = info.get("maxmemory_policy")
    if evicts_keys(policy):
        yield (
            UNHEALTHY,
            f"{name} deletes {loses} when its memory is full (maxmemory-policy {policy}); set it to "
            "noeviction",
        )
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used >= most:
        yield UNHEALTHY, f"the memory of {name} is full (maxmemory): {fails}"
    elif most and fill is not None and used >= fill * most:
        yield DEGRADED, f"{name} uses {used / most:.0%} of its maxmemory; when it is full, {fails}"
    for status in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(status, "ok") != "ok":
            yield DEGRADED, f"{name} cannot write its data to disk ({status} is {info[status]})"


def slow_answer(seconds: float, most: float) -> Iterator[Problem]:
    """Yields a problem for a round trip at or above the threshold."""
    if seconds >= most:
        yield DEGRADED, f"the server took {seconds * 1000:.0f} ms to reply to PING"
