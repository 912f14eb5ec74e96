"""The bounded queue between ``publish`` and the workers: entries, room, and waiting publishers."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, groupby
from operator import length_hint

from bus_core.dispatch.batches import Batch
from bus_core.dispatch.jobs import DrainMark, Entry, Job, Payload, PendingEvent, Port
from bus_core.errors import BufferFull, BusClosed

__all__ = ["Buffer"]

_LONGEST_BATCH = 1024
"""The most entries of a batch, because handled entries stay in memory until their batch ends."""


class Buffer:
    """The queue: holds the events that no worker has begun, and counts accepted events until they are
    settled.

    The newest events are in two open columns, ``ports`` and ``payloads``: ``publish`` only appends to both.
    Older ones are in batches. A worker takes a walk along the first batch, several entries at once, so that
    no event is popped or counted by itself. The open columns become the last batch when they are next, or
    when an entry with a counter follows. Their events are counted then. A batch has plain entries, or entries
    with a counter, never both.

    One walk is open at a time. It ends when the worker has handled all of it (``end``), or when a handler
    blocks the worker (``halt``), which keeps its current entry. An entry that fails, or has to wait, is
    ``set_apart``, and the walk goes on.
    """

    def __init__(self, size: int, overflow_size: int) -> None:
        self.size = size
        self.overflow_size = overflow_size
        self.overflowed = 0
        self.asleep = True
        # The longest that the open columns may get. It is 0 while every worker is asleep or a publisher
        # waits, so that one comparison with their length answers all three questions.
        self.limit = 0
        self.ports: list[Port] = []
        self.payloads: list[Payload] = []
        self._sealed_unsettled = 0  # the unsettled events without those in the open columns
        self._batches: deque[Batch] = deque()  # no batch in here is used up
        self._spare: Batch | None = None  # an empty batch for entries with counters
        # The open walk: its batch, its columns, and the position of the worker.
        self._walked: Batch | None = None
        self._walk_ports: list[Port] = []
        self._walk_payloads: list[Payload] = []
        self._walk_counters: list[PendingEvent | Job | None] = []
        self._walk_at: Iterator[Port] = iter(())
        self._walk_counted = 0
        self.is_plain = True  # True when its entries have no counters
        self.marks: tuple[DrainMark, ...] = ()  # the drains that wait for its plain entries
        self._publishers: OrderedDict[int, asyncio.Future[None]] = OrderedDict()  # by their places
        self._places = count()
        self._promised = 0  # publishers with a promised place that they have not used yet
        self._closing = False

    # --- entries ------------------------------------------------------------------------------------------

    def has_entries(self) -> bool:
        """True when there is an entry that no worker has begun."""
        return bool(self._batches or self.ports or length_hint(self._walk_at))

    def has_others(self) -> bool:
        """True when there are more entries than the current one of the walk that was just opened."""
        walk = self._walk_ports
        return bool(self._batches or self.ports or len(walk) > 1 or (walk and len(walk[0].ports) > 1))

    @property
    def has_one_event(self) -> bool:
        """True when the queue has exactly one event, in the open columns."""
        return len(self.ports) == 1 and not self._batches

    @property
    def waiting_entries(self) -> int:
        """The number of entries that no worker has begun."""
        left = sum(len(batch.ports) - batch.begun for batch in self._batches)
        return left + len(self.ports) + length_hint(self._walk_at)

    # --- the walk of a worker -----------------------------------------------------------------------------

    def begin(
        self, most_plain: int, most_counted: int
    ) -> Iterator[tuple[Port, Payload]] | Iterator[Entry] | None:
        """Opens a walk along the next entries, with at most the given number for their kind; None if there
        are none.

        ``is_plain`` tells the kind: True when they have no counters.
        """
        batch = self._next_batch()
        if batch is None:
            return None
        counters = batch.counters
        most = most_plain if counters is None else most_counted
        start = batch.begun
        self._walk_ports = ports = batch.ports[start : start + most]
        self._walk_payloads = payloads = batch.payloads[start : start + most]
        batch.begun = begun = start + len(ports)
        if begun == len(batch.ports):
            self._batches.popleft()
        self._walked = batch
        self.marks = batch.marks
        self._walk_at = at = iter(ports)
        self._walk_counted = 0
        if counters is None:
            self.is_plain = True
            return zip(at, payloads, strict=False)
        self.is_plain = False
        self._walk_counters = counted = counters[start:begun]
        return zip(at, payloads, counted, strict=False)

    def take_one(self) -> Entry | None:
        """Takes the next entry without a walk; the caller settles it.

        None where it is for several handlers.
        """
        batches = self._batches
        if not batches:
            ports = self.ports
            if len(ports) == 1 and ports[0].is_single:
                port = ports.pop()
                port.accepted += 1
                self._count(1)
                self.is_plain = True
                return port, self.payloads.pop(), None
            if not ports:
                return None
            self.seal()
        batch = batches[0]
        at = batch.begun
        port = batch.ports[at]
        if not port.is_single:
            return None
        payload, counters = batch.payloads[at], batch.counters
        counter: PendingEvent | Job | None = None
        if counters is not None:
            counter = counters[at]
        elif batch.marks:
            counter = port.take_apart(None, 1, batch.marks)
        self.is_plain = counters is None
        batch.begun = begun = at + 1
        if begun == len(batch.ports):
            batches.popleft()
            if counters is not None:
                batch.clear()
                self._spare = batch
        return port, payload, counter

    def _next_batch(self) -> Batch | None:
        """The batch that has the next entry; None when there is none."""
        if not self._batches:
            if not self.ports:
                return None
            self.seal()
        return self._batches[0]

    @property
    def begun(self) -> int:
        """The number of entries of the open walk that the worker has begun."""
        return len(self._walk_ports) - length_hint(self._walk_at)

    @property
    def current(self) -> Entry:
        """The current entry of the open walk."""
        batch, left = self._walked, length_hint(self._walk_at)
        assert batch is not None, "a walk is open"
        at = len(self._walk_ports) - left - 1
        counters = batch.counters
        counter = None if counters is None else counters[batch.begun - left - 1]
        return self._walk_ports[at], self._walk_payloads[at], counter

    def halt(self) -> Entry:
        """Ends the walk. Its worker keeps the current entry, other workers get the rest."""
        entry = self.current
        self._close(unfinished=1)
        return entry

    def set_apart(self) -> Entry:
        """Removes the current entry from the walk, which goes on; the caller settles the entry."""
        batch, left = self._walked, length_hint(self._walk_at)
        assert batch is not None, "a walk is open"
        at = len(self._walk_ports) - left - 1
        port, payload = self._walk_ports[at], self._walk_payloads[at]
        if batch.counters is not None:
            return port, payload, batch.counters[batch.begun - left - 1]
        if at > self._walk_counted:
            self._finished(batch, at)
        self._walk_counted = at + 1
        return port, payload, port.take_apart(None, 1, batch.marks) if batch.marks else None

    def end(self) -> None:
        """Ends the walk after all entries that the worker has begun; other workers get the rest."""
        self._close(unfinished=0)

    def _close(self, *, unfinished: int) -> None:
        batch, left = self._walked, length_hint(self._walk_at)
        assert batch is not None, "a walk is open"
        finished = len(self._walk_ports) - left - unfinished
        if left:
            if batch.begun == len(batch.ports):
                self._batches.appendleft(batch)
            batch.begun -= left
        if finished:
            self._finished(batch, finished)
        self._walked = None
        # The worker iterates over these columns, so this ends its loop. A blocked handler keeps only its own
        # event alive.
        self._walk_ports.clear()
        self._walk_payloads.clear()
        self._walk_counters.clear()
        self._walk_at = _NOWHERE

    def _finished(self, batch: Batch, finished: int) -> None:
        """Counts the finished plain entries of a walk; other entries count themselves."""
        if batch.counters is not None:
            return
        uncounted = finished - self._walk_counted
        if uncounted > 0:
            self._walk_counted = finished
            for mark in batch.marks:
                mark.settled(uncounted)
            self.settled(uncounted)

    # --- what stands in the queue -------------------------------------------------------------------------

    def seal(self) -> None:
        """Makes a batch of the open columns, and counts their events in ``Port.accepted``."""
        ports, payloads = self.ports, self.payloads
        if not ports:
            return
        self.ports, self.payloads = [], []
        number = len(ports)
        self._count(number)
        if number <= _LONGEST_BATCH:
            self._batches.append(Batch(ports, payloads))
        else:
            for start in range(0, number, _LONGEST_BATCH):
                some = slice(start, start + _LONGEST_BATCH)
                self._batches.append(Batch(ports[some], payloads[some]))
        first = ports[0]
        if ports[-1] is first and ports.count(first) == number:
            first.accepted += number
        else:
            for port in ports:
                port.accepted += 1

    def put_first(self, entry: Entry) -> None:
        """Puts an entry with a counter before all others."""
        self._batches.appendleft(Batch.of([entry]))

    def append_plain(self, port: Port, payload: Payload) -> None:
        """Puts an accepted event behind all others."""
        self.ports.append(port)
        self.payloads.append(payload)
        self._count(-1)

    def append(self, entry: Entry) -> None:
        """Puts an entry with a counter, of an accepted event, behind all others."""
        if self.ports:
            self.seal()
        last = self._batches[-1] if self._batches else None
        if last is None or last.counters is None or last.begun or last is self._walked:
            # a batch that is always appended to would grow without bound
            last, self._spare = self._spare or Batch([], [], []), None
            self._batches.append(last)
        last.append(entry)

    def append_jobs(self, port: Port, jobs: Sequence[Job]) -> None:
        """Puts jobs of accepted events behind all others."""
        self.seal()
        for start in range(0, len(jobs), _LONGEST_BATCH):
            some = jobs[start : start + _LONGEST_BATCH]
            self._batches.append(Batch([port] * len(some), [*some], [*some]))

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Puts entries from ``take_all`` behind all others."""
        self.seal()
        self._batches += [Batch.of([*alike]) for _, alike in groupby(entries, key=_is_plain)]

    def take_all(self) -> list[Entry]:
        """Empties the queue, and returns its entries in order. No walk may be open."""
        self.seal()
        entries = [entry for batch in self._batches for entry in batch.rest()]
        self._batches.clear()
        return entries

    def mark(self, mark: DrainMark) -> None:
        """Makes a drain wait for every entry of the queue. No walk may be open."""
        self.seal()
        for batch in self._batches:
            batch.mark(mark)

    def fall_asleep(self) -> None:
        """Marks all workers as asleep: the next event has to wake one."""
        self.asleep = True
        self.limit = 0

    def stay_awake(self) -> None:
        """Marks a worker as awake: it will look at the queue."""
        self.asleep = False
        self._set_limit()

    # --- counting -----------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """The number of accepted, unsettled events. Counts the finished ones of the open walk first."""
        if self._walked is not None:
            self._finished(self._walked, self.begun - 1)
        return self._sealed_unsettled + len(self.ports)

    def accepted(self) -> None:
        """Counts one more unsettled event."""
        if self.unsettled >= self.size:
            self.overflowed += 1
        self._count(1)

    def received(self, number: int) -> None:
        """Counts unsettled events that were requested from the adapter within the room."""
        self._count(number)

    def delivery_settled(self, pending: PendingEvent | None, number: int = 1) -> None:
        """Counts finished deliveries of one event. An event without a counter has only one."""
        if pending is not None:
            pending.remaining -= number
            if pending.remaining:
                return
            for mark in pending.marks:
                mark.settled()
        self.settled(1)

    def settled(self, number: int) -> None:
        """Counts settled events."""
        self._sealed_unsettled -= number
        if self.limit > 0:  # so no publisher waits
            self.limit += number
        elif self._publishers:
            self.wake_publishers()
        elif not self.asleep and not self._promised:
            self.limit = self.size - self._sealed_unsettled

    def _count(self, change: int) -> None:
        self._sealed_unsettled += change
        if self.limit > 0:
            self.limit -= change
        else:
            self._set_limit()

    def _set_limit(self) -> None:
        if self.asleep or self._publishers or self._promised:
            self.limit = 0
        else:
            self.limit = self.size - self._sealed_unsettled

    def waiting(self) -> tuple[Counter[Port], Counter[Port]]:
        """Counts the entries that no worker has begun, by their ports: all of them, and the plain ones.

        It changes nothing and costs little per entry. Plain entries in the open columns count among the first
        only, because their ports have not counted them as ``accepted`` yet. No walk may be open.
        """
        batches = self._batches
        plain = Counter(chain.from_iterable(batch.ports_left for batch in batches if batch.counters is None))
        counted = chain.from_iterable(batch.ports_left for batch in batches if batch.counters is not None)
        return Counter(chain(counted, self.ports)) + plain, plain

    def unsealed(self) -> Counter[Port]:
        """The number of entries in the open columns by port, which the ports have not counted yet."""
        return Counter(self.ports)

    # --- room ---------------------------------------------------------------------------------------------

    def has_room(self, *, for_handler: bool, granted: bool = False) -> bool:
        """True when an event can be accepted now: for a handler always, until the overflow is used up.

        Other callers come behind waiting publishers; ``granted`` marks the publisher whose turn it is. A
        handler cannot wait for room, because it may hold the worker that would make room. Raises
        ``BufferFull`` for a handler when the overflow is used up.
        """
        if for_handler:
            if self.unsettled >= self.size + self.overflow_size:
                raise BufferFull("overflow for events published by handlers", self.overflow_size)
            return True
        return self.unsettled < self.size and (granted or not self._in_line)

    @property
    def _in_line(self) -> bool:
        """True when publishers wait for room, or were promised room and have not used it yet."""
        return bool(self._publishers or self._promised)

    @property
    def waiting_publishers(self) -> int:
        """The number of publishers that wait for room."""
        return len(self._publishers)

    async def room(self) -> None:
        """Waits for room, in the order of the calls. Raises ``BusClosed``.

        Then the caller accepts an event, or passes its place on with ``wake_publishers``.
        """
        place = next(self._places)
        waiter = self._waiter(place)
        while True:
            try:
                await waiter
            except BaseException:
                self._publishers.pop(place, None)
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._promised -= 1
                    self.wake_publishers()  # the place that this caller was promised goes to the next one
                self._set_limit()
                raise
            self._promised -= 1
            self._set_limit()
            if self.unsettled < self.size:
                return
            waiter = self._waiter(place)  # another publisher was faster: return to the former place

    def _waiter(self, place: int) -> asyncio.Future[None]:
        if self._closing:
            raise BusClosed("publish")
        waiter = asyncio.get_running_loop().create_future()
        publishers = self._publishers
        if publishers and next(reversed(publishers)) > place:  # it was promised room that a handler took
            self._publishers = publishers = OrderedDict(sorted([*publishers.items(), (place, waiter)]))
        publishers[place] = waiter
        self._set_limit()
        return waiter

    def wake_publishers(self) -> None:
        """Promises room to waiting publishers, in their order, as far as there is room."""
        if self._publishers:
            room = self.size - self.unsettled - self._promised
            while self._publishers and room > 0:
                _, waiter = self._publishers.popitem(last=False)
                if not waiter.done():
                    room -= 1
                    self._promised += 1
                    waiter.set_result(None)
        self._set_limit()

    def refuse_publishers(self) -> None:
        """Ends waiting for room: waiting publishers get ``BusClosed``."""
        self._closing = True
        for waiter in self._publishers.values():
            if not waiter.done():
                waiter.set_exception(BusClosed("publish"))
        self._publishers.clear()


def _is_plain(entry: Entry) -> bool:
    return entry[2] is None


_NOWHERE: Iterator[Port] = iter(())
