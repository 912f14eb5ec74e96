"""The health probe ``clock``: steps of the system's time, by which retries and ages are wrong."""

from __future__ import annotations

from collections import deque

from bus_core import CheckResult, Clock, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.config import format_duration
from bus_core.runtime import TimerHandle
from promenade_bus_health.config import ClockOptions
from promenade_bus_health.judging import judged

__all__ = ["ClockProbe"]

_NOISE = 0.05
"""Seconds that the time may differ from one look to the next, as a clock is adjusted slowly."""


class ClockProbe(HealthProbe):
    """Compares the time with the monotonic clock again and again, and keeps the steps of a window."""

    def __init__(self, options: ClockOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._timer: TimerHandle | None = None
        self._offset: float | None = None
        self._steps: deque[tuple[float, float]] = deque()  # when, and by how many seconds

    async def start(self) -> None:
        if self._timer is None:
            self._offset = None
            self._steps.clear()
            self._look()
            self._set_timer()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def check(self, state: EngineState) -> CheckResult:
        if self._timer is None:
            return CheckResult(HealthStatus.DEGRADED, "no measurement: the probe is not started")
        self._look()
        worst = max((step for _, step in self._steps), key=abs, default=0.0)
        figures = FrozenMapping({"largest_step_s": round(worst, 3), "window_s": self._options.window})
        status, limit = judged(abs(worst), self._options.degraded, self._options.unhealthy)
        if limit is None:
            return CheckResult(HealthStatus.HEALTHY, "the system's time has not been set", figures)
        direction = "forward" if worst > 0 else "back"
        return CheckResult(
            status,
            f"the system's time went {direction} by {format_duration(abs(round(worst, 3)))} (the threshold "
            f"is {format_duration(limit)}): it was set, or the machine slept; check its time service",
            figures,
        )

    def _set_timer(self) -> None:
        self._timer = self._clock.call_later(self._options.interval, self._sample)

    def _sample(self) -> None:
        if self._timer is not None:
            self._look()
            self._set_timer()

    def _look(self) -> None:
        now = self._clock.monotonic()
        offset = self._clock.now().timestamp() - now
        if self._offset is not None and abs(offset - self._offset) > _NOISE:
            self._steps.append((now, offset - self._offset))
        self._offset = offset
        while self._steps and self._steps[0][0] < now - self._options.window:
            self._steps.popleft()
