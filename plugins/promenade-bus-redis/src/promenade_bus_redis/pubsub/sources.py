"""The subscriptions on the server: a channel or pattern of channels, with its consumers.

Each one tracks numbers separately. An event that matches two patterns arrives twice, once for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

import attrs

from bus_core import TopicPattern
from bus_core.errors import InvalidTopic
from bus_core.events import is_pattern
from promenade_bus_redis.pubsub.channels import Channels
from promenade_bus_redis.pubsub.consumer import PubsubConsumer
from promenade_bus_redis.pubsub.envelope import Announcement, Arrival, read_payload
from promenade_bus_redis.pubsub.gap_detector import Gap, GapDetector
from promenade_bus_redis.pubsub.misses import Misses
from promenade_bus_redis.server.failures import RedisFailure

__all__ = ["ChannelSource"]

_MOST_ROUTES = 10_000
"""The maximum number of channels with cached consumers; beyond it the cache is rebuilt."""


@attrs.frozen
class _Route:
    topic: str
    consumers: tuple[PubsubConsumer, ...]


class ChannelSource:
    """A channel or pattern of channels. ``connection`` is the connection that receives it, or 0."""

    def __init__(self, name: str, *, is_glob: bool, channels: Channels, misses: Misses) -> None:
        self.name = name
        self.is_glob = is_glob
        self.connection = 0
        self.is_asked = False
        self.joining: dict[PubsubConsumer, asyncio.Future[None]] = {}
        self.consumers: dict[PubsubConsumer, None] = {}
        self._channels = channels
        self._misses = misses
        self._gap_detector = GapDetector()
        self._routes: dict[bytes, _Route] = {}

    @property
    def is_wanted(self) -> bool:
        """True if a consumer listens or is about to."""
        return bool(self.consumers or self.joining)

    # --- who listens --------------------------------------------------------------------------------------

    def opened(self, connection: int) -> None:
        """Records that the server sends it on this connection."""
        self.connection = connection
        for consumer in self.consumers:
            consumer.recover()
        for consumer in [*self.joining]:
            self.admit(consumer)

    def admit(self, consumer: PubsubConsumer) -> None:
        """Records that a waiting consumer now receives everything."""
        done = self.joining.pop(consumer, None)
        if done is None or not self.connection:
            return
        consumer.joined = self.connection
        self.consumers[consumer] = None
        self._routes.clear()
        if not done.done():
            done.set_result(None)

    def refuse(self, consumer: PubsubConsumer, failure: RedisFailure) -> None:
        """Records that the server refused a waiting consumer."""
        done = self.joining.pop(consumer, None)
        if done is not None and not done.done():
            done.set_exception(failure)

    def failed(self, failure: RedisFailure) -> None:
        """Records that the server does not send it now."""
        self.connection = 0
        self.is_asked = False
        for consumer in self.consumers:
            consumer.fail(failure)
        for consumer in [*self.joining]:
            self.refuse(consumer, failure)

    def remove(self, consumer: PubsubConsumer) -> None:
        """Removes a consumer."""
        self.joining.pop(consumer, None)
        self.consumers.pop(consumer, None)
        self._routes.clear()

    # --- what comes ---------------------------------------------------------------------------------------

    def take(self, channel: bytes, payload: bytes, now: datetime) -> None:
        """Handles a payload that was published on a channel."""
        if not self.connection:
            return  # a message of an earlier subscription to the same name
        route = self._routes.get(channel) or self._find_route(channel)
        if not route.consumers:
            return
        topic, connection = route.topic, self.connection
        found = read_payload(topic, payload, now)
        if isinstance(found, Announcement):
            gap = self._gap_detector.hear_announced(topic, found.publisher, found.latest, connection)
        elif found.number:
            gap = self._gap_detector.hear(topic, found.publisher, found.number, connection)
        else:
            gap = None
        if gap is not None:
            self._count(gap, route)
        if isinstance(found, Arrival):
            for consumer in route.consumers:
                consumer.offer(found)

    def _count(self, gap: Gap, route: _Route) -> None:
        for consumer in route.consumers:
            if consumer.joined <= gap.since:  # the others joined later
                self._misses.add(gap.count, route.topic, consumer.spec.name, "not sent")

    def _find_route(self, channel: bytes) -> _Route:
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        topic = self._channels.topic(channel)
        if topic is None:
            return _NOBODY  # a foreign channel with the same prefix
        if not _is_topic(topic):
            self._misses.strange_channel()
            return _NOBODY
        route = self._routes[channel] = _Route(topic, (*self._interested(topic),))
        return route

    def _interested(self, topic: str) -> Iterator[PubsubConsumer]:
        for consumer in self.consumers:
            if consumer.pattern is None or consumer.pattern.matches(topic):
                yield consumer


def _is_topic(name: str) -> bool:
    with suppress(InvalidTopic):
        return not is_pattern(TopicPattern(name).text)
    return False


_NOBODY = _Route("", ())
