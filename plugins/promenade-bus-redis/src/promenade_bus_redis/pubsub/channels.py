"""The channels: one for each topic, ``{prefix}:pubsub:{topic}``; and what is subscribed to for a pattern.

Channels do not belong to a database: the prefix alone keeps buses on one server apart.

A pattern of the bus becomes one of the server, which selects the same topics and perhaps more; the rest is
left out here. A server takes a pattern only from a user who may use every channel, or to whom exactly this
pattern was given. Whoever may use the channels ``{prefix}:*`` may ask for ``{prefix}:*`` and nothing
narrower: he gets the events of every topic.
"""

from __future__ import annotations

from typing import Any

import attrs

from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import Kind, RedisFailure

__all__ = ["Channels", "may_narrow"]


@attrs.frozen
class Channels:
    """Makes the names. ``is_narrow``: patterns may be asked for as they are."""

    prefix: str
    is_narrow: bool = True

    @property
    def base(self) -> str:
        """What every channel begins with."""
        return f"{self.prefix}:pubsub:"

    @property
    def place(self) -> str:
        """What decides, on a cluster, which node everybody goes to: channels belong to no slot."""
        return f"{self.prefix}:pubsub"

    @property
    def widest(self) -> str:
        """The pattern that an ACL for this prefix allows."""
        return f"{self.prefix}:*"

    def of(self, topic: str) -> str:
        """The channel of a topic."""
        return self.base + topic

    def glob(self, pattern: str) -> str:
        """What the server is asked for instead of a pattern of the bus."""
        if not self.is_narrow:
            return self.widest
        words = pattern.split(".")
        # '#' stands for no word, too, and takes the dot beside it along.
        first = next((index for index, word in enumerate(words) if word == "#"), None)
        if first is None:
            return self.base + ".".join(words)
        return self.base + ".".join(words[:first]) + "*"

    def topic(self, channel: bytes) -> str | None:
        """The topic of a channel; None for a channel of somebody else."""
        try:
            text = channel.decode()
        except UnicodeDecodeError:
            return None
        return text[len(self.base) :] if text.startswith(self.base) else None


async def may_narrow(connections: Connections, channels: Channels) -> bool:
    """Whether this user may ask for patterns narrower than the prefix; raises ``RedisFailure``."""
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
