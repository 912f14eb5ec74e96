"""Dead letters in this process, because the mode stores nothing on the server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from bus_core import Attempt, SubscriptionSpec
from bus_core.adapters import KeptLetter, LocalDeadLetters
from promenade_bus_redis.pubsub.envelope import Arrival

__all__ = ["ProcessDeadLetters", "TakesBack"]


class TakesBack(Protocol):
    """The interface of dead letters to a consumer."""

    def take_back(self, arrival: Arrival, history: tuple[Attempt, ...]) -> None:
        """Delivers an event again."""
        ...


class ProcessDeadLetters(LocalDeadLetters[Arrival]):
    """The dead letters of one instance. ``find`` returns the open consumer of a subscription."""

    def __init__(self, capacity: int, find: Callable[[SubscriptionSpec], TakesBack | None]) -> None:
        super().__init__(capacity)
        self._find = find

    def way_back(self, kept: KeptLetter[Arrival]) -> Callable[[], None] | None:
        """Returns the redrive to the subscription of this instance that failed."""
        consumer = self._find(kept.spec)
        if consumer is None:
            return None
        return partial(consumer.take_back, kept.payload, kept.letter.attempts)
