"""Prefetch: the budget that all pumps of a bus share, and the quota of each one."""

from __future__ import annotations

import time
from collections.abc import Callable

from bus_core.dispatch.lane import Lane
from bus_core.dispatch.queue import Buffer

__all__ = ["LARGEST_BATCH", "PrefetchBudget", "PrefetchQuota"]

_FIRST_BATCH = 16
LARGEST_BATCH = 512
_QUICK, _SLOW = 0.05, 0.25
"""The time in seconds in which a batch should be settled: if faster, the next one is larger; if slower,
smaller.
"""


class PrefetchBudget:
    """The room in the buffer, and the pumps that wait for some. ``arrived`` counts all messages so far."""

    def __init__(self, buffer: Buffer, workers: int) -> None:
        self.arrived = 0
        self.workers = workers
        self.quotas = 0
        self.reserved = 0  # for messages that probably are on their way
        self._buffer = buffer
        self._waiting: dict[PrefetchQuota, None] = {}  # the longest wait first

    @property
    def size(self) -> int:
        """The number of messages that fit into the empty buffer."""
        return self._buffer.size

    @property
    def room(self) -> int:
        """The number of messages for which there is room now."""
        return self._buffer.size - self._buffer.unsettled - self.reserved

    def wait(self, quota: PrefetchQuota) -> None:
        """Wakes the next waiting quota when there may be more room."""
        self._waiting[quota] = None

    def changed(self) -> None:
        """Wakes all waiting quotas, in the order of their waits."""
        waiting, self._waiting = self._waiting, {}
        for quota in waiting:
            quota.wake()


class PrefetchQuota:
    """The number of messages that one pump may request. ``wake`` is called when it may have grown."""

    def __init__(self, budget: PrefetchBudget, lane: Lane, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._budget = budget
        self._lane = lane
        self._least = max(_FIRST_BATCH, budget.workers)
        self._most = self._least
        self._reserved = 0
        self._more = False  # True when the last request may have left more behind
        self._filled_at: float | None = None  # the time at which they came, in that case
        self._hurry = False
        budget.quotas += 1

    def leave(self) -> None:
        """Requests nothing any more."""
        self._budget.quotas -= 1

    @property
    def most_waiting(self) -> int:
        """The most messages that may wait here for a retry or behind their key."""
        return max(self._least, self._budget.size // (2 * max(1, self._budget.quotas)))

    def limit(self, unsettled: int, undecided: int, failed: int) -> tuple[int, float | None]:
        """The number of messages to request now. If 0, the seconds until the next check, or None to wait for
        ``wake``.

        ``unsettled`` is the number of messages that the pump has. ``undecided`` ones have no outcome yet, and
        ``failed`` ones have an outcome that could not be carried out.
        """
        waiting = min(self._lane.waiting + self._lane.behind, self.most_waiting)
        at_work = unsettled - waiting
        own = self._most - (at_work - failed)  # failed settlements block others only when room runs out
        if own <= 0:
            return 0, None
        room = self._budget.room
        if at_work <= 0:
            # At least one: the handler may wait for the messages of others.
            room = max(room, 1)
        if room <= 0:
            self._budget.wait(self)
            return 0, None
        if own * 2 < self._most and not self._hurry:
            # Batches are cheap, single messages are not, so wait while others are handled. But no worker may
            # be idle because others are blocked.
            idle = undecided - waiting < self._budget.workers and own * 8 >= self._most
            if not idle:
                self._hurry = True
                return 0, _QUICK
        self._hurry = False
        self._adapt()
        return min(own, room, self._most if self._more else self._at_first), None

    @property
    def _at_first(self) -> int:
        """The number to request where no room is reserved: all subscriptions may get that many at once."""
        return max(1, min(self._least, self._budget.size // max(1, self._budget.quotas)))

    def _adapt(self) -> None:
        """Requests more at once where handlers are fast, and less where other instances could handle it
        meanwhile.
        """
        if self._filled_at is None:
            return
        seconds = time.monotonic() - self._filled_at
        self._filled_at = None
        if seconds < _QUICK:
            self._most = max(self._least, min(self._most * 2, LARGEST_BATCH))
        elif seconds > _SLOW:
            self._most = max(self._most // 2, self._least)

    def taking(self, limit: int) -> None:
        """Notes a request. It reserves room if messages probably are there."""
        self._reserved = limit if self._more else 0
        self._budget.reserved += self._reserved

    def took(self, limit: int, count: int) -> None:
        """Notes the number of messages that came."""
        self._budget.reserved -= self._reserved
        self._reserved = 0
        self._budget.arrived += count
        self._more = count >= limit
        self._filled_at = time.monotonic() if self._more else None
        if not self._more:
            self._budget.changed()
