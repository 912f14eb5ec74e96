"""The relay publishes the rows of the outbox on the bus, in the order of each key, and then deletes them.

A row is deleted after the bus has accepted its event. If a process dies in between, the event is published
again with the same id. It publishes one event of a key at a time, so that no failure changes the order.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final
from uuid import uuid4

import attrs

from bus_core import (
    Bus,
    InvalidTopic,
    PublishFailed,
    PublishManyError,
    SerializationError,
)
from bus_core.runtime import (
    FIRST_PAUSE,
    Sleeper,
    Trouble,
    fault_of,
    lease_clock,
    next_pause,
    plain_logger,
)
from promenade_bus_outbox.connection import OutboxConnection, OutboxDatabase
from promenade_bus_outbox.leases import Leases
from promenade_bus_outbox.rows import Row, Rows

__all__ = ["Relay", "RelayOptions"]

logger = plain_logger("promenade.outbox")

_FIRST_LOOK: Final = 0.002
"""Seconds until the next look at rows behind a running transaction, or after a wake-up."""

_LONGEST_REST: Final = 2.0
"""Seconds until the retry of a partition of which the bus does not accept an event now."""

_CLEANING: Final = 5.0
"""Seconds between two deletions of delivered rows."""

_LAST_WORDS: Final = 5.0
"""Seconds that releasing the leases may take when the relay stops."""


@attrs.frozen(kw_only=True)
class RelayOptions:
    """The settings of a relay; times are seconds."""

    batch: int
    poll: float
    lease: float
    keep: float | None
    holds_keys: bool


class Relay:
    """Delivers what is in the outbox, from ``start`` to ``stop``."""

    def __init__(self, bus: Bus, database: OutboxDatabase, options: RelayOptions) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self.delivered = 0
        self.refused = 0
        self._bus = bus
        self._database = database
        self._options = options
        self._leases = Leases(database.names, self.name, options.lease)
        self._rows = Rows(database.names, database.dialect, holds_keys=options.holds_keys)
        self._leasing = asyncio.Lock()
        self._trouble = Trouble("the relay of the outbox")
        self._lease_trouble = Trouble("the relay of the outbox")
        self._sleeper = Sleeper()
        self._woken = False
        self._resting: dict[int, tuple[float, float]] = {}  # per partition, the time and length of its pause
        self._cleaned: float | None = None
        self._moved = False
        self._accepted: list[int] = []  # positions of accepted rows that are not deleted yet
        self._refusals: dict[int, str] = {}
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._lease_sleeper = Sleeper()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def problem(self) -> str | None:
        """The current fault, if there is one."""
        return self._trouble.text or self._lease_trouble.text

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that it delivers."""
        return self._leases.owned

    async def start(self) -> None:
        """Begins to deliver. The tables must exist."""
        self._loop = asyncio.get_running_loop()
        await self._database.run(self._leases.prepare)
        self._begin("promenade-outbox-leases", self._keep_leases)
        self._begin("promenade-outbox-relay", self._deliver_all)

    def _begin(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._stopping:
            task = asyncio.get_running_loop().create_task(work(), name=name)
            task.add_done_callback(partial(self._ended, name, work))
            self._tasks[name] = task

    def _ended(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], task: asyncio.Task[None]
    ) -> None:
        """Restarts the work when a program has cancelled all tasks."""
        if task.cancelled():
            task.get_loop().call_later(FIRST_PAUSE, self._begin, name, work)

    async def stop(self) -> None:
        """Finishes the current batch, and releases the partitions.

        It does not cancel statements, because drivers lose connections by that, unless they take too long.
        """
        self._stopping = True
        self._sleeper.wake()
        self._lease_sleeper.wake()
        _, late = await asyncio.wait(self._tasks.values(), timeout=_LAST_WORDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._database.run(self._leases.leave)
        except Exception as error:  # others take over when its leases have ended
            logger.warning("the relay could not give up its leases: %s", type(error).__name__)

    def wake(self) -> None:
        """Wakes the relay. Safe from any thread, and after ``stop``."""
        loop = self._loop
        if loop is None or self._woken:
            return
        self._woken = True
        try:
            loop.call_soon_threadsafe(self._sleeper.wake)
        except RuntimeError:  # the loop is closed
            pass

    # --- leases -------------------------------------------------------------------------------------------

    async def _keep_leases(self) -> None:
        """Renews the leases until the relay stops."""
        often = self._options.lease / 3
        pause = FIRST_PAUSE
        while not self._stopping:
            error = await fault_of(self._renew())
            if error is None:
                self._lease_trouble.over()
                pause = FIRST_PAUSE
                if self._leases.is_uneven:
                    self.wake()
            else:
                self._lease_trouble.failed("renew its leases", error)
                pause = next_pause(pause)
            if not self._stopping:
                await self._lease_sleeper.sleep(often if error is None else min(pause, often))

    async def _renew(self) -> None:
        async with self._leasing:
            await self._database.run(self._leases.renew)
            self._leases.renewed()

    async def _balance(self) -> None:
        """Claims and releases partitions between two batches, when none of their events is under way."""
        async with self._leasing:
            if self._leases.is_uneven:
                self._leases.balanced(await self._database.run(self._leases.balance))

    # --- delivering ---------------------------------------------------------------------------------------

    async def _deliver_all(self) -> None:
        pause = FIRST_PAUSE
        look = _FIRST_LOOK
        while not self._stopping:
            if self._woken:
                self._woken, look = False, _FIRST_LOOK
            self._moved, self._failure = False, None
            error = await fault_of(self._deliver_some()) or self._failure
            if error is None:
                self._trouble.over()
            elif self._bus.status in ("closing", "closed"):
                return
            else:
                self._trouble.failed("deliver events", error)
            if self._moved:  # a failing partition pauses, and does not block the others
                pause, look = FIRST_PAUSE, _FIRST_LOOK
            elif error is not None:
                await self._sleep(pause)
                pause = next_pause(pause)
            else:
                await self._sleep(look)
                pause, look = FIRST_PAUSE, min(look * 2, self._options.poll)

    async def _sleep(self, seconds: float) -> None:
        if not self._woken and not self._stopping:
            await self._sleeper.sleep(seconds)

    async def _deliver_some(self) -> None:
        """Delivers one batch. ``_moved`` says if a row is finished, ``_failure`` has the error of one."""
        if self._leases.is_uneven:
            await self._balance()
        rows, options = self._rows, self._options
        await self._settle(rows)
        await self._clean(rows)
        now = lease_clock()
        partitions = [
            number for number in self._leases.owned if self._resting.get(number, (0.0, 0.0))[0] <= now
        ]
        if not partitions:
            return
        found = await self._database.run(lambda connection: rows.next(connection, partitions, options.batch))
        ready = self._ready(found)
        if ready:
            await self._take_to_the_bus(rows, ready)

    def _ready(self, found: Sequence[Row]) -> list[Row]:
        """The rows up to the first held one of each partition."""
        stopped: set[int] = set()
        ready: list[Row] = []
        for row in found:
            if row.held:
                if row.partition not in stopped:
                    stopped.add(row.partition)
                    self._rest(row.partition, self._options.poll)
            elif row.partition not in stopped:
                ready.append(row)
        self._recover({row.partition for row in found} - stopped)
        return ready

    def _rest(self, partition: int, longest: float) -> None:
        """Pauses a partition, so that it does not block the others."""
        _, before = self._resting.get(partition, (0.0, _FIRST_LOOK / 2))
        pause = min(before * 2, longest)
        self._resting[partition] = lease_clock() + pause, pause

    def _recover(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._resting.pop(partition, None)

    async def _take_to_the_bus(self, rows: Rows, ready: Sequence[Row]) -> None:
        """Publishes in waves: one event of each key at a time."""
        resting: set[int] = set()
        skipped: set[str] = set()
        try:
            for wave in _waves(ready):
                owned = self._leases.owned
                sent = [row for row in wave if row.partition in owned and row.message.key not in skipped]
                if self._stopping or not sent:
                    continue
                for row, result in zip(sent, await self._publish(sent), strict=True):
                    if result is None:
                        self._accepted.append(row.position)
                    elif _is_refusal(result):
                        self._refusals[row.position] = f"{type(result).__name__}: {result}"
                        if self._options.holds_keys:
                            skipped.add(row.message.key)
                    else:
                        self._failure = result
                        skipped.add(row.message.key)
                        resting.add(row.partition)
        finally:
            await self._settle(rows)
        for partition in resting:
            self._rest(partition, _LONGEST_REST)

    async def _publish(self, sent: Sequence[Row]) -> Sequence[Exception | None]:
        try:
            await self._bus.publish_prepared([row.message for row in sent])
        except PublishManyError as error:
            return error.results
        return [None] * len(sent)

    async def _settle(self, rows: Rows) -> None:
        """Removes rows that the bus has accepted or refused; retried before anything else is read."""
        accepted, refusals = self._accepted, self._refusals
        if not (accepted or refusals):
            return
        keep = self._options.keep is not None

        def settle(connection: OutboxConnection) -> None:
            rows.delivered(connection, accepted, keep=keep)
            rows.refused(connection, refusals)

        await self._database.run(settle)
        self._accepted, self._refusals = [], {}
        self._moved = True
        self.delivered += len(accepted)
        self.refused += len(refusals)
        if refusals:
            logger.error(
                "the bus refused %s events of the outbox for good, and they were set aside; the first: %s",
                len(refusals),
                next(iter(refusals.values())),
            )

    async def _clean(self, rows: Rows) -> None:
        age = self._options.keep
        if age is None:
            return
        if self._cleaned is not None and lease_clock() - self._cleaned < min(_CLEANING, age):
            return
        if await self._database.run(lambda connection: rows.clean(connection, age)) == 0:
            self._cleaned = lease_clock()


def _waves(rows: Sequence[Row]) -> list[list[Row]]:
    """Yields the first events of all keys, then the second ones, and so on."""
    counts: dict[str, int] = {}
    waves: list[list[Row]] = []
    for row in rows:
        number = counts.get(row.message.key, 0)
        counts[row.message.key] = number + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(row)
    return waves


def _is_refusal(error: Exception) -> bool:
    """Returns True if the message itself is at fault. A fault of the storage is nobody's refusal."""
    if isinstance(error, PublishFailed):
        return error.permanent
    return isinstance(error, InvalidTopic | SerializationError)
