"""The channels, ``{prefix}:pubsub:{topic}`` for each topic, and patterns of channels.

Channels do not belong to a database, so only the prefix separates buses on one server.

A pattern of the bus becomes a pattern of the server, which may match more topics; the adapter ignores the
others. A server accepts a pattern only from a user who may use every channel, or exactly this pattern. A user
who may use ``{prefix}:*`` may subscribe only to ``{prefix}:*``, and not to narrower patterns, and so receives
the events of every topic.
"""

from __future__ import annotations

from typing import Any

import attrs

from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import Kind, RedisFailure

__all__ = ["Channels", "may_narrow"]


@attrs.frozen
class Channels:
    """Makes the names. ``is_narrow`` is true if the user may subscribe to narrow patterns."""

    prefix: str
    is_narrow: bool = True

    @property
    def base(self) -> str:
        """The prefix of every channel."""
        return f"{self.prefix}:pubsub:"

    @property
    def place(self) -> str:
        """The key that selects one node of a cluster for all processes; channels have no slot."""
        return f"{self.prefix}:pubsub"

    @property
    def widest(self) -> str:
        """The pattern that an ACL for this prefix allows."""
        return f"{self.prefix}:*"

    def of(self, topic: str) -> str:
        """Returns the channel of a topic."""
        return self.base + topic

    def glob(self, pattern: str) -> str:
        """Returns the server's pattern for a pattern of the bus."""
        if not self.is_narrow:
            return self.widest
        words = pattern.split(".")
        # '#' also matches no word, and then the adjacent dot is missing.
        first = next((index for index, word in enumerate(words) if word == "#"), None)
        if first is None:
            return self.base + ".".join(words)
        return self.base + ".".join(words[:first]) + "*"

    def topic(self, channel: bytes) -> str | None:
        """Returns the topic of a channel, or None for a foreign channel."""
        try:
            text = channel.decode()
        except UnicodeDecodeError:
            return None
        return text[len(self.base) :] if text.startswith(self.base) else None


async def may_narrow(connections: Connections, channels: Channels) -> bool:
    """Returns True if this user may subscribe to narrow patterns; raises ``RedisFailure``."""
    link = await connections.open(channels.place, purpose="check")
    glob = channels.of("check-*")
    try:
        replies: list[Any] = await link.call_many([("PSUBSCRIBE", glob), ("PUNSUBSCRIBE", glob)])
    finally:
        link.abort()
    for reply in replies:
        if isinstance(reply, RedisFailure):
            if reply.kind is Kind.FORBIDDEN:
                return False
            raise reply
    return True
