"""The memory adapter: routing and dead letters in one process. The engine of the core does the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bus_core import DeadLetter, Event, Features, Inlet, Message
from promenade_bus_memory.config import MemoryOptions
from promenade_bus_memory.dead_letters import MemoryDeadLetters
from promenade_bus_memory.hub import MemoryHub

__all__ = ["MemoryAdapter"]


class MemoryAdapter:
    """Implements ``bus_core.InProcessAdapter``. Nothing that it holds outlives the process."""

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
        """Dead letters that a full store had to drop."""
        return self.dead_letters.dropped

    async def start(self) -> None:
        """Nothing to get ready."""

    def attach(self, inlet: Inlet) -> None:
        """From now on the inlet takes part in routing."""
        self.dead_letters.attach(inlet)
        self._hub.attach(inlet)

    def detach(self, inlet: Inlet) -> None:
        """The inlet takes no part any more."""
        self.dead_letters.detach(inlet)
        self._hub.detach(inlet)

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls ``changed`` with the topic or pattern of which routing may have changed."""
        self._changed = changed
        self._hub.watch(changed)

    def route(self, topic: str) -> Sequence[Sequence[Inlet]]:
        """For each group the inlets that compete for an event of the topic."""
        return self._hub.route(topic)

    def bury(self, letter: DeadLetter, payload: Event | Message, inlet: Inlet) -> None:
        """Keeps a dead letter until it is redriven or purged."""
        self.dead_letters.keep(letter, payload, inlet.spec)

    async def close(self) -> None:
        """Lets go of a shared hub."""
        if self._changed is not None:
            self._hub.unwatch(self._changed)
