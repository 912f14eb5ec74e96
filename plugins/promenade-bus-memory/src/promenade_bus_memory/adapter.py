"""The memory adapter: routing and dead letters in one process. The engine of the core does the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bus_core import DeadLetter, Event, Features, Inlet, Message
from promenade_bus_memory.config import MemoryOptions
from promenade_bus_memory.dead_letters import MemoryDeadLetters
from promenade_bus_memory.hub import MemoryHub

__all__ = ["MemoryAdapter"]


class MemoryAdapter:
    """Implements ``bus_core.InProcessAdapter``. Its events and dead letters end with the process."""

    name = "memory"
    degraded = None
    features = Features(groups=True, broadcast=True, ordered=True, delayed=True, in_process=True)

    def __init__(self, options: MemoryOptions) -> None:
        self.serialize = options.serialize
        self._hub = options.hub or MemoryHub()
        self.dead_letters = MemoryDeadLetters(self._hub, options.dead_letters)
        self._changed: Callable[[str], None] | None = None

    @property
    def lost(self) -> int:
        """The number of dead letters that a full store has dropped."""
        return self.dead_letters.dropped

    async def start(self) -> None:
        """Does nothing: there is nothing to prepare."""

    def attach(self, inlet: Inlet) -> None:
        """Adds the inlet to the routing."""
        self.dead_letters.attach(inlet)
        self._hub.attach(inlet)

    def detach(self, inlet: Inlet) -> None:
        """Removes the inlet from the routing."""
        self.dead_letters.detach(inlet)
        self._hub.detach(inlet)

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls ``changed`` with each topic or pattern whose routing may have changed."""
        self._changed = changed
        self._hub.watch(changed)

    def route(self, topic: str) -> Sequence[Sequence[Inlet]]:
        """Returns for each group the inlets that compete for an event of the topic."""
        return self._hub.route(topic)

    def bury(self, letter: DeadLetter, payload: Event | Message, inlet: Inlet) -> None:
        """Stores a dead letter until it is redriven or purged."""
        self.dead_letters.keep(letter, payload, inlet.spec)

    async def close(self) -> None:
        """Stops watching a shared hub."""
        if self._changed is not None:
            self._hub.unwatch(self._changed)
