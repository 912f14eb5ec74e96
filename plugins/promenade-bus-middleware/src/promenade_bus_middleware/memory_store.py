"""The store ``memory``: claims, marks and token buckets of this process, bounded in number.

Nothing outlives the process, and instances do not share it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal

from bus_core import Clock
from promenade_bus_middleware.config import MemoryStoreOptions

__all__ = ["MemoryStore"]


class MemoryStore:
    """Implements ``bus_core.Store`` and ``bus_core.abc.BoundedStore``."""

    def __init__(self, options: MemoryStoreOptions, clock: Clock) -> None:
        self._most = options.max_keys
        self._now = clock.monotonic
        self._claims: dict[str, tuple[str, float]] = {}  # as many as attempts are running
        self._marks: OrderedDict[str, float] = OrderedDict()  # when they end; the oldest first
        # When the bucket is full again, and the last time that a caller has a place at.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.forgotten = 0

    async def start(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def claim(self, key: str, owner: str, seconds: float) -> Literal["mine", "taken", "marked"]:
        """See ``bus_core.Store``."""
        now = self._now()
        if self._marks.get(key, now) > now:
            return "marked"
        holder, until = self._claims.get(key, (owner, now))
        if holder != owner and until > now:
            return "taken"
        self._claims[key] = owner, now + seconds
        return "mine"

    async def mark(self, key: str, seconds: float) -> None:
        """See ``bus_core.Store``."""
        now = self._now()
        self._claims.pop(key, None)
        self._marks[key] = now + seconds
        self._marks.move_to_end(key)
        while len(self._marks) > self._most:
            _, until = self._marks.popitem(last=False)
            self.forgotten += until > now

    async def release(self, key: str, owner: str) -> None:
        """See ``bus_core.Store``."""
        if self._claims.get(key, ("", 0.0))[0] == owner:
            del self._claims[key]

    async def take(self, key: str, rate: float, burst: int) -> float:
        """See ``bus_core.Store``."""
        return await self.take_within(key, rate, burst, math.inf)

    async def take_within(self, key: str, rate: float, burst: int, longest: float) -> float:
        """See ``bus_core.abc.BoundedStore``."""
        now, interval = self._now(), 1 / rate
        full_at, promised = self._buckets.get(key, (now, now))
        # An earlier call may have had a lower rate, a larger burst or a longer wait.
        full_at = min(max(full_at, now), now + burst * interval)
        promised = min(promised, now + longest)
        ready, wait = full_at - (burst - 1) * interval, 0.0
        if ready <= now:
            full_at += interval
        else:
            turn = max(promised + interval, ready)
            wait = turn - now
            if wait <= longest:
                promised = turn
        self._buckets[key] = full_at, promised
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._most:
            _, (full_at, _) = self._buckets.popitem(last=False)
            self.forgotten += full_at > now
        return wait
