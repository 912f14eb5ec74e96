"""Dead letters in memory: bounded, oldest first out, and what is dropped is counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from bus_core import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterNotFound,
    Event,
    Inlet,
    Message,
    SubscriptionSpec,
    UnknownSubscription,
)
from promenade_bus_memory.hub import MemoryHub

__all__ = ["MemoryDeadLetters"]

logger = logging.getLogger("promenade.bus.memory")


@attrs.frozen
class _Kept:
    letter: DeadLetter
    payload: Event | Message
    spec: SubscriptionSpec


class MemoryDeadLetters:
    """Implements ``bus_core.DeadLetterStore`` for at most ``capacity`` letters."""

    def __init__(self, hub: MemoryHub, capacity: int) -> None:
        self._hub = hub
        self._capacity = capacity
        self._kept: dict[str, _Kept] = {}
        self._inlets: list[Inlet] = []
        self.dropped = 0

    def attach(self, inlet: Inlet) -> None:
        """An inlet of the bus that owns this store."""
        self._inlets.append(inlet)

    def detach(self, inlet: Inlet) -> None:
        """Undoes ``attach``; harmless when it was not attached."""
        self._inlets = [other for other in self._inlets if other is not inlet]

    def add(self, letter: DeadLetter, payload: Event | Message, inlet: Inlet) -> None:
        """Keeps a letter; when the store is full the oldest one is dropped, and counted."""
        if len(self._kept) >= self._capacity:
            oldest = next(iter(self._kept))
            dropped = self._kept.pop(oldest).letter
            self.dropped += 1
            logger.error(
                "lost a dead letter: the store is full (capacity=%d topic=%s subscription=%s event_id=%s)",
                self._capacity,
                dropped.topic,
                dropped.subscription,
                dropped.event_id,
            )
        self._kept[letter.id] = _Kept(letter, payload, inlet.spec)

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters that the filter selects, at most ``limit``."""
        selected = (kept.letter for kept in self._kept.values() if where.selects(kept.letter))
        return [letter for letter, _ in zip(selected, range(limit), strict=False)]

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        kept = self._kept.get(letter_id)
        if kept is None:
            raise DeadLetterNotFound(letter_id)
        return kept.letter

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Hands letters back to their subscription, each once; all or, when one has no subscription, none."""
        moving: list[tuple[_Kept, Inlet]] = []
        for letter_id in dict.fromkeys(letter_ids):
            kept = self._kept.get(letter_id)
            if kept is None:
                continue
            letter = kept.letter
            inlet = self._inlet_for(kept)
            if inlet is None:
                raise UnknownSubscription(
                    f"cannot redrive dead letter {letter.id}: no subscription {letter.subscription!r} to "
                    f"{letter.topic!r} is open; subscribe it first, or purge the letter"
                )
            moving.append((kept, inlet))
        for kept, inlet in moving:
            del self._kept[kept.letter.id]
            inlet.redeliver(kept.letter, kept.payload)
        return len(moving)

    def _inlet_for(self, kept: _Kept) -> Inlet | None:
        """The subscription that gave up: this bus's own, or another member of a group that competes."""
        candidates = self._hub.inlets_of(kept.spec.group, kept.letter.topic)
        own = [inlet for inlet in candidates if inlet in self._inlets]
        if kept.spec.mode == "group":
            own += [inlet for inlet in candidates if inlet.spec.mode == "group"]
        return own[0] if own else None

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects; returns how many."""
        doomed = [letter_id for letter_id, kept in self._kept.items() if where.selects(kept.letter)]
        for letter_id in doomed:
            del self._kept[letter_id]
        return len(doomed)
