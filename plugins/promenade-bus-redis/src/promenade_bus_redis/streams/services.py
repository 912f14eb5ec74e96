"""The services that the parts of one adapter share."""

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
"""The number of subscriptions with their own blocking connection; the others share one."""


@attrs.define(eq=False)
class LockState:
    """The state of one key of a lock. ``token`` is 0 while another holder has it.

    ``session`` is the session of ``Leases`` of the last check; ``greatest_seen`` is the greatest token of
    another holder.
    """

    key: str
    holder: str
    token: int = 0
    session: int = NO_SESSION
    greatest_seen: int = 0


@attrs.define(eq=False)
class Services:
    """The shared services, made when the adapter starts.

    ``name`` is the name of this instance; ``name_lock`` is the lock of a configured name.
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
    """True if the server knows how many entries were ever added to a stream; None while unknown."""
    read_at: float | None = None
    """The time of the last reply to a read, on the monotonic clock."""
    _numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    def name_consumer(self, *, ordered: bool) -> str:
        """Returns a unique name for a consumer in its group."""
        return name_consumer(self.name, next(self._numbers), ordered=ordered)

    async def alive(self) -> frozenset[str]:
        """Returns the names of the live instances. Raises ``RedisFailure``."""
        return await self.leases.alive(self.pipe)

    def lend_link(self, key: str) -> BlockingLink | None:
        """Returns a connection for blocking reads, or None if too many are in use."""
        if len(self.own_links) >= MOST_OWN_LINKS:
            return None
        link = BlockingLink(self.locator, self.pipe, self.options.block, key)
        self.own_links.add(link)
        return link

    async def give_back_link(self, link: BlockingLink) -> None:
        """Closes a lent connection."""
        self.own_links.discard(link)
        await link.close()
