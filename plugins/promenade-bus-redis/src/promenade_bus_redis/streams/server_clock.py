"""The server's clock as seen from this process. It may step without changing any wait.

The waiting process measures delays and ages on its own clock. A time stamp of another process in server time
is converted to that clock with the offset at that time.
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
"""The change of the offset in seconds that counts as a step."""

_MOST_PERIODS: Final = 100


@attrs.frozen
class Step:
    """A step of the server's clock: forward for positive ``seconds``, back for negative ones.

    ``at`` is the time of its detection on the clock of this process.
    """

    at: float
    seconds: float

    def __str__(self) -> str:
        direction = "forward" if self.seconds > 0 else "back"
        return f"went {direction} by {abs(self.seconds):.1f} s"


@attrs.define
class _Period:
    """A period without a step. It began after ``after``, was ``noticed`` then, and last ``seen``."""

    after: float
    noticed: float
    seen: float
    offset: float


class ServerClock:
    """Learns the server's time from replies; may be used from any thread.

    Times are seconds: own times are on ``lease_clock``, stamps are in server time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._periods: deque[_Period] = deque(maxlen=_MOST_PERIODS)
        self._last_step: Step | None = None

    @property
    def last_step(self) -> Step | None:
        """The latest detected step."""
        return self._last_step

    def note(self, stamp: float, sent: float, received: float) -> None:
        """Records that the server's clock showed ``stamp`` between two own times."""
        least, most = stamp - received, stamp - sent
        offset = (least + most) / 2
        with self._lock:
            period = self._periods[-1] if self._periods else None
            if period is None:
                self._periods.append(_Period(float("-inf"), float("-inf"), received, offset))
            elif least - _TOLERANCE <= period.offset <= most + _TOLERANCE:
                period.seen = max(period.seen, received)
                period.offset = min(max(period.offset, least), most)  # clocks drift
            elif sent >= period.seen:  # otherwise the reply is outdated
                self._last_step = step = Step(received, offset - period.offset)
                logger.warning("the clock of the server %s", step)
                self._periods.append(_Period(period.seen, received, received, offset))

    def stamp_of(self, own: float) -> float:
        """Converts an own time to the server's clock; returns it unchanged before any reply."""
        with self._lock:
            for period in reversed(self._periods):
                if own >= period.noticed:
                    return own + period.offset
        return own

    def own_of(self, stamp: float, now: float) -> float | None:
        """Returns the latest own time up to ``now`` for a stamp of the server's clock, or None."""
        with self._lock:
            end = now + _TOLERANCE
            for period in reversed(self._periods):
                own = stamp - period.offset
                if period.after <= own <= end:
                    return own
                end = period.noticed
        return None
