"""What the parts of one adapter share."""

from __future__ import annotations

import attrs

from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.blocking_link import WaitingLink
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.places import Places
from promenade_bus_redis.streams.census import Census
from promenade_bus_redis.streams.epoch import Epoch
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.leases import Leases, Lock
from promenade_bus_redis.streams.losses import Ledger
from promenade_bus_redis.streams.stored_events import Accepted
from promenade_bus_redis.streams.topics import Registry
from promenade_bus_redis.streams.wakeups import Wakeups

__all__ = ["Services"]

MOST_OWN_LINKS = 4
"""Subscriptions that wait on a connection of their own; the others wait together."""


@attrs.define(eq=False)
class Services:
    """Made when the adapter starts.

    ``name`` is the consumer of this instance in all groups. Consumers whose names begin with ``inherited``
    were earlier instances of the same configured name: they are over, for ``name_lock`` is this one's.
    """

    options: RedisOptions
    keys: Keys
    name: str
    places: Places
    pipe: Pipe
    registry: Registry
    leases: Leases
    wakeups: Wakeups
    ledger: Ledger
    census: Census
    epoch: Epoch
    accepted: Accepted
    inherited: str = ""
    name_lock: Lock | None = None
    own_links: set[WaitingLink] = attrs.field(factory=set)
    counts_gaps: bool = True
    """Whether the server knows how many entries were ever added to a stream, as far as it was asked."""
    read_at: float | None = None
    """When a read was last answered, on the monotonic clock."""

    async def alive(self) -> frozenset[str]:
        """The names of the instances that live. Raises ``RedisFailure``."""
        key = self.keys.instances
        seconds, _ = await self.pipe.call("TIME", key=key)
        reply = await self.pipe.call("ZRANGEBYSCORE", key, f"({int(seconds) * 1000}", "+inf", key=key)
        return frozenset(name.decode(errors="replace") for name in reply) | {self.name}

    def lend_link(self, key: str) -> WaitingLink | None:
        """A connection for reads that wait, as long as there are not too many of them."""
        if len(self.own_links) >= MOST_OWN_LINKS:
            return None
        link = WaitingLink(self.places, self.pipe, self.options.block, key)
        self.own_links.add(link)
        return link

    async def give_back_link(self, link: WaitingLink) -> None:
        """Closes a connection that was lent."""
        self.own_links.discard(link)
        await link.close()
