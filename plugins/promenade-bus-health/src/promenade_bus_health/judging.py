"""Compares values with thresholds, and keeps counts of a window of time."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from bus_core import HealthStatus

__all__ = ["Recent", "judged"]

N = TypeVar("N", int, float)


def judged(value: N, degraded: N | None, unhealthy: N | None) -> tuple[HealthStatus, N | None]:
    """The status of a value, and the threshold that it has reached; None when it has reached none."""
    if unhealthy is not None and value >= unhealthy:
        return HealthStatus.UNHEALTHY, unhealthy
    if degraded is not None and value >= degraded:
        return HealthStatus.DEGRADED, degraded
    return HealthStatus.HEALTHY, None


class Recent:
    """The growth of a counter within the last ``window`` seconds."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def growth(self, now: float, total: int) -> int:
        """Notes the counter, and returns by how much it has grown within the window."""
        if not self._seen or self._seen[-1][1] != total:
            self._seen.append((now, total))
        before = 0
        for moment, count in [*self._seen]:
            if moment > now - self._window:
                break
            before = count
            if len(self._seen) > 1 and self._seen[1][0] <= now - self._window:
                self._seen.popleft()
        return total - before
