"""Renews what this instance holds, from a thread of its own: a handler that blocks the loop loses nothing.

The thread has its own event loop and its own connection. It reads what is held from dictionaries that the
loop of the bus changes, one step at a time; a copy of a dictionary is such a step.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from bus_core.runtime import FIRST_PAUSE, grown, lease_clock, plain_logger
from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.places import Places
from promenade_bus_redis.server.scripts import ALIVE, RENEW, STAY
from promenade_bus_redis.streams.feeds import Feed, Held
from promenade_bus_redis.streams.keys import Keys

__all__ = ["Leases", "Lock", "in_batches"]

logger = plain_logger("promenade.bus.redis")

_SAFE: Final = 0.75
"""The part of a lease in which nobody can have taken anything over, whatever clocks and networks do."""

_IDS_AT_ONCE: Final = 200
"""Entries that one script renews."""

_CLOSING: Final = 2.0
"""Seconds that the thread may take to say good-bye to the server."""


class Lock:
    """A key that one instance has at a time. ``token`` is empty while it is not this one.

    ``until`` is when others may take it, on the clock of this module. ``greatest_seen`` is a token that
    somebody else had.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.token = ""
        self.until = 0.0
        self.greatest_seen = 0


class Leases:
    """What is held, and the thread that renews it.

    ``make_connections`` is called in the thread. ``name`` is the consumer. Times are seconds.
    """

    def __init__(
        self,
        make_connections: Callable[[], Connections],
        keys: Keys,
        name: str,
        *,
        lease: float,
        interval: float,
    ) -> None:
        self.name = name
        self.lease = lease
        self.milliseconds = max(1, round(lease * 1000))
        self.beats = 0
        self.gaps = 0  # beats that came when a lease may have ended
        self.dead: frozenset[str] = frozenset()  # instances whose lease has ended
        self.locks: dict[Lock, None] = {}  # renewed as well
        self._make_connections = make_connections
        self._keys = keys
        self._interval = interval
        self._feeds: dict[Feed, None] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._beating: asyncio.Task[object] | None = None
        self._is_aborted = False
        self.problem: str | None = None  # for health
        self._renewed_at = lease_clock()  # everything that was held

    # --- on the loop of the bus ---------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread."""
        self._stop.clear()
        self._is_aborted = False
        self._renewed_at = lease_clock()
        self._thread = threading.Thread(target=self._run, name="promenade-redis-leases", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Ends the thread, and takes the instance out of the list of those that live."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        self._tell(self._wake)
        deadline = time.monotonic() + 2 * _CLOSING
        while thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread sets no event
            await asyncio.sleep(0.002)

    def abort(self) -> None:
        """Ends the thread without waiting for it, nor it for the server; harmless when it has ended."""
        self._is_aborted = True
        self._stop.set()
        self._tell(self._cut)

    def _tell(self, what: Callable[[], None]) -> None:
        """Has something done in the thread."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(what)
            except RuntimeError:
                pass  # it ended by itself

    def until(self, since: float) -> float:
        """Up to when nobody can take over what was delivered, or renewed, at ``since`` or later."""
        return since + self.lease * _SAFE

    def is_late(self, since: float) -> bool:
        """Whether others may have taken over what was delivered at ``since``, and was not renewed."""
        return lease_clock() > self.until(since)

    @property
    def has_gap(self) -> bool:
        """Whether others may have taken over what was held all the time since the last beat."""
        return self.is_late(self._renewed_at)

    def watch(self, feed: Feed) -> None:
        """Renews what is held of a feed from now on."""
        self._feeds[feed] = None

    def forget(self, feed: Feed) -> None:
        """Leaves what is held of a feed to others, when its lease ends."""
        self._feeds.pop(feed, None)

    # --- in the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                asyncio.run(self._beat_until_stopped())
            except (Exception, asyncio.CancelledError) as error:
                if self._stop.is_set():
                    return
                self._failed(type(error).__name__)
                self._stop.wait(pause)
                pause = grown(pause)

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    def _cut(self) -> None:
        """Nothing is waited for any more, neither the server nor a connection that is being opened."""
        if self._beating is not None:
            self._beating.cancel()

    async def _beat_until_stopped(self) -> None:
        self._woken = asyncio.Event()
        self._beating = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        connections = self._make_connections()
        pipe = Pipe(Places(connections))
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    await self._beat(pipe)
                except Exception as error:
                    self._failed(type(error).__name__)
                pause = max(self._interval / 10, self._interval - (time.monotonic() - began))
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    pass
            try:
                async with asyncio.timeout(_CLOSING):
                    await pipe.call("ZREM", self._keys.instances, self.name, key=self._keys.instances)
            except (RedisFailure, TimeoutError):
                pass  # its lease ends by itself
        finally:
            self._loop = None
            if self._is_aborted:
                connections.abort()
            else:
                await pipe.close()
                await connections.close()

    async def _beat(self, pipe: Pipe) -> None:
        since = lease_clock()
        if since > self.until(self._renewed_at):
            self.gaps += 1
        sources = [source for feed in [*self._feeds.copy()] for source in feed.sources]
        renewals = [batch for source in sources for batch in in_batches([*source.held.copy().values()])]
        alive = ALIVE.command([self._keys.instances], [self.name, self.milliseconds, 10 * self.milliseconds])
        commands: list[Routed] = [(self._keys.instances, alive)]
        commands += map(self.renewal, renewals)
        locks = [(lock, token) for lock in self.locks.copy() if (token := lock.token)]
        for lock, token in locks:
            commands.append((lock.key, STAY.command([lock.key], [token, self.milliseconds])))
        replies = await pipe.call_many(commands)
        self._learn_alive(replies[0])
        for batch, reply in zip(renewals, replies[1 : 1 + len(renewals)], strict=True):
            self.learn_renewed(batch, reply, since)
        if not any(map(_is_unknown, replies[1 : 1 + len(renewals)])):
            self._renewed_at = since
        for (lock, token), reply in zip(locks, replies[1 + len(renewals) :], strict=True):
            if reply in (0, 1) and lock.token == token:
                lock.until = self.until(since) if reply else 0.0
        self.beats += 1

    def _learn_alive(self, reply: object) -> None:
        if isinstance(reply, RedisFailure):
            self._failed(reply.kind)
        elif isinstance(reply, list):
            self.problem = None
            self.dead = frozenset(name.decode(errors="replace") for name in reply) - {self.name}

    def renewal(self, batch: Sequence[Held]) -> Routed:
        """The command that renews a batch, as far as this instance owns it."""
        source = batch[0].source
        ids = [held.entry_id for held in batch]
        return source.key, RENEW.command([source.key], [source.group, self.name, *ids])

    def learn_renewed(self, batch: Sequence[Held], reply: object, since: float) -> None:
        """Notes what the answer to it says. ``since`` is when it was sent, or earlier."""
        if not isinstance(reply, list):
            return  # without a renewal every settlement asks for the owner
        for held, renewed in zip(batch, reply, strict=True):
            held.until = self.until(since) if renewed == 1 else 0.0

    def _failed(self, kind: object) -> None:
        if self.problem is None:
            logger.error("leases cannot be renewed: %s; trying again until they can", kind)
        self.problem = f"leases cannot be renewed: {kind}; what this process holds may go to others"


def in_batches(held: Sequence[Held]) -> list[Sequence[Held]]:
    """Entries of one stream, in as many parts as it takes commands to renew them."""
    return [held[first : first + _IDS_AT_ONCE] for first in range(0, len(held), _IDS_AT_ONCE)]


def _is_unknown(reply: object) -> bool:
    """Whether it is not known what became of a renewal. Of a group that is gone nothing is owned."""
    return isinstance(reply, RedisFailure) and reply.kind is not Kind.NO_GROUP
