"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class VirtualTimer:
    """A timer of a `VirtualClock`."""

    def __init__(self, due: float, number: int, callback: Callable[[], None]) -> None:
        self.due = due
        self._order = (due, number)
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def __lt__(self, other: VirtualTimer) -> bool:
        return self._order < other._order


class VirtualClock:
    """Implements `bus_core.clock.Clock`. Time passes only in `advance`, and then without waiting."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._timers: list[VirtualTimer] = []
        self._numbers = itertools.count()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    def call_later(self, delay: float, callback: Callable[[], None]) -> VirtualTimer:
        timer = VirtualTimer(self._elapsed + max(0.0, delay), next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    @property
    def timers(self) -> list[float]:
        """In how many seconds each pending timer is due, soonest first."""
        return sorted(timer.due - self._elapsed for timer in self._timers if timer.pending)

    async def advance(self, seconds: float) -> None:
        """Let time pass: timers fire in the order in which they are due, each at its own time.

        Before, between and after them everything that can run without waiting runs, so that a timer
        that is set because of another one fires too when it is due in time.
        """
        end = self._elapsed + seconds
        await self.settle()
        while self._timers and self._timers[0].due <= end:
            timer = heapq.heappop(self._timers)
            if not timer.pending:
                continue
            self._elapsed = max(self._elapsed, timer.due)
            # As on a real clock, a callback runs on the loop and never inside of a task.
            asyncio.get_running_loop().call_soon(timer.fire)
            await self.settle()
        self._elapsed = end
        await self.settle()

    def block(self, seconds: float) -> None:
        """Let time pass while the loop does nothing else, as a handler that never awaits would."""
        self._elapsed += seconds

    def fire_all(self) -> None:
        """Fire every pending timer at once, before anything else runs: for tests of races."""
        timers, self._timers = sorted(self._timers), []
        for timer in timers:
            self._elapsed = max(self._elapsed, timer.due)
            timer.fire()

    async def settle(self, turns: int = 1000) -> None:
        """Let everything run that can run now, until the loop has nothing to do but wait.

        Raises when after so many turns of the loop something is still busy.
        """
        # CPython's event loops keep what can run in a deque. When only this task is awake, it is empty.
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        for _ in range(turns):
            await asyncio.sleep(0)
            if not ready:
                return
        raise AssertionError(f"something is still busy after {turns} turns of the event loop")
