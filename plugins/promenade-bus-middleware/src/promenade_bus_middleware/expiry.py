"""Skips events that are too old, and counts them.

An event is expired from the time in its ``expirytime``, an extension attribute of CloudEvents, or else from
the configured age on. In the publish chain the middleware writes that time into events with a limit.

Guarantees. The time is checked before each attempt, retries included, and not while a handler runs. A skipped
event is settled like a handled one, so it is no dead letter. If the process is killed before that, the event
is delivered, skipped and counted again. Counts are of this process. Clocks of publishers and consumers have
to agree, because the time was made on the publisher's clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from bus_core import Clock, Envelope, Handler, TopicPattern, WatchedMiddleware
from bus_core.runtime import plain_logger
from promenade_bus_middleware.attributes import attribute_of
from promenade_bus_middleware.config import ExpiryOptions

__all__ = ["Expiry"]

logger = plain_logger("promenade.bus.events")

EXPIRED: Final = "expired"
UNREADABLE: Final = "unreadable expirytime"

_LONGEST: Final = 64
"""The most characters of a time."""


_MOST_TOPICS: Final = 10_000


class Expiry(WatchedMiddleware):
    """The middleware ``expiry``."""

    def __init__(self, options: ExpiryOptions, clock: Clock) -> None:
        self._header = options.header
        self._limit = options.limit
        self._of_subscription = options.subscriptions
        patterns = [TopicPattern(text) for text in options.topics]
        self._of_pattern = [
            (pattern, options.topics[pattern.text])
            for pattern in sorted(patterns, key=lambda pattern: pattern.specificity, reverse=True)
        ]
        self._of_topic: dict[str, float | None] = {}
        self._now = clock.now
        self._counts: Counter[tuple[str, str]] = Counter()

    def counts(self) -> Mapping[tuple[str, str], int]:
        return self._counts

    def __call__(self, handler: Handler) -> Handler:
        async def unless_expired(envelope: Envelope) -> None:
            if envelope.delivery is None:
                self._stamp(envelope)
            elif self._is_expired(envelope, envelope.delivery.subscription):
                return
            await handler(envelope)

        return unless_expired

    def _stamp(self, envelope: Envelope) -> None:
        limit = self._limit_of(envelope.topic)
        if limit is None or self._header in envelope.headers:
            return
        with suppress(OverflowError):  # a time after the year 9999 is none
            expires = envelope.event.occurred_at.astimezone(UTC) + timedelta(seconds=limit)
            envelope.headers[self._header] = expires.isoformat().replace("+00:00", "Z")

    def _is_expired(self, envelope: Envelope, subscription: str) -> bool:
        """True for an event to skip, which is then counted."""
        now, expires = self._now(), self._time_in(envelope, subscription)
        if expires is None:
            limit = self._of_subscription.get(subscription)
            if limit is None:
                limit = self._limit_of(envelope.topic)
            if limit is None:
                return False
            is_over = (now - envelope.event.occurred_at).total_seconds() >= limit
        else:
            is_over = now >= expires
        if is_over:
            self._count(envelope, subscription, EXPIRED)
        return is_over

    def _time_in(self, envelope: Envelope, subscription: str) -> datetime | None:
        """The time in the event; None without a readable one."""
        text = attribute_of(envelope, self._header)
        if text is None:
            return None
        try:
            found = datetime.fromisoformat(text) if len(text) <= _LONGEST else None
        except ValueError:
            found = None
        if found is None or found.utcoffset() is None:
            self._count(envelope, subscription, UNREADABLE)
            return None
        return found

    def _limit_of(self, topic: str) -> float | None:
        try:
            return self._of_topic[topic]
        except KeyError:
            found = next((age for pattern, age in self._of_pattern if pattern.matches(topic)), self._limit)
            if len(self._of_topic) < _MOST_TOPICS:
                self._of_topic[topic] = found
            return found

    def _count(self, envelope: Envelope, subscription: str, outcome: str) -> None:
        """Counts an event, and logs the first one of a subscription."""
        self._counts[subscription, outcome] += 1
        if self._counts[subscription, outcome] > 1:
            return
        logger.warning(
            "%s: event_id=%s topic=%s subscription=%s; %s, and further ones are only counted (see health)",
            outcome,
            str(envelope.event.event_id),
            envelope.topic,
            subscription,
            "it is skipped" if outcome == EXPIRED else "the limit of its age applies instead",
        )
