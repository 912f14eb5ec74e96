"""The live instances: the heartbeat of this instance, and a watch over the heartbeats of others.

Each instance increments its own number with one command, however many entries it owns. An instance that wants
to claim entries notes the number and the time on its own clock, and claims only if the number has not changed
after a lease. No decision depends on the time of day, and entries that are being handled are not touched.

A thread with its own event loop and connection sends the heartbeats, so a handler that blocks the loop of the
bus loses nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from bus_core.runtime import FIRST_PAUSE, lease_clock, next_pause, plain_logger, thread_ended
from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.scripts import ALIVE, GOODBYE
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.names import lease_of, raw, text
from promenade_bus_redis.streams.server_clock import ServerClock

__all__ = ["NO_SESSION", "Leases"]

logger = plain_logger("promenade.bus.redis")

_SAFE: Final = 0.75
"""The part of a lease in which nobody can have claimed entries, whatever clocks and networks do."""

_UNNOTICED: Final = 0.9
"""The part of a lease within which a heartbeat must arrive; later, others may consider the instance dead."""

_REMEMBERED: Final = 3.0
"""The number of leases for which a dead instance stays on the server, so that all others learn of it."""

_MOST_ABSENT: Final = 10_000

_CLOSING: Final = 2.0
"""The time limit in seconds for deregistering from the server."""

NO_SESSION: Final = 0
"""The number for no session: others may own received entries."""


class Leases:
    """The heartbeat of this instance ``name``, and its knowledge of others. Times are seconds.

    A **session** is a period of heartbeats without a gap that would allow others to claim this instance's
    entries. Entries received in the current session are still owned.

    ``make_connections`` is called in the thread.
    """

    def __init__(
        self,
        make_connections: Callable[[], Connections],
        keys: Keys,
        name: str,
        *,
        lease: float,
        interval: float,
        clock: ServerClock,
    ) -> None:
        self.name = name
        self.lease = lease
        self.clock = clock
        self.beats = 0
        self.departures = 0  # the number of detected departures
        self.dead: Mapping[str, str] = {}  # instances, each with its last heartbeat
        self.problem: str | None = None  # for health
        self._make_connections = make_connections
        self._keys = keys
        self._interval = interval
        self._guard = threading.Lock()  # guards the state learnt from heartbeats, in any thread
        self._session: tuple[int, float] = (NO_SESSION, float("-inf"))  # its number and its certain end
        self._renewed_at = float("-inf")
        self._beat_of_own = ""
        self._left = ""
        self._watching_since = lease_clock()
        self._late: dict[str, tuple[str, float]] = {}  # heartbeats that stopped, and since when
        self._absent: dict[str, float] = {}  # instances without a heartbeat, and since when
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._beating: asyncio.Task[object] | None = None
        self._is_aborted = False

    # --- on the loop of the bus ---------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread."""
        self._stop.clear()
        self._is_aborted = False
        self._thread = threading.Thread(target=self._run, name="promenade-redis-leases", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Ends the thread, and removes the instance from the live ones."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        self._tell(self._wake)
        await thread_ended(thread, 2 * _CLOSING)

    def abort(self) -> None:
        """Ends the thread without waiting; does nothing if it has ended."""
        self._is_aborted = True
        self._stop.set()
        self._tell(self._cut)

    def _tell(self, what: Callable[[], None]) -> None:
        """Runs a function in the thread."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(what)
            except RuntimeError:
                pass  # it has ended

    # --- what this instance owns --------------------------------------------------------------------------

    @property
    def session(self) -> int:
        """The number of the current session; ``NO_SESSION`` while the next heartbeat is late."""
        number, until = self._session
        return number if lease_clock() <= until else NO_SESSION

    def is_sure(self, session: int) -> bool:
        """Returns True if nobody can have claimed entries received in this session."""
        return session != NO_SESSION and session == self.session

    async def renew(self, pipe: Pipe) -> int:
        """Sends a heartbeat at once; returns its session. Raises ``RedisFailure``."""
        since = lease_clock()
        arguments = [self.name, self._beat_of_own, self._beat_of_own, *self._forgettable()]
        self._learn(await pipe.run(ALIVE, [self._keys.heartbeats], *arguments), since, lease_clock())
        return self._session[0]

    # --- who else is alive --------------------------------------------------------------------------------

    async def judge(self, pipe: Pipe, names: Collection[str]) -> tuple[Mapping[str, str], float | None]:
        """Returns the dead ones of these instances, each with its last heartbeat, or "" without one.

        Also returns the seconds after which an instance without a heartbeat can be judged, if there is one.
        The result is as old as the call. Raises ``RedisFailure``.
        """
        asked = [name for name in names if name != self.name]
        if not asked:
            return {}, None
        since, key = lease_clock(), self._keys.heartbeats
        found = await pipe.call_many([(key, ("ZSCORE", key, raw(name))) for name in asked])
        received = lease_clock()
        dead: dict[str, str] = {}
        soonest: float | None = None
        if self.session == NO_SESSION:
            return dead, self._interval  # after a pause it has not seen the others
        with self._guard:
            for name, beat in zip(asked, found, strict=True):
                if isinstance(beat, RedisFailure):
                    raise beat
                if beat is not None:
                    self._absent.pop(name, None)
                    if self.dead.get(name) == beat.decode():
                        dead[name] = self.dead[name]
                    continue
                left = self._absent.setdefault(name, received) + lease_of(name, self.lease) - since
                if left <= 0:
                    dead[name] = ""
                elif soonest is None or left < soonest:
                    soonest = left
            while len(self._absent) > _MOST_ABSENT:
                del self._absent[next(iter(self._absent))]
        return dead, soonest

    async def alive(self, pipe: Pipe) -> frozenset[str]:
        """Returns the live instances, as far as known. Raises ``RedisFailure``.

        Before a full lease of observation it compares their heartbeats with its own.
        """
        await self.renew(pipe)
        key = self._keys.heartbeats
        found = await pipe.call("ZRANGEBYSCORE", key, "-inf", "+inf", "WITHSCORES", key=key)
        beats = {text(name): float(beat) for name, beat in zip(found[::2], found[1::2], strict=True)}
        latest = max(beats.values(), default=0.0)
        with self._guard:
            if lease_clock() - self._watching_since >= self.lease:
                gone = {name for name, beat in self.dead.items() if beats.get(name) == float(beat)}
            else:
                gone = {
                    name for name, beat in beats.items() if latest - beat > lease_of(name, self.lease) * 1000
                }
        others = (name for name in beats if not name.startswith(":") and name not in gone)
        return frozenset((*others, self.name))

    # --- what a heartbeat tells ---------------------------------------------------------------------------

    def _learn(self, reply: Sequence[Any], since: float, received: float) -> None:
        beat, seconds, microseconds, left, late = reply
        self.clock.note(int(seconds) + int(microseconds) / 1e6, since, received)
        with self._guard:
            number, _ = self._session
            if received > self._renewed_at + _UNNOTICED * self.lease:
                number += 1
                # During its own pause others may have paused, too, and it has not seen them.
                self._late, self._absent, self.dead = {}, {}, {}
                self._watching_since = received
            self._renewed_at = max(self._renewed_at, since)
            self._session = (number, self._renewed_at + _SAFE * self.lease)
            if self._left and self._left != left.decode():
                self.departures += 1
            self._left = left.decode() or "none"
            self._beat_of_own = beat.decode()
            self._watch(late, since, received)
            self.beats += 1

    def _watch(self, late: Sequence[bytes], since: float, received: float) -> None:
        current: dict[str, tuple[str, float]] = {}
        dead: dict[str, str] = {}
        for name, beat in zip(map(text, late[::2]), map(text, late[1::2]), strict=True):
            if name == self.name or name.startswith(":"):
                continue
            noted = self._late.get(name)
            if noted is None or noted[0] != beat:
                noted = (beat, received)
            current[name] = noted
            if since - noted[1] >= lease_of(name, self.lease):
                dead[name] = beat
        self._late, self.dead = current, dead

    def _forgettable(self) -> list[str | bytes]:
        """Returns instances that have been dead long enough for all to know, with their heartbeats."""
        now = lease_clock()
        return [
            word
            for name, (beat, noted) in self._late.items()
            if now - noted >= (1 + _REMEMBERED) * lease_of(name, self.lease)
            for word in (raw(name), beat)
        ]

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
                pause = next_pause(pause)

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    def _cut(self) -> None:
        """Aborts all waits, for the server or for a new connection."""
        if self._beating is not None:
            self._beating.cancel()

    async def _beat_until_stopped(self) -> None:
        self._woken = asyncio.Event()
        self._beating = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        connections = self._make_connections()
        pipe = Pipe(NodeLocator(connections))
        try:
            while not self._stop.is_set():
                began = lease_clock()
                try:
                    await self.renew(pipe)
                    self.problem = None
                except RedisFailure as failure:
                    self._failed(failure.kind)
                except Exception as error:
                    self._failed(type(error).__name__)
                try:
                    async with asyncio.timeout(self._pause(began)):
                        await self._woken.wait()
                except TimeoutError:
                    pass
            try:
                async with asyncio.timeout(_CLOSING):
                    await pipe.run(GOODBYE, [self._keys.heartbeats], self.name)
            except (RedisFailure, TimeoutError):
                pass  # its lease ends anyway
        finally:
            self._loop = None
            if self._is_aborted:
                connections.abort()
            else:
                await pipe.close()
                await connections.close()

    def _pause(self, began: float) -> float:
        """Returns the time until the next heartbeat, or until a missing one means a death."""
        now = lease_clock()
        ends = [noted + lease_of(name, self.lease) for name, (_, noted) in self._late.items()]
        following = min((end for end in ends if end > now), default=began + self._interval)
        return max(self._interval / 10, min(began + self._interval, following) - now)

    def _failed(self, kind: object) -> None:
        if self.problem is None:
            logger.error("cannot renew leases: %s; trying again", kind)
        self.problem = f"cannot renew leases: {kind}; other consumers may claim the messages of this process"
