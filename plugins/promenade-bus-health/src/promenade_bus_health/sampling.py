"""Samples again and again while the bus runs, and keeps the worst sample of a window of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from bus_core import CheckResult, Clock, HealthStatus
from bus_core.runtime import TimerHandle

__all__ = ["NOT_SAMPLING", "Sampler", "Worst"]

NOT_SAMPLING: Final = CheckResult(HealthStatus.DEGRADED, "no measurement: the probe is not started")
"""The result of a check without a running sampler."""


class Sampler:
    """Calls ``sample`` every ``interval`` seconds, from ``start`` to ``stop``."""

    def __init__(self, clock: Clock, interval: float, sample: Callable[[], None]) -> None:
        self._clock = clock
        self._interval = interval
        self._sample = sample
        self._timer: TimerHandle | None = None
        self.due = 0.0  # the time of the next call, on the monotonic clock

    @property
    def is_running(self) -> bool:
        """True between ``start`` and ``stop``."""
        return self._timer is not None

    def start(self) -> None:
        """Sets the first timer. It may be called again after ``stop``."""
        self.due = self._clock.monotonic() + self._interval
        self._timer = self._clock.call_later(self._interval, self._fire)

    def stop(self) -> None:
        """Cancels the timer, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        if self._timer is not None:
            self._sample()
            self.start()


class Worst:
    """The sample with the largest amount, above or below zero, within the last ``window`` seconds."""

    def __init__(self, window: float) -> None:
        self._window = window
        # Times and samples, with decreasing amounts, so that the first is the worst.
        self._samples: deque[tuple[float, float]] = deque()

    def clear(self) -> None:
        """Forgets all samples."""
        self._samples.clear()

    def add(self, now: float, sample: float) -> None:
        """Notes a sample."""
        while self._samples and abs(self._samples[-1][1]) <= abs(sample):
            self._samples.pop()
        self._samples.append((now, sample))
        self._forget(now)

    def at(self, now: float) -> float:
        """The worst sample; 0 without any."""
        self._forget(now)
        return self._samples[0][1] if self._samples else 0.0

    def _forget(self, now: float) -> None:
        while self._samples and self._samples[0][0] < now - self._window:
            self._samples.popleft()
