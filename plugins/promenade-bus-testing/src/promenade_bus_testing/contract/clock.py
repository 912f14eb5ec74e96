"""The clock of the contract tests: it moves only while a test waits."""

from __future__ import annotations

import asyncio
import heapq
from datetime import datetime, timedelta

from promenade_bus_testing.virtual_clock import VirtualClock

__all__ = ["ContractClock"]


class ContractClock(VirtualClock):
    """A virtual clock that jumps to the next timer, and whose wall time can be stepped as NTP does."""

    def __init__(self) -> None:
        super().__init__()
        self._stepped = timedelta()

    def now(self) -> datetime:
        return super().now() + self._stepped

    def step(self, seconds: float) -> None:
        """Steps the wall clock forward or back; timers are not affected."""
        self._stepped += timedelta(seconds=seconds)

    def jump(self, horizon: float) -> bool:
        """Advances to the next timer and fires it; returns False when none is due before ``horizon``."""
        timers = self._timers
        while timers and not timers[0].pending:
            heapq.heappop(timers)
        if not timers or timers[0].due > horizon:
            return False
        self._elapsed = max(self._elapsed, timers[0].due)
        loop = asyncio.get_running_loop()
        while timers and timers[0].due <= self._elapsed:
            loop.call_soon(heapq.heappop(timers).fire)
        return True
