"""Items that wait for their times on a clock, and share one timer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from bus_core.runtime.clock import Clock, TimerHandle

__all__ = ["Schedule"]

T = TypeVar("T")


class Schedule(Generic[T]):
    """Items that wait for their times, the earliest first; they share one timer of the clock.

    ``due`` is called on the event loop with the items that are due, in the order of their times. Items of the
    same time come in the order in which they were added.
    """

    def __init__(self, clock: Clock, due: Callable[[list[T]], None]) -> None:
        self._clock = clock
        self._call_due = due
        self._entries: dict[T, tuple[float, int, T]] = {}
        self._heap: list[tuple[float, int, T]] = []  # with entries that were removed meanwhile
        self._numbers = count()
        self._timer: TimerHandle | None = None
        self._goes_off = math.inf  # the time of the timer

    def __iter__(self) -> Iterator[T]:
        """The items in the order in which they were added."""
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def add(self, item: T, delay: float) -> None:
        """Adds an item that is due in so many seconds, and is not in it yet."""
        due = self._clock.monotonic() + delay
        if due < self._goes_off:
            self._start_timer(due, delay)
        self._entries[item] = entry = (due, next(self._numbers), item)
        heappush(self._heap, entry)

    def rest(self, item: T) -> float:
        """Seconds until an item is due. Raises ``KeyError``."""
        return max(0.0, self._entries[item][0] - self._clock.monotonic())

    def remove(self, item: T) -> None:
        """Removes an item before it is due. Raises ``KeyError``."""
        entries = self._entries
        del entries[item]
        if not entries:
            self._stop_timer()
        if len(self._heap) > 2 * len(entries):
            self._heap = [*entries.values()]
            heapify(self._heap)

    def clear(self) -> list[T]:
        """Removes all items, and returns them in the order in which they were added."""
        items = [*self._entries]
        self._entries.clear()
        self._heap.clear()
        self._stop_timer()
        return items

    # --- the timer ----------------------------------------------------------------------------------------

    def _start_timer(self, due: float, delay: float) -> None:
        self._stop_timer()
        self._goes_off = due
        self._timer = self._clock.call_later(delay, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._goes_off = math.inf

    def _look(self) -> None:
        """Removes the items that are due, and sets the timer for the next one."""
        now = max(self._clock.monotonic(), self._goes_off)  # timers may fire a little early
        self._timer, self._goes_off = None, math.inf
        heap, entries = self._heap, self._entries
        due: list[T] = []
        while heap:
            entry = heap[0]
            item = entry[2]
            if entries.get(item) is entry:
                if entry[0] > now:
                    self._start_timer(entry[0], max(0.0, entry[0] - self._clock.monotonic()))
                    break
                del entries[item]
                due.append(item)
            heappop(heap)
        if due:
            self._call_due(due)
