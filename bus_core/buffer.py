"""The bounded queue between ``publish`` and the workers: its entries, its room, and who waits for room."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import count, takewhile
from operator import length_hint

from bus_core.errors import BufferFull, BusClosed
from bus_core.jobs import Entry, Unit

__all__ = ["Buffer"]


class _Waiter(asyncio.Future[None]):
    """A publisher that waits for room. ``place`` is its place among all that ever waited."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place


class Buffer:
    """Counts accepted events until they are settled, and holds those that no worker has begun.

    It has two halves: ``queue``, which ``publish`` appends to, and a stack of batches: iterators over a
    former queue, or over what a worker that is held up has left to the others. All workers walk along the
    topmost batch, so that nothing is popped per event.
    """

    def __init__(self, size: int, overflow_size: int) -> None:
        self.size = size
        self.overflow_size = overflow_size
        self.overflowed = 0
        self.unsettled = 0
        self.asleep = True
        self.limit = 0  # the size, but 0 while every worker is asleep: one comparison asks for both
        self.queue: list[Entry] = []
        self._batches: list[Iterator[Entry]] = []
        self._publishers: deque[_Waiter] = deque()
        self._places = count()
        self._told = 0  # of room, and not on their way yet: nobody may be told of the same room
        self._closing = False

    # --- entries ------------------------------------------------------------------------------------------

    def has_entries(self) -> bool:
        """Whether there is an entry that no worker has begun."""
        while self._batches and not length_hint(self._batches[-1]):
            self._batches.pop()
        return bool(self._batches or self.queue)

    def batch(self) -> Iterator[Entry]:
        """The entries to go on with; ask ``has_entries`` before."""
        if not self._batches:
            self._batches.append(iter(self.queue))
            self.queue = []
        return self._batches[-1]

    def put_first(self, entry: Entry) -> None:
        """Puts an entry in front of all others."""
        self._batches.append(iter((entry,)))

    def take_all(self) -> list[Entry]:
        """Empties the queue, and returns its entries in order."""
        entries = [entry for batch in reversed(self._batches) for entry in batch]
        entries += self.queue
        self._batches.clear()
        self.queue = []
        return entries

    def fall_asleep(self) -> None:
        """The next event has to wake a worker: until then nothing is accepted without asking."""
        self.asleep = True
        self.limit = 0

    def stay_awake(self) -> None:
        """Some worker is going to look at the queue."""
        self.asleep = False
        self.limit = self.size

    # --- room ---------------------------------------------------------------------------------------------

    def has_room(self, *, for_handler: bool) -> bool:
        """Whether an event can be accepted now: for a handler always, until the overflow is used up.

        A handler cannot wait for room: it may hold the very worker that would make some. Raises
        ``BufferFull`` for a handler when the overflow is used up, too.
        """
        if self.unsettled < self.size:
            return True
        if for_handler and self.unsettled >= self.size + self.overflow_size:
            raise BufferFull("overflow for events published by handlers", self.overflow_size)
        return for_handler

    def accepted(self) -> None:
        """One more event is unsettled."""
        if self.unsettled >= self.size:
            self.overflowed += 1
        self.unsettled += 1

    def delivery_settled(self, unit: Unit | None) -> None:
        """One delivery has come to its end, good or bad. Without a unit it was the event's only one."""
        if unit is not None:
            unit.remaining -= 1
            if unit.remaining:
                return
            for mark in unit.marks:
                mark.settled()
        self.unsettled -= 1
        if self._publishers:
            self.pass_on()

    @property
    def publishers(self) -> deque[_Waiter]:
        """Those that wait for room, the first one first."""
        return self._publishers

    async def room(self) -> None:
        """Waits for room, in the order of the calls. Raises ``BusClosed``.

        The caller accepts an event then, or lets the next one have the place by ``pass_on``.
        """
        place = next(self._places)
        waiter = self._waiter(place)
        while True:
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._told -= 1
                    self.pass_on()  # the place that this caller was told of goes to the next one
                raise
            self._told -= 1
            if self.unsettled < self.size:
                return
            waiter = self._waiter(place)  # somebody was faster: back to where it stood

    def _waiter(self, place: int) -> asyncio.Future[None]:
        if self._closing:
            raise BusClosed("publish")
        waiter = _Waiter(place)
        publishers = self._publishers
        if not publishers or publishers[-1].place < place:
            publishers.append(waiter)
        else:  # it was told of room, and others who did not wait took it
            publishers.insert(
                sum(1 for _ in takewhile(lambda other: other.place < place, publishers)), waiter
            )
        return waiter

    def pass_on(self) -> None:
        """Tells the first publisher that waits that there is room, if there is."""
        while self._publishers and self.unsettled + self._told < self.size:
            waiter = self._publishers.popleft()
            if not waiter.done():
                self._told += 1
                waiter.set_result(None)
                return

    def refuse_publishers(self) -> None:
        """From now on nobody waits for room; those that do get ``BusClosed``."""
        self._closing = True
        for waiter in self._publishers:
            if not waiter.done():
                waiter.set_exception(BusClosed("publish"))
        self._publishers.clear()
