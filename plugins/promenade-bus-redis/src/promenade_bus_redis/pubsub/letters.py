"""Dead letters in this process: the mode stores nothing on the server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from bus_core import Attempt, SubscriptionSpec
from bus_core.adapters import KeptLetter, LocalDeadLetters
from promenade_bus_redis.pubsub.envelope import Arrival

__all__ = ["ProcessDeadLetters", "TakesBack"]


class TakesBack(Protocol):
    """A consumer, as the dead letters know it."""

    def take_back(self, arrival: Arrival, history: tuple[Attempt, ...]) -> None:
        """Hands an event out again."""
        ...


class ProcessDeadLetters(LocalDeadLetters[Arrival]):
    """Those of one instance. ``find`` knows the consumer of a subscription, as long as it is open."""

    def __init__(self, capacity: int, find: Callable[[SubscriptionSpec], TakesBack | None]) -> None:
        super().__init__(capacity)
        self._find = find

    def way_back(self, kept: KeptLetter[Arrival]) -> Callable[[], None] | None:
        """By the subscription of this instance that gave up."""
        consumer = self._find(kept.spec)
        if consumer is None:
            return None
        return partial(consumer.take_back, kept.payload, kept.letter.attempts)
