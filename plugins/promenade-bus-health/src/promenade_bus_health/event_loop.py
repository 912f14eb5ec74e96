"""The health probe ``event-loop``: measures the delay of the event loop, which delays everything on it."""

from __future__ import annotations

from collections import deque

from bus_core import CheckResult, Clock, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.runtime import TimerHandle
from promenade_bus_health.config import EventLoopOptions

__all__ = ["EventLoopProbe"]


class EventLoopProbe(HealthProbe):
    """Sets a timer repeatedly, and measures how late it fires."""

    def __init__(self, options: EventLoopOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._timer: TimerHandle | None = None
        self._due = 0.0
        self._latest = 0.0
        # Times and delays of samples, with decreasing delays, so that the first is the largest in the
        # window.
        self._largest: deque[tuple[float, float]] = deque()

    async def start(self) -> None:
        if self._timer is None:
            self._largest.clear()
            self._set_timer()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def check(self, state: EngineState) -> CheckResult:
        if self._timer is None:
            return CheckResult(HealthStatus.DEGRADED, "no measurement: the probe is not started")
        now = self._clock.monotonic()
        if now > self._due:
            self._keep(now, now - self._due)  # the loop was blocked until now
        self._forget_before(now - self._options.window)
        worst = self._largest[0][1] if self._largest else 0.0
        figures = FrozenMapping(
            {
                "longest_delay_ms": round(worst * 1000, 3),
                "latest_delay_ms": round(self._latest * 1000, 3),
                "window_s": self._options.window,
            }
        )
        return CheckResult(self._status(worst), self._summary(worst), figures)

    def _set_timer(self) -> None:
        self._due = self._clock.monotonic() + self._options.interval
        self._timer = self._clock.call_later(self._options.interval, self._sample)

    def _sample(self) -> None:
        if self._timer is None:
            return
        now = self._clock.monotonic()
        self._keep(now, max(0.0, now - self._due))
        self._forget_before(now - self._options.window)
        self._set_timer()

    def _keep(self, now: float, delay: float) -> None:
        self._latest = delay
        while self._largest and self._largest[-1][1] <= delay:
            self._largest.pop()
        self._largest.append((now, delay))

    def _forget_before(self, moment: float) -> None:
        while self._largest and self._largest[0][0] < moment:
            self._largest.popleft()

    def _status(self, worst: float) -> HealthStatus:
        if worst >= self._options.unhealthy:
            return HealthStatus.UNHEALTHY
        return HealthStatus.DEGRADED if worst >= self._options.degraded else HealthStatus.HEALTHY

    def _summary(self, worst: float) -> str:
        figure = f"{worst * 1000:.0f} ms in the last {self._options.window:g} s"
        if worst < self._options.degraded:
            return f"the event loop is on time: at most {figure} late"
        return (
            f"the event loop was blocked for up to {figure}: a handler computes or waits without "
            "await; find it with PYTHONASYNCIODEBUG=1, which logs every step over 100 ms, and make it a "
            "plain function, which runs in a thread"
        )
