"""The server for each key, cached until a failure suggests a change."""

from __future__ import annotations

from promenade_bus_redis.addresses import Address
from promenade_bus_redis.server.connections import Connections
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.topology import ClusterNodes

__all__ = ["NodeLocator"]


class NodeLocator:
    """Queries the topology rarely, because sentinels are queried over the network."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.is_cluster = isinstance(connections.topology, ClusterNodes)
        self._primary: Address | None = None

    async def find(self, key: str) -> Address:
        """Returns the server that takes writes for a key; raises ``RedisFailure``."""
        if self.is_cluster:
            return await self.connections.topology.find(key)
        if self._primary is None:
            self._primary = await self.connections.topology.find(key)
        return self._primary

    def learn(self, failure: RedisFailure) -> None:
        """Learns from a failure."""
        self.connections.topology.learn(failure)
        if failure.questions_place:
            self._primary = None
