"""The clock protocol of the bus, so that tests can replace time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, Protocol, runtime_checkable

__all__ = ["Clock", "TimerHandle", "lease_clock", "timestamps_of"]


class TimerHandle(Protocol):
    """A timer that has not fired yet."""

    def cancel(self) -> None:
        """Cancels the callback; no-op when it was called already."""


@runtime_checkable
class Clock(Protocol):
    """The clock of the engine, for every delay, timeout and time stamp.

    All calls come from the thread of the bus's event loop, except ``now`` and ``monotonic``, which may come
    from any thread.
    """

    def now(self) -> datetime:
        """The wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes backwards; only differences are meaningful."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        """Call ``callback`` on the running loop once, ``delay`` seconds from now."""
        ...


def timestamps_of(clock: Clock) -> Callable[[], float]:
    """A function that returns seconds since the epoch; the clock's own ``timestamp`` is faster."""
    own: Callable[[], float] | None = getattr(clock, "timestamp", None)
    return own if own is not None else lambda: clock.now().timestamp()


_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

lease_clock: Final[Callable[[], float]] = (
    time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
)
"""Seconds that include sleep of the process and of the machine, because leases end meanwhile."""
