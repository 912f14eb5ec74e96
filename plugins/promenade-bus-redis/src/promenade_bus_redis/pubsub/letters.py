"""Dead letters in this process: the mode stores nothing on the server. Bounded; what gives way is counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from bus_core import DeadLetter, DeadLetterFilter, DeadLetterNotFound, SubscriptionSpec, UnknownSubscription
from promenade_bus_redis.pubsub.envelope import Arrival

if TYPE_CHECKING:
    from promenade_bus_redis.pubsub.consumer import PubsubConsumer

__all__ = ["ProcessDeadLetters"]

logger = logging.getLogger("promenade.bus.redis")


@attrs.frozen
class _Kept:
    letter: DeadLetter
    arrival: Arrival
    spec: SubscriptionSpec


class ProcessDeadLetters:
    """Implements ``bus_core.DeadLetterStore`` for at most ``capacity`` letters of this instance.

    ``find`` knows the consumer of a subscription, as long as it is open.
    """

    def __init__(self, capacity: int, find: Callable[[SubscriptionSpec], PubsubConsumer | None]) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._find = find
        self._kept: dict[str, _Kept] = {}

    def add(self, letter: DeadLetter, arrival: Arrival, spec: SubscriptionSpec) -> None:
        """Keeps a letter; the oldest one gives way when there is no room."""
        if letter.id not in self._kept and len(self._kept) >= self._capacity:
            dropped = self._kept.pop(next(iter(self._kept))).letter
            self.dropped += 1
            logger.error(
                "lost a dead letter: there is no room for more (capacity=%d topic=%s subscription=%s"
                " event_id=%s)",
                self._capacity,
                dropped.topic,
                dropped.subscription,
                dropped.event_id,
            )
        self._kept[letter.id] = _Kept(letter, arrival, spec)

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
        """Hands letters back to their subscriptions of this instance: all, or none where one is not open."""
        moving: list[tuple[_Kept, PubsubConsumer]] = []
        for letter_id in dict.fromkeys(letter_ids):
            kept = self._kept.get(letter_id)
            if kept is None:
                continue
            consumer = self._find(kept.spec)
            if consumer is None:
                raise UnknownSubscription(
                    f"cannot redrive dead letter {letter_id}: no subscription {kept.letter.subscription!r} "
                    f"to {kept.spec.topic!r} is open in this process; subscribe it first, or purge the letter"
                )
            moving.append((kept, consumer))
        for kept, consumer in moving:
            del self._kept[kept.letter.id]
            consumer.take_back(kept.arrival, kept.letter.attempts)
        return len(moving)

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects; returns how many."""
        doomed = [letter_id for letter_id, kept in self._kept.items() if where.selects(kept.letter)]
        for letter_id in doomed:
            del self._kept[letter_id]
        return len(doomed)
