"""Dead letters in this process: the mode stores nothing on the server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from bus_core import SubscriptionSpec
from bus_core.adapters import KeptLetter, LocalDeadLetters
from promenade_bus_redis.pubsub.envelope import Arrival

if TYPE_CHECKING:
    from promenade_bus_redis.pubsub.consumer import PubsubConsumer

__all__ = ["ProcessDeadLetters"]


class ProcessDeadLetters(LocalDeadLetters[Arrival]):
    """Those of one instance. ``find`` knows the consumer of a subscription, as long as it is open."""

    def __init__(self, capacity: int, find: Callable[[SubscriptionSpec], PubsubConsumer | None]) -> None:
        super().__init__(capacity)
        self._find = find

    def way_back(self, kept: KeptLetter[Arrival]) -> Callable[[], None] | None:
        """By the subscription of this instance that gave up."""
        consumer = self._find(kept.spec)
        if consumer is None:
            return None
        return partial(consumer.take_back, kept.payload, kept.letter.attempts)
