"""``fallback: memory``: another adapter takes the place of one that does not start, and health says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from bus_core.abc import Adapter, DeadLetterStore, Features, Inlet
from bus_core.events import Event
from bus_core.messages import DeadLetter, Message

__all__ = ["FallbackAdapter"]

logger = logging.getLogger("promenade.bus")


class FallbackAdapter:
    """Implements ``Adapter`` by the first of two adapters or, when that one does not start, by the second.

    It never changes over later: events of one bus would then be in two places.
    """

    def __init__(self, first: Adapter, second: Adapter) -> None:
        self._used = first
        self._second = second
        self._degraded: str | None = None

    @property
    def name(self) -> str:
        return self._used.name

    @property
    def features(self) -> Features:
        return self._used.features

    @property
    def dead_letters(self) -> DeadLetterStore:
        return self._used.dead_letters

    @property
    def lost(self) -> int:
        return self._used.lost

    @property
    def serialize(self) -> bool:
        return self._used.serialize

    @property
    def degraded(self) -> str | None:
        return self._degraded or self._used.degraded

    async def start(self) -> None:
        """Starts the first adapter or, when that fails, the second; raises what the second raises."""
        try:
            await self._used.start()
        except Exception as error:
            failed, self._used = self._used.name, self._second
            self._degraded = (
                f"the adapter {failed!r} did not start ({type(error).__name__}), "
                f"and {self._used.name!r} took "
                "its place, as 'bus.fallback' asks: mend it and start the process again"
            )
            logger.error("%s", self._degraded)
            await self._used.start()

    def attach(self, inlet: Inlet) -> None:
        self._used.attach(inlet)

    def detach(self, inlet: Inlet) -> None:
        self._used.detach(inlet)

    def watch(self, changed: Callable[[], None]) -> None:
        self._used.watch(changed)

    def route(self, topic: str) -> Sequence[Sequence[Inlet]]:
        return self._used.route(topic)

    def bury(self, letter: DeadLetter, payload: Event | Message, inlet: Inlet) -> None:
        self._used.bury(letter, payload, inlet)

    async def close(self) -> None:
        """Closes the adapter that was used."""
        await self._used.close()
