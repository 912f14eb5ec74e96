"""Dead letters in memory, and their redrive to a subscription."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bus_core import Event, Inlet, Message
from bus_core.adapters import KeptLetter, LocalDeadLetters
from promenade_bus_memory.hub import MemoryHub

__all__ = ["MemoryDeadLetters"]


class MemoryDeadLetters(LocalDeadLetters[Event | Message]):
    """The dead letters of one bus. A redrive may choose another member of the letter's group."""

    def __init__(self, hub: MemoryHub, capacity: int) -> None:
        super().__init__(capacity)
        self._hub = hub
        self._inlets: set[Inlet] = set()

    def attach(self, inlet: Inlet) -> None:
        """Adds an inlet of the bus that owns this store."""
        self._inlets.add(inlet)

    def detach(self, inlet: Inlet) -> None:
        """Removes an inlet; does nothing for an unknown one."""
        self._inlets.discard(inlet)

    def way_back(self, kept: KeptLetter[Event | Message]) -> Callable[[], None] | None:
        """Redrives to the subscription that failed, of this bus or of another member of its group."""
        candidates = self._hub.inlets_of(kept.spec.group, kept.letter.topic)
        own = [inlet for inlet in candidates if inlet in self._inlets]
        if kept.spec.mode == "group":
            own += [inlet for inlet in candidates if inlet.spec.mode == "group"]
        return partial(own[0].redeliver, kept.letter, kept.payload) if own else None
