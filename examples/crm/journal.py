"""The application's own record of its events, apart from the bus.

The account at the end of the demo compares these journals with each other and with the counters of the bus.
So they take nothing from the bus but the topic of a delivery. A publish is recorded where it is made, and a
delivery inside its handler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import attrs

from bus_core import Bus, DeadLetter, Delivery, Event, PublishManyError, Topic

__all__ = ["DeadLetterEntry", "HandlerJournal", "Journal", "JournaledBus", "PublisherJournal"]

E = TypeVar("E", bound=Event)


@attrs.define
class PublisherJournal:
    """The events of one topic that the bus accepted: how often each, by event id."""

    accepted: dict[UUID, int] = attrs.field(factory=dict)
    first_at: float = 0.0
    """``time.perf_counter()`` when the first one was handed to the bus."""

    last_handled_at: float = 0.0
    """``time.perf_counter()`` when a handler finished with one of them, the last time so far."""


@attrs.define
class HandlerJournal:
    """The deliveries of one subscription: for each topic how often an event began and was handled, by id."""

    name: str
    pattern: str
    begun: dict[str, dict[UUID, int]] = attrs.field(factory=dict)
    handled: dict[str, dict[UUID, int]] = attrs.field(factory=dict)


@attrs.frozen
class DeadLetterEntry:
    """A dead letter that was seen in the store of the bus."""

    subscription: str
    topic: str
    event_id: UUID | None


@attrs.define
class Journal:
    """All journals of one run."""

    publishers: dict[str, PublisherJournal] = attrs.field(factory=dict)
    handlers: dict[str, HandlerJournal] = attrs.field(factory=dict)
    redriven: list[DeadLetterEntry] = attrs.field(factory=list)
    """The dead letters that were sent back to their subscriptions."""

    remaining: list[DeadLetterEntry] = attrs.field(factory=list)
    """The dead letters that were left in the store at the end."""

    published_count: int = 0
    handled_count: int = 0
    failed_count: int = 0

    def note_redriven(self, letters: list[DeadLetter]) -> None:
        """Writes down letters that are sent back."""
        self.redriven += [_entry(letter) for letter in letters]

    def note_remaining(self, letters: list[DeadLetter]) -> None:
        """Writes down letters that nobody sent back."""
        self.remaining = [_entry(letter) for letter in letters]


def _entry(letter: DeadLetter) -> DeadLetterEntry:
    return DeadLetterEntry(letter.subscription, letter.topic, letter.event_id)


class JournaledBus:
    """The bus as the contexts see it: publishing and subscribing, both kept in the journal."""

    def __init__(self, bus: Bus, journal: Journal) -> None:
        self._bus = bus
        self._journal = journal

    async def publish(self, topic: Topic[E], event: E) -> None:
        """Publishes, and writes the event down once the bus has accepted it."""
        journal = self._publisher(topic)
        await self._bus.publish(topic, event)
        self._accepted(journal, event)

    async def publish_many(self, items: Iterable[tuple[Topic[Any], Event]]) -> None:
        """Publishes at once, and writes down which events the bus has accepted."""
        items = list(items)
        journals = [self._publisher(topic) for topic, _ in items]
        try:
            await self._bus.publish_many(items)
        except PublishManyError as error:
            self._accepted_of(journals, items, error.results)
            raise
        self._accepted_of(journals, items, [None] * len(items))

    def _accepted_of(
        self,
        journals: Sequence[PublisherJournal],
        items: Sequence[tuple[Topic[Any], Event]],
        results: Sequence[Exception | None],
    ) -> None:
        for journal, (_, event), failure in zip(journals, items, results, strict=True):
            if failure is None:
                self._accepted(journal, event)

    def _publisher(self, topic: Topic[Any]) -> PublisherJournal:
        journal = self._journal.publishers.get(topic.name)
        if journal is None:
            journal = self._journal.publishers[topic.name] = PublisherJournal(first_at=time.perf_counter())
        return journal

    def _accepted(self, journal: PublisherJournal, event: Event) -> None:
        journal.accepted[event.event_id] = journal.accepted.get(event.event_id, 0) + 1
        self._journal.published_count += 1

    def subscribe(
        self,
        topic: Topic[E] | str,
        handler: Callable[[E], Coroutine[Any, Any, None]],
        *,
        name: str,
        ordered: bool = False,
    ) -> None:
        """Subscribes a handler whose every attempt is written down."""
        journal = self._journal
        pattern = topic if isinstance(topic, str) else topic.name
        entry = HandlerJournal(name, pattern)
        journal.handlers[name] = entry

        async def journaled(event: Any, delivery: Delivery) -> None:
            _count(entry.begun, delivery.topic, event.event_id)
            try:
                await handler(event)
            except BaseException:
                journal.failed_count += 1
                raise
            _count(entry.handled, delivery.topic, event.event_id)
            journal.handled_count += 1
            publisher = journal.publishers.get(delivery.topic)
            if publisher is not None:
                publisher.last_handled_at = time.perf_counter()

        # Under its own name for tools that explain the bus. Not functools.wraps: the bus looks at signatures.
        journaled.__module__, journaled.__qualname__ = handler.__module__, handler.__qualname__
        if isinstance(topic, str):
            self._bus.subscribe(topic, journaled, name=name, ordered=ordered)
        else:
            self._bus.subscribe(topic, journaled, name=name, ordered=ordered)


def _count(counts: dict[str, dict[UUID, int]], topic: str, event_id: UUID) -> None:
    by_id = counts.get(topic)
    if by_id is None:
        by_id = counts[topic] = {}
    by_id[event_id] = by_id.get(event_id, 0) + 1
