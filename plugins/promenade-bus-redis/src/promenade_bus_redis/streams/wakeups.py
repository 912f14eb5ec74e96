"""One blocking read for many streams, so that connections and idle commands do not grow with subscriptions.

A waiting consumer passes its read position in each stream. The read begins there, so that no event is missed.
It returns one entry of each stream that has more and discards it, because it only signals that there is more.

On a cluster one command cannot wait for streams of several slots. There, waiting consumers are woken at
intervals and read themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from bus_core.runtime import Trouble, fault_of, plain_logger
from promenade_bus_redis.server.blocking_link import BlockingLink
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe

__all__ = ["Wakeups", "Watch"]

logger = plain_logger("promenade.bus.redis")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_POLL: Final = 0.05
"""Seconds between two wake-ups on a cluster."""

_BACK: Final = 0.002
"""Seconds that the next read waits for consumers woken by the last one; most return earlier."""

_FEW: Final = 256
_PER_STREAM: Final = 10e-6
"""The extra pause in seconds for each stream beyond a few, so that large reads are not started too often."""


class Watch:
    """The streams that one consumer waits for. ``woken`` has those that may have more."""

    def __init__(self, wakeups: Wakeups) -> None:
        self.woken: set[str] = set()
        self._wakeups = wakeups
        self._armed: dict[str, bytes] = {}
        self._waiting: asyncio.Future[None] | None = None

    def arm(self, places: Mapping[str, bytes]) -> None:
        """Watches streams from these entries on."""
        self._armed.update(places)
        self._wakeups.arm(self, places)

    async def wait(self, seconds: float) -> None:
        """Returns when a stream may have more, after ``wake``, or after some time."""
        if self.woken:
            return
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def wake(self, key: str | None = None) -> None:
        """Ends a wait."""
        if key is not None:
            self._armed.pop(key, None)
            self.woken.add(key)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def place(self, key: str) -> bytes | None:
        """Returns the entry from which a stream is watched, if it is."""
        return self._armed.get(key)

    def close(self) -> None:
        """Stops watching."""
        self._wakeups.disarm(self, self._armed)
        self._armed = {}
        self.wake()


class Wakeups:
    """Wakes consumers when their streams have more entries, over one connection."""

    def __init__(self, locator: NodeLocator, pipe: Pipe, block: float, trouble: Trouble) -> None:
        self._locator = locator
        self._pipe = pipe
        self._block = block
        self._trouble = trouble
        self._link: BlockingLink | None = None
        self._watches: dict[str, dict[Watch, None]] = {}
        self._begin: dict[str, bytes] = {}  # the start of the read
        self._away: set[Watch] = set()  # woken consumers that are reading
        self._all_back: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def watch(self) -> Watch:
        """Returns the watch of one consumer."""
        return Watch(self)

    # --- what watches call --------------------------------------------------------------------------------

    def arm(self, watch: Watch, places: Mapping[str, bytes]) -> None:
        """Watches streams from these entries on."""
        self._is_back(watch)
        for key, place in places.items():
            self._watches.setdefault(key, {})[watch] = None
            known = self._begin.get(key)
            if known is None or _order(place) < _order(known):
                self._begin[key] = place
        if self._closed or not places:
            return
        if self._task is None:
            self._start()
        elif self._timer is None:
            # Consumers that begin to wait at about the same time share a read.
            self._timer = asyncio.get_running_loop().call_later(self._pace, self._interrupt)

    def disarm(self, watch: Watch, places: Mapping[str, bytes]) -> None:
        """Stops watching these streams for a consumer."""
        self._is_back(watch)
        for key in places:
            watches = self._watches.get(key)
            if watches is None:
                continue
            watches.pop(watch, None)
            if watches:
                left = [place for each in watches if (place := each.place(key)) is not None]
                self._begin[key] = min(left, key=_order)
            else:
                del self._watches[key], self._begin[key]

    @property
    def _pace(self) -> float:
        return len(self._begin) * _PER_STREAM if len(self._begin) > _FEW else 0.0

    def _interrupt(self) -> None:
        self._timer = None
        if self._link is not None:
            self._link.interrupt()

    # --- its task -----------------------------------------------------------------------------------------

    @property
    def _is_wanted(self) -> bool:
        return bool(self._begin or self._away) and not self._closed

    def _start(self) -> None:
        if self._task is None and self._is_wanted:
            self._task = asyncio.get_running_loop().create_task(
                self._read_all(), name="promenade-redis-wakeups"
            )
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Restarts after a program has cancelled every task."""
        self._task = None
        if self._is_wanted:
            # Not at once: when the loop is being closed, no task may be left.
            task.get_loop().call_later(_FIRST_PAUSE, self._start)

    async def _read_all(self) -> None:
        pause = _FIRST_PAUSE
        while self._is_wanted:
            if self._locator.is_cluster:
                await asyncio.sleep(_POLL)
                self._wake_all()
                continue
            fault = await fault_of(self._read())
            if fault is None:
                self._trouble.over()
                pause = _FIRST_PAUSE
                continue
            if isinstance(fault, RedisFailure):
                logger.debug("the shared blocking read failed: %s", fault.kind)
            else:
                self._trouble.failed("wait", fault)
            # Each consumer detects the problem itself and reports it.
            self._wake_all()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _is_back(self, watch: Watch) -> None:
        self._away.discard(watch)
        if not self._away and self._all_back is not None and not self._all_back.done():
            self._all_back.set_result(None)

    async def _wait_for_the_woken(self) -> None:
        """Waits for woken consumers, because a read without them would have to be ended for them."""
        if self._away:
            self._all_back = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._all_back,), timeout=_BACK)
            self._all_back = None
            self._away.clear()

    async def _read(self) -> None:
        await self._wait_for_the_woken()
        if self._pace:
            await asyncio.sleep(self._pace)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._begin:
            return
        if self._link is None:
            self._link = BlockingLink(self._locator, self._pipe, self._block, "")
        command: list[Any] = ["XREAD", "COUNT", 1, "BLOCK", self._link.milliseconds, "STREAMS"]
        reply = await self._link.call([*command, *self._begin, *self._begin.values()])
        for key, _entries in reply or ():
            self._wake(key.decode())

    def _wake(self, key: str) -> None:
        self._begin.pop(key, None)
        for watch in self._watches.pop(key, {}):
            self._away.add(watch)
            watch.wake(key)

    def _wake_all(self) -> None:
        for key in [*self._watches]:
            self._wake(key)

    async def close(self) -> None:
        """Ends all waits."""
        self._closed = True
        self._wake_all()
        if self._timer is not None:
            self._timer.cancel()
        self._interrupt()
        if self._task is not None:
            await asyncio.wait((self._task,))
        if self._link is not None:
            await self._link.close()


def _order(entry_id: bytes) -> tuple[int, int]:
    first, _, second = entry_id.partition(b"-")
    return int(first), int(second or 0)
