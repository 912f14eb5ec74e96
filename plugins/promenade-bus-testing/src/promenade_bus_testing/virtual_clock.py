"""A clock that moves only when a test advances it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

__all__ = ["VirtualClock", "VirtualTimer"]

T = TypeVar("T")

_PATIENCE: Final = 10.0
"""Real seconds to wait for something that no timer causes, before the wait fails."""


class VirtualTimer:
    """A timer of a ``VirtualClock``. ``due`` is in seconds of ``VirtualClock.monotonic``."""

    def __init__(self, due: float, number: int, callback: Callable[[], None]) -> None:
        self.due = due
        self._order = (due, number)
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        """True until the timer has fired or was cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Cancels the timer; does nothing when it has fired."""
        self._callback = None

    def fire(self) -> None:
        """Calls the callback now, unless it was called or cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def __lt__(self, other: VirtualTimer) -> bool:
        return self._order < other._order


class VirtualClock:
    """Implements ``bus_core.Clock``. Time passes only in ``advance`` and ``run``, without real waiting.

    Pass it to ``open_bus(clock=...)``. Every retry, delay and timeout of the bus is then instant and exact.
    It needs asyncio's own event loop, and raises ``RuntimeError`` on another one, such as uvloop.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self._start = start
        self._now = start
        self._now_at = 0.0
        self._elapsed = 0.0
        self._timers: list[VirtualTimer] = []
        self._numbers = itertools.count()
        self._elsewhere: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._elapsed:g} s, {len(self.timers)} timers>"

    def now(self) -> datetime:
        """Returns the start plus the elapsed virtual time."""
        if self._now_at != self._elapsed:  # it stands still most of the time
            self._now, self._now_at = self._start + timedelta(seconds=self._elapsed), self._elapsed
        return self._now

    def monotonic(self) -> float:
        """Returns the elapsed virtual seconds."""
        return self._elapsed

    def call_later(self, delay: float, callback: Callable[[], None]) -> VirtualTimer:
        """Calls ``callback`` once, after ``delay`` virtual seconds."""
        timer = VirtualTimer(self._elapsed + max(0.0, delay), next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    @property
    def timers(self) -> list[float]:
        """The seconds until each pending timer is due, soonest first."""
        return sorted(timer.due - self._elapsed for timer in self._timers if timer.pending)

    async def advance(self, seconds: float | timedelta) -> None:
        """Advances the clock. Timers fire in the order of their due times, each at its own time.

        Before, between and after the timers everything runs that can run without waiting. So a timer that is
        set in reaction to another one fires, too, if it is due in time.
        """
        end = self._elapsed + (seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
        await self.settle()
        while self._timers and self._timers[0].due <= end:
            await self._next_timer()
        self._elapsed = end
        await self.settle()

    async def run(self, awaitable: Awaitable[T]) -> T:
        """Advances from timer to timer until ``awaitable`` is done, and returns its result.

        ``await clock.run(bus.drain())`` runs every retry, however long its delay. Raises ``AssertionError``
        when no timer is left and ``awaitable`` does not end otherwise.
        """
        waiting = asyncio.ensure_future(awaitable)
        try:
            deadline = time.monotonic() + _PATIENCE
            while True:
                await self.settle()
                if waiting.done():
                    return await waiting
                if self.timers:
                    await self._next_timer()
                    deadline = time.monotonic() + _PATIENCE
                elif time.monotonic() > deadline:
                    raise AssertionError(
                        f"no timer is left at {self._elapsed:g} s, and for {_PATIENCE:g} s of real time "
                        f"nothing has ended {awaitable!r}"
                    )
                else:
                    await asyncio.wait((waiting,), timeout=0.001)  # real work, such as I/O
        finally:
            waiting.cancel()

    async def _next_timer(self) -> None:
        timer = heapq.heappop(self._timers)
        if timer.pending:
            self._elapsed = max(self._elapsed, timer.due)
            # As on a real clock, a callback runs on the loop, never inside a task.
            asyncio.get_running_loop().call_soon(timer.fire)
            await self.settle()

    def block(self, seconds: float) -> None:
        """Advances the clock while the loop is blocked, like a handler that never awaits."""
        self._elapsed += seconds

    def fire_all(self) -> None:
        """Fires every pending timer at once, before anything else runs: for tests of races."""
        timers, self._timers = sorted(self._timers), []
        for timer in timers:
            self._elapsed = max(self._elapsed, timer.due)
            timer.fire()

    def wait_for_work_elsewhere(self, busy: Callable[[], object]) -> None:
        """Makes ``settle`` wait while ``busy`` returns true, for handlers that run in threads.

        Without it, the clock could jump while a thread is working.
        """
        self._elsewhere.append(busy)

    async def settle(self, turns: int | None = None) -> None:
        """Runs the loop until it can only wait.

        Raises ``AssertionError`` if the loop, or a thread, is still busy after ``turns`` iterations of the
        loop, if given, or after 10 real seconds.
        """
        # asyncio's own event loops keep ready callbacks in a deque. It is empty when only this task is awake.
        ready: Any = getattr(asyncio.get_running_loop(), "_ready", None)
        if ready is None:
            raise RuntimeError("a VirtualClock needs asyncio's own event loop; this loop hides its work")
        deadline = time.monotonic() + _PATIENCE
        while True:
            for turn in itertools.count(1):
                await asyncio.sleep(0)
                if not ready:
                    break
                if turn == turns:
                    raise AssertionError(f"something is still busy after {turns} turns of the event loop")
                if time.monotonic() > deadline:
                    raise AssertionError(f"something has been busy for {_PATIENCE:g} s, without a pause")
            if not any(busy() for busy in self._elsewhere):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"a handler has been running in a thread for {_PATIENCE:g} s")
            await asyncio.sleep(0.0005)
