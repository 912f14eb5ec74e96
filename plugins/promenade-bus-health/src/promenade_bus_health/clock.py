"""The health probe ``clock``: steps of the system's time, by which retries and ages are wrong."""

from __future__ import annotations

from bus_core import CheckResult, Clock, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.config import format_duration
from promenade_bus_health.config import ClockOptions
from promenade_bus_health.judging import judged
from promenade_bus_health.sampling import NOT_SAMPLING, Sampler, Worst

__all__ = ["ClockProbe"]

_NOISE = 0.05
"""Seconds that the time may differ from one look to the next, as a clock is adjusted slowly."""


class ClockProbe(HealthProbe):
    """Compares the time with the monotonic clock again and again, and keeps the steps of a window."""

    def __init__(self, options: ClockOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._sampler = Sampler(clock, options.interval, self._look)
        self._offset: float | None = None
        self._steps = Worst(options.window)  # in seconds

    async def start(self) -> None:
        if not self._sampler.is_running:
            self._offset = None
            self._steps.clear()
            self._look()
            self._sampler.start()

    async def close(self) -> None:
        self._sampler.stop()

    async def check(self, state: EngineState) -> CheckResult:
        if not self._sampler.is_running:
            return NOT_SAMPLING
        self._look()
        worst = self._steps.at(self._clock.monotonic())
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

    def _look(self) -> None:
        now = self._clock.monotonic()
        offset = self._clock.now().timestamp() - now
        if self._offset is not None and abs(offset - self._offset) > _NOISE:
            self._steps.add(now, offset - self._offset)
        self._offset = offset
