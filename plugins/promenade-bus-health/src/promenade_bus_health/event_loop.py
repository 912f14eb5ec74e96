"""The health probe ``event-loop``: measures the delay of the event loop, which delays everything on it."""

from __future__ import annotations

from bus_core import CheckResult, Clock, EngineState, FrozenMapping, HealthProbe
from promenade_bus_health.config import EventLoopOptions
from promenade_bus_health.judging import judged
from promenade_bus_health.sampling import NOT_SAMPLING, Sampler, Worst

__all__ = ["EventLoopProbe"]


class EventLoopProbe(HealthProbe):
    """Sets a timer repeatedly, and measures how late it fires."""

    def __init__(self, options: EventLoopOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._sampler = Sampler(clock, options.interval, self._look)
        self._latest = 0.0
        self._delays = Worst(options.window)  # in seconds

    async def start(self) -> None:
        if not self._sampler.is_running:
            self._delays.clear()
            self._sampler.start()

    async def close(self) -> None:
        self._sampler.stop()

    async def check(self, state: EngineState) -> CheckResult:
        if not self._sampler.is_running:
            return NOT_SAMPLING
        now = self._clock.monotonic()
        if now > self._sampler.due:
            self._look()  # the loop was blocked until now
        worst = self._delays.at(now)
        figures = FrozenMapping(
            {
                "longest_delay_ms": round(worst * 1000, 3),
                "latest_delay_ms": round(self._latest * 1000, 3),
                "window_s": self._options.window,
            }
        )
        status, _ = judged(worst, self._options.degraded, self._options.unhealthy)
        return CheckResult(status, self._summary(worst), figures)

    def _look(self) -> None:
        now = self._clock.monotonic()
        self._latest = max(0.0, now - self._sampler.due)
        self._delays.add(now, self._latest)

    def _summary(self, worst: float) -> str:
        figure = f"{worst * 1000:.0f} ms in the last {self._options.window:g} s"
        if worst < self._options.degraded:
            return f"the event loop is on time: at most {figure} late"
        return (
            f"the event loop was blocked for up to {figure}: a handler computes or waits without "
            "await; find it with PYTHONASYNCIODEBUG=1, which logs every step over 100 ms, and make it a "
            "plain function, which runs in a thread"
        )
