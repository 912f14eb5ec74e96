"""Entries as columns: what waits in the queue, and what one worker takes out of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import length_hint

from bus_core.dispatch.units import Entry, Job, Port, Unit
from bus_core.events.base import Event

__all__ = ["Batch", "Burst"]


class Batch:
    """Entries of the queue, in order, from which workers take bursts.

    They are held as columns: an event that waits costs two places in lists then, and no object that the
    garbage collector has to look at. Without ``counters`` the entries are plain.
    """

    __slots__ = ("counters", "payloads", "ports", "taken")

    def __init__(
        self,
        ports: list[Port],
        payloads: list[Event | Job],
        counters: list[Unit | Job | None] | None = None,
    ) -> None:
        self.ports = ports
        self.payloads = payloads
        self.counters = counters
        self.taken = 0

    @classmethod
    def of(cls, entries: list[Entry]) -> Batch:
        """A batch of entries that are all plain, or all have a counter."""
        ports, payloads, counters = map(list, zip(*entries, strict=True))
        return cls(ports, payloads, None if entries[0][2] is None else counters)

    @property
    def used_up(self) -> bool:
        """Whether every entry was taken."""
        return self.taken >= len(self.ports)

    @property
    def is_plain(self) -> bool:
        """Whether its entries have no counter."""
        return self.counters is None

    @property
    def ports_left(self) -> Sequence[Port]:
        """The ports of the entries that were not taken."""
        return self.ports[self.taken :]

    def take(self, most: int) -> Burst:
        """The next entries, at most so many."""
        part = slice(self.taken, self.taken + most)
        self.taken += most
        counters = None if self.counters is None else self.counters[part]
        return Burst(self.ports[part], self.payloads[part], counters)

    def append(self, entry: Entry) -> None:
        """Adds an entry with a counter to others that have one."""
        assert self.counters is not None, "plain entries are added all at once"
        port, payload, counter = entry
        self.ports.append(port)
        self.payloads.append(payload)
        self.counters.append(counter)

    def __iter__(self) -> Iterator[Entry]:
        """The entries that were not taken."""
        at = self.taken
        counters = repeat(None) if self.counters is None else self.counters[at:]
        return zip(self.ports[at:], self.payloads[at:], counters, strict=False)


class Burst:
    """Some entries of the queue that one worker walks along, so that nothing is counted per event.

    What it has handled is counted when the burst ends, or when somebody asks meanwhile; entries with a
    counter are counted by themselves. The worker walks along ``plain``, or along ``entries`` where that is
    None.
    """

    __slots__ = ("_at", "_counters", "_payloads", "_ports", "counted", "entries", "plain")

    def __init__(
        self, ports: list[Port], payloads: list[Event | Job], counters: list[Unit | Job | None] | None
    ) -> None:
        self._ports = ports
        self._payloads = payloads
        self._counters = counters
        self._at = iter(ports)  # which tells how far the walk has come
        self.plain: Iterator[tuple[Port, Event | Job]] | None = None
        self.entries: Iterator[Entry] = iter(())
        if counters is None:
            self.plain = zip(self._at, payloads, strict=False)
        else:
            self.entries = zip(self._at, payloads, counters, strict=False)
        self.counted = 0

    @property
    def left(self) -> int:
        """How many entries the worker has not begun."""
        return length_hint(self._at)

    @property
    def is_plain(self) -> bool:
        """Whether its entries have no counter."""
        return self.plain is not None

    @property
    def ports_left(self) -> Sequence[Port]:
        """The ports of the entries that the worker has not begun."""
        return self._ports[self.begun :]

    @property
    def begun(self) -> int:
        """How many entries the worker has begun."""
        return len(self._ports) - self.left

    @property
    def current(self) -> Entry:
        """The entry that the worker is at."""
        at = self.begun - 1
        counter = None if self._counters is None else self._counters[at]
        return self._ports[at], self._payloads[at], counter

    def cut(self) -> Batch | None:
        """Makes the worker's walk end with what it has begun; returns the rest, if there is any."""
        rest = slice(self.begun, None)
        counters = self._counters
        left = Batch(self._ports[rest], self._payloads[rest], None if counters is None else counters[rest])
        for column in (self._ports, self._payloads, counters or []):
            del column[rest]
        return None if left.used_up else left

    def let_go(self) -> None:
        """Forgets the entries, which are counted: a handler that waits keeps alive its own event only."""
        self._ports.clear()
        self._payloads.clear()
        self._counters = None
        self.counted = 0

    def count(self, finished: int) -> int:
        """How many of the ``finished`` ones were not counted yet. They are from now on."""
        uncounted = finished - self.counted if self.plain is not None else 0
        self.counted += uncounted
        return uncounted
