"""The bus of the contexts where several processes share the work: every step goes to a journal on disk."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from bus_core import Bus, Event, Topic
from crm.journal import Journal, JournaledBus
from promenade_bus_testing import Journal as FileJournal

__all__ = ["FiledBus"]

E = TypeVar("E", bound=Event)


class FiledBus(JournaledBus):
    """Writes down what outlives the process: the account is made of the journals of all of them."""

    def __init__(self, bus: Bus, journal: Journal, file: FileJournal) -> None:
        super().__init__(bus, journal)
        self._file = file

    async def publish(self, topic: Topic[E], event: E) -> None:
        """Publishes, and writes down that it was tried, and that the bus has accepted it."""
        await self._file.publish(self._bus, topic, event)
        self._journal.published_count += 1

    async def publish_many(self, items: Iterable[tuple[Topic[Any], Event]]) -> None:
        """Publishes at once, and writes down of each event that it was tried, and that it was accepted."""
        items = list(items)
        await self._file.publish_many(self._bus, items)
        self._journal.published_count += len(items)

    def subscribe(
        self,
        topic: Topic[E] | str,
        handler: Callable[[E], Coroutine[Any, Any, None]],
        *,
        name: str,
        ordered: bool = False,
    ) -> None:
        """Subscribes a handler whose every attempt is written down."""
        self._file.subscribe(self._bus, topic, handler, name=name, ordered=ordered)
