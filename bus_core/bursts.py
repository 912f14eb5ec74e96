"""Bursts: what one worker takes out of the queue at once, so that nothing has to be counted per event."""

from __future__ import annotations

from operator import length_hint

from bus_core.jobs import Entry

__all__ = ["Burst"]


class Burst:
    """Some entries of the queue that one worker walks along, so that nothing is counted per event.

    What it has handled is counted when the burst ends, or when somebody asks meanwhile. ``plain`` tells
    whether its entries are plain ones; those with a counter are counted by themselves.
    """

    __slots__ = ("counted", "entries", "plain", "walk")

    def __init__(self, entries: list[Entry], *, plain: bool) -> None:
        self.entries = entries
        self.plain = plain
        self.walk = iter(entries)
        self.counted = 0

    @property
    def begun(self) -> int:
        """How many entries the worker has begun."""
        return len(self.entries) - length_hint(self.walk)

    @property
    def current(self) -> Entry:
        """The entry that the worker is at."""
        return self.entries[self.begun - 1]

    def cut(self) -> list[Entry]:
        """Makes the worker's walk end with what it has begun; returns the rest."""
        begun = self.begun
        rest = self.entries[begun:]
        del self.entries[begun:]
        return rest

    def let_go(self) -> None:
        """Forgets the entries, which are counted: a handler that waits keeps alive its own event only."""
        self.entries.clear()
        self.counted = 0

    def count(self, finished: int) -> int:
        """How many of the ``finished`` ones were not counted yet. They are from now on."""
        uncounted = finished - self.counted if self.plain else 0
        self.counted += uncounted
        return uncounted
