"""Batches of queue entries, stored as columns, and the drains that wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

from bus_core.dispatch.jobs import DrainMark, Entry, Job, Payload, PendingEvent, Port, pending_event_of

__all__ = ["Batch"]


class Batch:
    """Entries of the queue, in order, of which workers are given some at a time.

    They are held as columns: an event that waits costs two places in lists then, and no object that the
    garbage collector has to look at. Without ``counters`` the entries are plain. ``begun`` of them were given
    out. ``marks`` are the drains that wait for every plain entry that was not settled by then.
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
        """A batch of entries that are all plain, or all have a counter."""
        ports, payloads, counters = map(list, zip(*entries, strict=True))
        return cls(ports, payloads, None if entries[0][2] is None else counters)

    @property
    def ports_left(self) -> Sequence[Port]:
        """The ports of the entries that were not given out."""
        return self.ports[self.begun :]

    def append(self, entry: Entry) -> None:
        """Adds an entry with a counter to others that have one."""
        assert self.counters is not None, "plain entries are added all at once"
        port, payload, counter = entry
        self.ports.append(port)
        self.payloads.append(payload)
        self.counters.append(counter)

    def clear(self) -> None:
        """Empties a batch of entries with counters, so that others may be appended."""
        assert self.counters is not None, "plain entries are added all at once"
        self.ports.clear()
        self.payloads.clear()
        self.counters.clear()
        self.begun = 0

    def mark(self, mark: DrainMark) -> None:
        """Makes a drain wait for every entry that was not given out."""
        if self.counters is None:
            self.marks = (*self.marks, mark)
            mark.remaining += len(self.ports) - self.begun
            return
        for counter in self.counters[self.begun :]:
            assert counter is not None, "its entries have counters"
            mark.add(pending_event_of(counter))

    def rest(self) -> Iterator[Entry]:
        """The entries that were not given out. Those that a drain waits for have counters from now on."""
        at = self.begun
        ports, payloads = self.ports[at:], self.payloads[at:]
        counters: Iterable[PendingEvent | Job | None] = repeat(None)
        if self.counters is not None:
            counters = self.counters[at:]
        elif self.marks:
            counters = [port.take_apart(None, marks=self.marks) for port in ports]
        return zip(ports, payloads, counters, strict=False)
