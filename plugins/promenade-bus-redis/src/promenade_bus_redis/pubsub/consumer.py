"""The consumer of a subscription: received events wait here, as long as there is room."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from bus_core import Attempt, BusError, Outcome, Received, SubscriptionSpec, TopicPattern
from bus_core.events import is_pattern
from bus_core.runtime import Sleeper
from promenade_bus_redis.pubsub.envelope import Arrival
from promenade_bus_redis.pubsub.letters import ProcessDeadLetters
from promenade_bus_redis.pubsub.misses import Misses
from promenade_bus_redis.server.failures import RedisFailure

__all__ = ["Listening", "PubsubConsumer"]


class Listening(Protocol):
    """The interface of a consumer to its subscriber."""

    def stop_for(self, consumer: PubsubConsumer) -> None:
        """Delivers everything published until now, then calls ``consumer.end``."""
        ...

    def leave(self, consumer: PubsubConsumer) -> None:
        """Removes a consumer."""
        ...


class PubsubConsumer:
    """Implements ``bus_core.Consumer``. ``room`` is the maximum size in bytes of waiting events."""

    longest_hold = math.inf

    def __init__(
        self,
        spec: SubscriptionSpec,
        listening: Listening,
        letters: ProcessDeadLetters,
        misses: Misses,
        *,
        room: int,
        patience: float,
    ) -> None:
        self.spec = spec
        self.pattern = TopicPattern(spec.topic) if is_pattern(spec.topic) else None
        self.joined = 0
        """The number of the connection on which it began to listen."""
        self.failure: RedisFailure | None = None
        """The current failure to listen, or None."""
        self._listening = listening
        self._letters = letters
        self._misses = misses
        self._room = room
        self._patience = patience
        self._waiting: deque[Arrival] = deque()
        self._back: deque[Received] = deque()
        self._stopped = False
        self._ended = False
        self._sleeper = Sleeper()

    # --- what the subscriber calls --------------------------------------------------------------------------

    def offer(self, arrival: Arrival) -> None:
        """Adds an event, or counts it as missed if there is no room; it never blocks others."""
        size = arrival.size
        if self._room < size and self._waiting:
            self._misses.add(1, arrival.message.topic, self.spec.name, "buffer full")
            return
        self._room -= size
        self._waiting.append(arrival)
        self._sleeper.wake()

    def fail(self, failure: RedisFailure) -> None:
        """Records that nothing can be received until ``recover``; called for each failed attempt."""
        self.failure = failure
        self._sleeper.wake()

    def recover(self) -> None:
        """Records that the consumer listens again."""
        self.failure = None

    def end(self) -> None:
        """Records that no more events will come."""
        self._ended = True
        self._sleeper.wake()

    @property
    def held(self) -> int:
        """The number of events not yet passed to the engine."""
        return len(self._waiting) + len(self._back)

    def take_back(self, arrival: Arrival, history: tuple[Attempt, ...]) -> None:
        """Adds the event of a redriven dead letter."""
        self._back.append(_received(arrival, redelivered=True, history=history))
        self._sleeper.wake()

    # --- what the engine calls ----------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Received]:
        """Returns available events, or waits a few seconds for some; see ``bus_core.Consumer``.

        Raises ``RedisFailure`` while it cannot listen.
        """
        if not self.held and not self._ended:
            await self._sleeper.sleep(self._patience)
        if not self.held and self.failure is not None and not self._stopped:
            raise self.failure.with_traceback(None)
        batch = [self._back.popleft() for _ in range(min(limit, len(self._back)))]
        for _ in range(min(limit - len(batch), len(self._waiting))):
            arrival = self._waiting.popleft()
            self._room += arrival.size
            batch.append(_received(arrival))
        return batch

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Stores dead letters; other outcomes need no action."""
        for outcome in outcomes:
            if outcome.action == "dead_letter" and outcome.letter is not None:
                self._letters.keep(outcome.letter, outcome.receipt, self.spec)
        return [None] * len(outcomes)

    def stop(self) -> None:
        """Stops listening; events published until now are still delivered."""
        if not self._stopped:
            self._stopped = True
            self._listening.stop_for(self)

    async def close(self) -> None:
        """Unsubscribes from its channel."""
        self._stopped = True
        self._listening.leave(self)
        self.end()


def _received(arrival: Arrival, *, redelivered: bool = False, history: tuple[Attempt, ...] = ()) -> Received:
    return Received(
        message=arrival.message,
        receipt=arrival,
        published_at=arrival.published_at,
        redelivered=redelivered,
        fault=arrival.fault,
        history=history,
    )
