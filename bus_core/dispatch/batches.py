"""Batches of queue entries, stored as columns, and the drains that wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

from bus_core.dispatch.jobs import DrainMark, Entry, Job, Payload, PendingEvent, Port, pending_event_of

__all__ = ["Batch"]


class Batch:
    """A batch of queue entries, in order, stored as columns.

    An event that waits takes two places in lists, and no object that the garbage collector has to visit.
    Without ``counters`` the entries are plain. ``begun`` is the number of entries that workers have taken.
    ``marks`` are the drains that wait for every plain entry that was not settled when they began.
    """

    __slots__ = ("begun", "counters", "marks", "payloads", "ports")

    def __init__(
        self,
        ports: list[Port],
        payloads: list[Payload],
        counters: list[PendingEvent | Job | None] | None = None,
    ) -> None:
        self.ports = ports
        self.payloads = payloads
        self.counters = counters
        self.begun = 0
        self.marks: tuple[DrainMark, ...] = ()

    @classmethod
    def of(cls, entries: list[Entry]) -> Batch:
        """Makes a batch of entries that are all plain, or all have a counter."""
        ports, payloads, counters = map(list, zip(*entries, strict=True))
        return cls(ports, payloads, None if entries[0][2] is None else counters)

    @property
    def ports_left(self) -> Sequence[Port]:
        """The ports of the remaining entries."""
        return self.ports[self.begun :]

    def append(self, entry: Entry) -> None:
        """Adds an entry with a counter to a batch of such entries."""
        assert self.counters is not None, "plain entries are added all at once"
        port, payload, counter = entry
        self.ports.append(port)
        self.payloads.append(payload)
        self.counters.append(counter)

    def clear(self) -> None:
        """Empties a batch of entries with counters for further use."""
        assert self.counters is not None, "plain entries are added all at once"
        self.ports.clear()
        self.payloads.clear()
        self.counters.clear()
        self.begun = 0

    def mark(self, mark: DrainMark) -> None:
        """Makes a drain wait for every remaining entry."""
        if self.counters is None:
            self.marks = (*self.marks, mark)
            mark.remaining += len(self.ports) - self.begun
            return
        for counter in self.counters[self.begun :]:
            assert counter is not None, "its entries have counters"
            mark.add(pending_event_of(counter))

    def rest(self) -> Iterator[Entry]:
        """The remaining entries. Those that a drain waits for get counters."""
        at = self.begun
        ports, payloads = self.ports[at:], self.payloads[at:]
        counters: Iterable[PendingEvent | Job | None] = repeat(None)
        if self.counters is not None:
            counters = self.counters[at:]
        elif self.marks:
            counters = [port.take_apart(None, marks=self.marks) for port in ports]
        return zip(ports, payloads, counters, strict=False)
