"""What the parts of one adapter share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import attrs

from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.blocking_link import BlockingLink
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.streams.epoch import Epoch
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.leases import NO_SESSION, Leases
from promenade_bus_redis.streams.losses import Losses
from promenade_bus_redis.streams.names import name_consumer
from promenade_bus_redis.streams.service_records import ServiceRecords
from promenade_bus_redis.streams.stored_events import StoredEvents
from promenade_bus_redis.streams.topics import StoredTopics
from promenade_bus_redis.streams.wakeups import Wakeups

__all__ = ["LockState", "Services"]

MOST_OWN_LINKS = 4
"""Subscriptions that wait on a connection of their own; the others wait together."""


@attrs.define(eq=False)
class LockState:
    """A key that one ``holder`` has at a time. ``token`` is 0 while that is another one.

    ``session`` is that of ``Leases`` in which it was last looked at; ``greatest_seen`` a token that somebody
    else has shown.
    """

    key: str
    holder: str
    token: int = 0
    session: int = NO_SESSION
    greatest_seen: int = 0


@attrs.define(eq=False)
class Services:
    """Made when the adapter starts.

    ``name`` is that of this instance; ``name_lock`` stands for the name that is configured, if one is.
    """

    options: RedisOptions
    keys: Keys
    name: str
    locator: NodeLocator
    pipe: Pipe
    registry: StoredTopics
    leases: Leases
    wakeups: Wakeups
    losses: Losses
    records: ServiceRecords
    epoch: Epoch
    stored_events: StoredEvents
    name_lock: LockState | None = None
    own_links: set[BlockingLink] = attrs.field(factory=set)
    counts_gaps: bool = True
    """Whether the server knows how many entries were ever added to a stream, as far as it was asked."""
    read_at: float | None = None
    """When a read was last answered, on the monotonic clock."""
    _numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    def name_consumer(self, *, ordered: bool) -> str:
        """A name for a consumer in its group, which no other one has."""
        return name_consumer(self.name, next(self._numbers), ordered=ordered)

    async def alive(self) -> frozenset[str]:
        """The names of the instances that live. Raises ``RedisFailure``."""
        return await self.leases.alive(self.pipe)

    def lend_link(self, key: str) -> BlockingLink | None:
        """A connection for reads that wait, as long as there are not too many of them."""
        if len(self.own_links) >= MOST_OWN_LINKS:
            return None
        link = BlockingLink(self.locator, self.pipe, self.options.block, key)
        self.own_links.add(link)
        return link

    async def give_back_link(self, link: BlockingLink) -> None:
        """Closes a connection that was lent."""
        self.own_links.discard(link)
        await link.close()
