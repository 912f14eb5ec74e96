"""The clock of the contract tests: it stands still until a test waits for something that needs time."""

from __future__ import annotations

import asyncio
import heapq
from datetime import datetime, timedelta

from promenade_bus_testing.virtual_clock import VirtualClock

__all__ = ["ContractClock"]


class ContractClock(VirtualClock):
    """A virtual clock that jumps to the next timer, and whose wall time can be stepped like NTP does it."""

    def __init__(self) -> None:
        super().__init__()
        self._stepped = timedelta()

    def now(self) -> datetime:
        return super().now() + self._stepped

    def step(self, seconds: float) -> None:
        """Sets the wall clock forwards or backwards; no timer notices."""
        self._stepped += timedelta(seconds=seconds)

    def jump(self, horizon: float) -> bool:
        """Lets time pass until the next timer is due, and fires it; False when none is until ``horizon``."""
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
