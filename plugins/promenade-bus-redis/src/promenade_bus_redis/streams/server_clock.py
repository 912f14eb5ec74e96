"""The server's time of day, as seen from here: it may step, and nothing waits for longer or shorter by that.

Delays and ages are measured on the clock of whoever waits. What another process stamped with the server's
time is put on that clock through the offset between both, as it was then.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

import attrs

__all__ = ["ServerClock", "Step"]

logger = logging.getLogger("promenade.bus.redis")

_TOLERANCE: Final = 0.5
"""Seconds by which the offset may change before that is a step."""

_MOST_PERIODS: Final = 100


@attrs.frozen
class Step:
    """The server's clock went forward by so many ``seconds``, or back by less than none.

    ``at`` is when that was noticed, on the clock of this process.
    """

    at: float
    seconds: float

    def __str__(self) -> str:
        direction = "forward" if self.seconds > 0 else "back"
        return f"went {direction} by {abs(self.seconds):.1f} s"


@attrs.define
class _Period:
    """A time without a step: it began after ``after``, which was ``noticed``, and was last ``seen``."""

    after: float
    noticed: float
    seen: float
    offset: float


class ServerClock:
    """Learns the server's time from replies that tell it; may be asked from any thread.

    Times are seconds: "own" ones are of ``lease_clock``, stamps are of the server.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._periods: deque[_Period] = deque(maxlen=_MOST_PERIODS)
        self._last_step: Step | None = None

    @property
    def last_step(self) -> Step | None:
        """The latest step that was noticed."""
        return self._last_step

    def note(self, stamp: float, sent: float, received: float) -> None:
        """The server's clock showed ``stamp`` at some moment between two own ones."""
        least, most = stamp - received, stamp - sent
        offset = (least + most) / 2
        with self._lock:
            period = self._periods[-1] if self._periods else None
            if period is None:
                self._periods.append(_Period(float("-inf"), float("-inf"), received, offset))
            elif least - _TOLERANCE <= period.offset <= most + _TOLERANCE:
                period.seen = max(period.seen, received)
                period.offset = min(max(period.offset, least), most)  # it drifts
            elif sent >= period.seen:  # otherwise the reply is older than what is known
                self._last_step = step = Step(received, offset - period.offset)
                logger.warning("the clock of the server %s", step)
                self._periods.append(_Period(period.seen, received, received, offset))

    def stamp_of(self, own: float) -> float:
        """What the server's clock showed at an own moment; before anything was learnt, the moment itself."""
        with self._lock:
            for period in reversed(self._periods):
                if own >= period.noticed:
                    return own + period.offset
        return own

    def own_of(self, stamp: float, now: float) -> float | None:
        """The latest own moment up to ``now`` at which the server's clock may have shown a stamp, or None."""
        with self._lock:
            end = now + _TOLERANCE
            for period in reversed(self._periods):
                own = stamp - period.offset
                if period.after <= own <= end:
                    return own
                end = period.noticed
        return None
