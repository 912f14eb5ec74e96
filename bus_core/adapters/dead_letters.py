"""A base for dead-letter stores in the memory of the process.

The bus does not need this module. Plugins import it from ``bus_core.adapters``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs

from bus_core.abc import DeadLetterStore, SubscriptionSpec
from bus_core.errors import DeadLetterNotFound, UnknownSubscription
from bus_core.events.messages import DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetterTally, tally_of
from bus_core.runtime.logs import plain_logger

__all__ = ["KeptLetter", "LocalDeadLetters", "first_letters"]

P = TypeVar("P")

logger = plain_logger("promenade.bus")


async def first_letters(store: DeadLetterStore, where: DeadLetterFilter, limit: int) -> list[DeadLetter]:
    """The oldest letters that a filter selects, at most ``limit``: ``list`` for stores with short pages."""
    found: list[DeadLetter] = []
    cursor: str | None = None
    while len(found) < limit:
        page = await store.page(where, cursor, limit - len(found))
        found += page
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


@attrs.frozen
class KeptLetter(Generic[P]):
    """A letter, the payload that its subscription gets at a redrive, and its number in this store."""

    letter: DeadLetter
    payload: P
    spec: SubscriptionSpec
    number: int = 0


class LocalDeadLetters(ABC, Generic[P]):
    """Implements ``bus_core.DeadLetterStore`` for at most ``capacity`` letters.

    When it is full, a new letter replaces the oldest one; ``dropped`` counts those.
    """

    def __init__(self, capacity: int) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._kept: dict[str, KeptLetter[P]] = {}  # by their numbers
        self._numbers = 0

    @abstractmethod
    def way_back(self, kept: KeptLetter[P]) -> Callable[[], None] | None:
        """The inlet of the subscription that gave up; None where it is not open here."""

    def keep(self, letter: DeadLetter, payload: P, spec: SubscriptionSpec) -> None:
        """Stores a letter. When the store is full, it drops and counts the oldest one."""
        if letter.id not in self._kept and len(self._kept) >= self._capacity:
            dropped = self._kept.pop(next(iter(self._kept))).letter
            self.dropped += 1
            logger.error(
                "lost a dead letter: the store is full (capacity=%d topic=%s subscription=%s event_id=%s)",
                self._capacity,
                dropped.topic,
                dropped.subscription,
                dropped.event_id,
            )
        self._kept.pop(letter.id, None)
        self._numbers += 1
        self._kept[letter.id] = KeptLetter(letter, payload, spec, self._numbers)

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters that the filter selects, at most ``limit``."""
        return await self.page(where, None, limit)

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        """A page of the selected letters after a cursor; see ``bus_core.DeadLetterStore``."""
        if after is not None and not (after.isascii() and after.isdigit()):
            raise ValueError(f"this is no cursor of these dead letters: {after!r}")
        behind = int(after or 0)
        page = DeadLetterPage()
        last = 0
        for kept in self._kept.values():
            if kept.number > behind and where.selects(kept.letter):
                if len(page) == limit:
                    page.next_cursor = str(last)
                    break
                page.append(kept.letter)
                last = kept.number
        return page

    async def count(self, where: DeadLetterFilter) -> int:
        """The number of letters that the filter selects."""
        return sum(where.selects(kept.letter) for kept in self._kept.values())

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        """Counts the selected letters in groups."""
        return tally_of(kept.letter for kept in self._kept.values() if where.selects(kept.letter))

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        kept = self._kept.get(letter_id)
        if kept is None:
            raise DeadLetterNotFound(letter_id)
        return kept.letter

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Redrives letters to their subscription, each once; all or, when one has no subscription, none.

        Raises ``UnknownSubscription``.
        """
        moving: list[tuple[str, Callable[[], None]]] = []
        for letter_id in dict.fromkeys(letter_ids):
            kept = self._kept.get(letter_id)
            if kept is None:
                continue
            hand_back = self.way_back(kept)
            if hand_back is None:
                letter = kept.letter
                raise UnknownSubscription(
                    f"cannot redrive dead letter {letter.id}: no subscription {letter.subscription!r} to "
                    f"{letter.topic!r} is open in this process; subscribe it first, or purge the letter"
                )
            moving.append((letter_id, hand_back))
        for letter_id, hand_back in moving:
            del self._kept[letter_id]
            hand_back()
        return len(moving)

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects. Returns their number."""
        selected = [letter_id for letter_id, kept in self._kept.items() if where.selects(kept.letter)]
        for letter_id in selected:
            del self._kept[letter_id]
        return len(selected)
