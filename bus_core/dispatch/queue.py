"""The bounded queue between ``publish`` and the workers: its entries, its room, and who waits for room."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import chain, count, groupby

from bus_core.dispatch.batches import Batch, Burst
from bus_core.dispatch.units import Entry, Job, Port, Unit
from bus_core.errors import BufferFull, BusClosed
from bus_core.events.base import Event

__all__ = ["Buffer"]


class Buffer:
    """Counts accepted events until they are settled, and holds those that no worker has begun.

    The newest of them are two open columns, ``ports`` and ``payloads``: all that ``publish`` does for a
    plain event is to append to both. Before them come batches, from the first of which workers take their
    bursts, so that nothing is popped per event. The open columns become the last batch when they are next,
    when an entry with a counter follows, or when somebody asks for numbers: then their events are counted,
    too. A batch holds either plain entries or such that have a counter.
    """

    def __init__(self, size: int, overflow_size: int) -> None:
        self.size = size
        self.overflow_size = overflow_size
        self.overflowed = 0
        self.asleep = True
        # How long the open columns may get; 0 while every worker is asleep, or a publisher waits, which
        # comes first: one comparison with their length asks for all of it.
        self.limit = 0
        self.ports: list[Port] = []
        self.payloads: list[Event | Job] = []
        self._besides = 0  # the unsettled events, less those in the open columns
        self._batches: deque[Batch] = deque()
        self._bursts: set[Burst] = set()
        self._publishers: OrderedDict[int, asyncio.Future[None]] = OrderedDict()  # by their places
        self._places = count()
        self._told = 0  # of room, and not on their way yet: nobody may be told of the same room
        self._closing = False

    # --- entries ------------------------------------------------------------------------------------------

    def has_entries(self) -> bool:
        """Whether there is an entry that no worker has begun."""
        while self._batches and self._batches[0].used_up:
            self._batches.popleft()
        return bool(self._batches or self.ports or any(burst.left for burst in self._bursts))

    def begin(self, most: int) -> Burst:
        """The next entries, at most so many; ask ``has_entries`` before. ``end`` has to follow."""
        if self._bursts:
            for other in self._bursts:  # of workers that are held up: what they have left comes first
                self._recall(other)
        if not self._batches:
            self.seal()
        burst = self._batches[0].take(most)
        self._bursts.add(burst)
        return burst

    def end(self, burst: Burst) -> None:
        """The worker is through with all that it has begun; others get the rest."""
        self._bursts.discard(burst)
        self._put_first(burst.cut())
        finished = burst.count(burst.begun)
        if finished:
            self._settled(finished)

    def single_out(self, burst: Burst) -> None:
        """Ends the burst of a worker that is held up. The entry that it is at is not counted here."""
        self._bursts.discard(burst)
        self._recall(burst)
        burst.let_go()

    def _recall(self, burst: Burst) -> None:
        """Takes back what the worker has not begun."""
        self._put_first(burst.cut())
        self._finished(burst)

    def _finished(self, burst: Burst) -> None:
        """Counts what a worker has finished before the entry that it is at."""
        finished = burst.count(burst.begun - 1)
        if finished:
            self._settled(finished)

    def seal(self) -> None:
        """Makes a batch of the open columns, and counts their events as accepted by the ports."""
        ports = self.ports
        if not ports:
            return
        self._batches.append(Batch(ports, self.payloads))
        self.ports, self.payloads = [], []
        self._count(len(ports))
        first = ports[0]
        if ports[-1] is first and ports.count(first) == len(ports):
            first.accepted += len(ports)
        else:
            for port in ports:
                port.accepted += 1

    def _put_first(self, batch: Batch | None) -> None:
        if batch is not None:
            self._batches.appendleft(batch)

    def put_first(self, entry: Entry) -> None:
        """Puts an entry with a counter in front of all others."""
        self._batches.appendleft(Batch.of([entry]))

    def append_plain(self, port: Port, event: Event) -> None:
        """Puts an event that was accepted behind all others."""
        self.ports.append(port)
        self.payloads.append(event)
        self._count(-1)

    def append(self, entry: Entry) -> None:
        """Puts an entry with a counter, of an event that was accepted, behind all others."""
        self.seal()
        last = self._batches[-1] if self._batches else None
        if last is None or last.counters is None or last.taken:  # for ever appended to, it would grow
            self._batches.append(Batch.of([entry]))
        else:
            last.append(entry)

    def append_jobs(self, port: Port, jobs: Sequence[Job]) -> None:
        """Puts jobs, of events that were accepted, behind all others."""
        self.seal()
        self._batches.append(Batch([port] * len(jobs), [*jobs], [*jobs]))

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Puts entries that ``take_all`` returned behind all others."""
        self.seal()
        self._batches += [Batch.of([*alike]) for _, alike in groupby(entries, key=_is_plain)]

    def take_all(self) -> list[Entry]:
        """Empties the queue, and returns its entries in order."""
        for burst in self._bursts:
            self._recall(burst)
        self.seal()
        entries = [entry for batch in self._batches for entry in batch]
        self._batches.clear()
        return entries

    def fall_asleep(self) -> None:
        """The next event has to wake a worker: until then nothing is accepted without asking."""
        self.asleep = True
        self.limit = 0

    def stay_awake(self) -> None:
        """Some worker is going to look at the queue."""
        self.asleep = False
        self._set_limit()

    # --- counting -----------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """How many events are accepted and not settled; counts what the workers have finished by now."""
        for burst in self._bursts:
            self._finished(burst)
        return self._besides + len(self.ports)

    def accepted(self) -> None:
        """One more event is unsettled."""
        if self.unsettled >= self.size:
            self.overflowed += 1
        self._count(1)

    def received(self, number: int) -> None:
        """So many more events are unsettled, which the adapter was asked for because there was room."""
        self._count(number)

    def delivery_settled(self, unit: Unit | None) -> None:
        """One delivery has come to its end, good or bad. Without a unit it was the event's only one."""
        if unit is not None:
            unit.remaining -= 1
            if unit.remaining:
                return
            for mark in unit.marks:
                mark.settled()
        self._settled(1)

    def _settled(self, number: int) -> None:
        self._besides -= number
        if self._publishers:
            self.pass_on()
        self._set_limit()

    def _count(self, change: int) -> None:
        self._besides += change
        self._set_limit()

    def _set_limit(self) -> None:
        self.limit = 0 if self.asleep or self._in_line else self.size - self._besides

    def waiting(self) -> tuple[Counter[Port], Counter[Port]]:
        """Counts the entries that no worker has begun by their ports: all of them, and the plain ones.

        It changes nothing, and costs little for each entry. Plain ones in the open columns count among the
        first only: they are not among what their port has ``accepted`` yet.
        """
        parts: list[Batch | Burst] = [*self._batches, *self._bursts]
        plain = Counter(chain.from_iterable(part.ports_left for part in parts if part.is_plain))
        counted = chain.from_iterable(part.ports_left for part in parts if not part.is_plain)
        return Counter(chain(counted, self.ports)) + plain, plain

    # --- room ---------------------------------------------------------------------------------------------

    def has_room(self, *, for_handler: bool, granted: bool = False) -> bool:
        """Whether an event can be accepted now: for a handler always, until the overflow is used up.

        Others come behind the publishers that wait; ``granted`` is for one of these, whose turn it is.

        A handler cannot wait for room: it may hold the very worker that would make some. Raises
        ``BufferFull`` for a handler when the overflow is used up, too.
        """
        if for_handler:
            if self.unsettled >= self.size + self.overflow_size:
                raise BufferFull("overflow for events published by handlers", self.overflow_size)
            return True
        return self.unsettled < self.size and (granted or not self._in_line)

    @property
    def _in_line(self) -> bool:
        """Whether publishers wait for room, or were told of some and have not taken it yet."""
        return bool(self._publishers or self._told)

    @property
    def waiting_publishers(self) -> int:
        """How many publishers wait for room."""
        return len(self._publishers)

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
                self._publishers.pop(place, None)
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._told -= 1
                    self.pass_on()  # the place that this caller was told of goes to the next one
                self._set_limit()
                raise
            self._told -= 1
            self._set_limit()
            if self.unsettled < self.size:
                return
            waiter = self._waiter(place)  # somebody was faster: back to where it stood

    def _waiter(self, place: int) -> asyncio.Future[None]:
        if self._closing:
            raise BusClosed("publish")
        waiter = asyncio.get_running_loop().create_future()
        publishers = self._publishers
        if publishers and next(reversed(publishers)) > place:  # it was told of room that a handler took
            self._publishers = publishers = OrderedDict(sorted([*publishers.items(), (place, waiter)]))
        publishers[place] = waiter
        self._set_limit()
        return waiter

    def pass_on(self) -> None:
        """Tells as many of the publishers that wait as there is room for, the first one first."""
        room = self.size - self.unsettled - self._told
        while self._publishers and room > 0:
            _, waiter = self._publishers.popitem(last=False)
            if not waiter.done():
                room -= 1
                self._told += 1
                waiter.set_result(None)
        self._set_limit()

    def refuse_publishers(self) -> None:
        """From now on nobody waits for room; those that do get ``BusClosed``."""
        self._closing = True
        for waiter in self._publishers.values():
            if not waiter.done():
                waiter.set_exception(BusClosed("publish"))
        self._publishers.clear()


def _is_plain(entry: Entry) -> bool:
    return entry[2] is None
