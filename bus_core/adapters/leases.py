"""Finds dead owners of messages by counted heartbeats, without a time of day.

Each process increments a number for every owner that it has, and reads the numbers of all. Before a process
claims messages, it notes the number of their owner and the time on its own clock. It claims them only if the
number is still the same after the lease of the owner, which is part of the owner's name. A thread does this,
so a handler that blocks the event loop of the bus for longer than a lease loses nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from uuid import uuid4

from bus_core.errors import AdapterError
from bus_core.runtime.clock import lease_clock
from bus_core.runtime.failures import FIRST_PAUSE, Trouble, next_pause
from bus_core.runtime.threads import thread_ended

__all__ = ["NO_SESSION", "Beat", "Heartbeats", "lease_of", "name_owner"]

Beat = Callable[[Sequence[str], Sequence[str]], Iterable[tuple[str, int]]]
"""Increments the numbers of some owners, deletes those of others, and returns all numbers.

It is called in the thread of a ``Heartbeats``, never twice at once, and must end by itself in bounded time.
"""

_BEATS = 6
"""The number of heartbeats within a lease."""

_LOOKS = 5
"""The number of looks within the time of a heartbeat, of one that waits for the heartbeats of others."""

_SAFE = 0.75
"""The part of a lease in which nobody can have claimed anything, whatever clocks and disks do."""

_UNNOTICED = 0.9
"""The part of a lease within which a heartbeat must be stored; later, others may have claimed the messages.
"""

_REMEMBERED = 3.0
"""The number of leases for which a dead owner's number is kept, so that every process learns of its death."""

_CLOSING = 4.0
"""Seconds that the thread may take to delete the numbers of its owners."""

NO_SESSION = 0
"""In place of the number of a session: others may own the received messages."""


def name_owner(lease: float) -> str:
    """A unique name of an owner, which contains the seconds of its lease."""
    return f"{uuid4().hex}.{lease!r}"


def lease_of(owner: str, otherwise: float) -> float:
    """The lease of an owner in seconds; ``otherwise`` if its name has none."""
    try:
        return float(owner.partition(".")[2])
    except ValueError:
        return otherwise


class Heartbeats:
    """The heartbeats of this process's owners, and what it knows of the others. Times are seconds.

    A **session** is a time in which heartbeats were stored without a gap that lets others claim messages of
    this process. It still owns all messages received in the current session.
    """

    def __init__(self, beat: Beat, *, name: str, lease: float) -> None:
        self.trouble = Trouble(f"the leases of {name!r}")
        self.beats = 0
        self._beat = beat
        self._name = name
        self._lease = lease
        self._guard = threading.Lock()
        self._owners: dict[str, None] = {}
        self._leaving: list[str] = []
        self._seen_elsewhere: frozenset[str] = frozenset()
        self._noted: dict[str, tuple[int | None, float]] = {}  # an owner's number, and since when
        self._changed: frozenset[str] = frozenset()  # owners that have sent a heartbeat since they were noted
        self._dead: Mapping[str, int | None] = {}
        # The number of the session, and the time until which it is certain.
        self._session: tuple[int, float] = (NO_SESSION, float("-inf"))
        self._renewed_at = float("-inf")
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._stopping = False
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    # --- on the event loop --------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name=f"promenade-{self._name}-leases", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Deletes the numbers of its owners, and ends the thread; no-op when it was not started."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        self._woken.set()
        await thread_ended(thread, _CLOSING)

    def add(self, owner: str) -> None:
        """Increments the number of this owner from now on."""
        with self._guard:
            self._owners[owner] = None

    def remove(self, owner: str) -> None:
        """Stops incrementing the number of this owner; its messages can be claimed after its lease."""
        with self._guard:
            if self._owners.pop(owner, "") is None:
                self._leaving.append(owner)

    def look_after(self, owners: Iterable[str]) -> None:
        """Names all known owners of something, because some may have no number."""
        self._seen_elsewhere = frozenset(owners)

    @property
    def session(self) -> int:
        """The number of the current session; ``NO_SESSION`` while the next heartbeat is late."""
        number, until = self._session
        return number if lease_clock() <= until else NO_SESSION

    def is_sure(self, session: int) -> bool:
        """True when no other process can have claimed the messages received in this session."""
        return session != NO_SESSION and session == self.session

    @property
    def dead(self) -> Mapping[str, int | None]:
        """The dead owners, each with its last number; None for those without a number.

        It is empty while the own heartbeat is late: a process that was paused has not seen the others.
        """
        return self._dead if self.session != NO_SESSION else {}

    async def renewed(self) -> None:
        """Sends a heartbeat at once, and returns when it is stored.

        Raises ``AdapterError``.
        """
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        with self._guard:
            self._waiting.append((loop, stored))
        self._woken.set()
        await stored

    async def judged(self, owners: Collection[str]) -> None:
        """Returns when each of these owners has sent a heartbeat meanwhile, or is dead.

        A process that has just begun takes every owner for alive. It knows better after a sixth of a lease
        for those that live, and after a lease for the others. Raises ``AdapterError``.
        """
        await self.renewed()
        while self._is_undecided(owners):
            await asyncio.sleep(self._lease / _BEATS / _LOOKS)
            await self.renewed()

    def _is_undecided(self, owners: Collection[str]) -> bool:
        noted, decided = self._noted, {*self._owners, *self._changed, *self._dead}
        return any(owner in noted and owner not in decided for owner in owners)

    # --- in the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping:
            self._woken.clear()
            began = lease_clock()
            if self._beat_once():
                pause = FIRST_PAUSE
                rest = self._rest(began)
            else:
                rest, pause = min(pause, self._lease / _BEATS), next_pause(pause)
            self._woken.wait(rest)
        with self._guard:
            leaving = [*self._leaving, *self._owners]
        try:
            self._beat((), leaving)
        except Exception:
            pass  # their messages can be claimed all the same, a lease later
        self._tell(AdapterError(f"the adapter {self._name!r} was closed"))

    def _beat_once(self) -> bool:
        with self._guard:
            owners, leaving = [*self._owners], [*self._leaving]
        gone = [*leaving, *self._forgettable()]
        sent = lease_clock()
        try:
            found = {str(owner): int(number) for owner, number in self._beat(owners, gone)}
        except Exception as error:
            self.trouble.failed("be renewed", error)
            failure = AdapterError(f"the leases of {self._name!r} cannot be renewed: {type(error).__name__}")
            failure.__cause__ = error
            self._tell(failure)
            return False
        self._learn(found, sent, lease_clock())
        with self._guard:
            self._leaving = self._leaving[len(leaving) :]
        self.trouble.over()
        self._tell(None)
        return True

    def _tell(self, failure: AdapterError | None) -> None:
        with self._guard:
            waiting, self._waiting = self._waiting, []
        for loop, stored in waiting:
            try:
                loop.call_soon_threadsafe(_resolve, stored, failure)
            except RuntimeError:
                pass  # the loop was closed, and with it its waiting callers

    def _learn(self, found: Mapping[str, int], sent: float, received: float) -> None:
        number, _ = self._session
        if received > self._renewed_at + _UNNOTICED * self._lease:
            number += 1
            self._noted = {}  # this process was paused, so the others may have been, too
        self._renewed_at = sent
        numbers: dict[str, int | None] = {**dict.fromkeys(self._seen_elsewhere), **found}
        noted: dict[str, tuple[int | None, float]] = {}
        dead: dict[str, int | None] = {}
        changed: set[str] = set()
        for owner, beats in numbers.items():
            if owner in self._owners:
                continue
            before = self._noted.get(owner)
            if before is not None and (owner in self._changed or before[0] != beats):
                changed.add(owner)
            noted[owner] = known = before if before is not None and before[0] == beats else (beats, received)
            if sent - known[1] >= lease_of(owner, self._lease):
                dead[owner] = beats
        self._noted, self._dead, self._changed = noted, dead, frozenset(changed)
        self._session = (number, sent + _SAFE * self._lease)
        self.beats += 1

    def _forgettable(self) -> Collection[str]:
        """Owners that have been dead for so long that every process knows."""
        now = lease_clock()
        return [
            owner
            for owner, (beats, since) in self._noted.items()
            if beats is not None and now - since >= (1 + _REMEMBERED) * lease_of(owner, self._lease)
        ]

    def _rest(self, began: float) -> float:
        """Seconds to the next heartbeat, or to the time when an unchanged number proves a death."""
        now, regular = lease_clock(), began + self._lease / _BEATS
        ends = [since + lease_of(owner, self._lease) for owner, (_, since) in self._noted.items()]
        following = min((end for end in ends if end > now), default=regular)
        return max(self._lease / _BEATS / 10, min(regular, following) - now)


def _resolve(stored: asyncio.Future[None], failure: AdapterError | None) -> None:
    if stored.done():
        return
    if failure is None:
        stored.set_result(None)
    else:
        stored.set_exception(failure)
