"""Where the scenarios take place: the servers, the way to them, and a look at what they keep."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import redis

from bus_core import AnyAdapter
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.keys import Keys
from redis_support.clusters import Cluster
from redis_support.proxy import FaultProxy
from redis_support.sentinels import SentinelGroup
from redis_support.servers import Server, Setting
from redis_support.stacked import Stacked

PREFIX = "bus"


class Site(Stacked):
    """The servers of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = Keys(PREFIX)

    def section(self, own: Mapping[str, Any], *, proxied: bool) -> dict[str, Any]:
        """The settings in the section ``bus`` that select the adapter; ``own`` are options of the adapter."""
        options = {
            "prefix": PREFIX,
            "block": 0.5,
            "connect_timeout": 2.0,
            "command_timeout": 2.0,
            "topic_refresh": 1.0,
            **self.options(proxied=proxied),
            **own,
        }
        return {"adapter": "redis", "redis": options}

    async def losses_of(self, adapter: AnyAdapter) -> int:
        """The number of events that the servers themselves have counted as lost."""
        assert isinstance(adapter, StreamsAdapter)
        return sum((await adapter.groups.losses()).values())

    def options(self, *, proxied: bool) -> dict[str, Any]:
        """Where the servers are, as options of the adapter."""
        raise NotImplementedError

    def server_for(self, key: str) -> Server:
        """Returns the server that has a key at the moment."""
        raise NotImplementedError

    def heal(self) -> None:
        """Ends whatever is still wrong."""

    # --- looking on, apart from the adapter ---------------------------------------------------------------

    def left(self, topic: str, group: str) -> int:
        """The unsettled entries of a group: unread, pending, come back, or waiting for a retry."""
        stream, inbox = self.keys.stream(topic), self.keys.inbox(topic, group)
        # What is in the streams need not be text.
        with self.server_for(stream).client(decode_responses=False) as client:
            total = int(client.zcard(self.keys.parked(topic, group)))  # type: ignore[arg-type]
            return total + self._left_on(client, stream, group) + self._left_on(client, inbox, group)

    def held(self, topic: str, group: str, pid: int) -> int:
        """The number of entries of a group that are pending for the process with that id."""
        total = 0
        for stream in (self.keys.stream(topic), self.keys.inbox(topic, group)):
            with self.server_for(stream).client() as client:
                consumers: Any = client.xinfo_consumers(stream, group)
                total += sum(each["pending"] for each in consumers if f"-{pid}-" in each["name"])
        return total

    @staticmethod
    def _left_on(client: redis.Redis, stream: str, group: str) -> int:
        try:
            groups: Any = client.xinfo_groups(stream)
        except redis.ResponseError:  # there is no such stream
            return 0
        found = [facts for facts in groups if facts["name"] == group.encode()]
        if not found:
            return int(client.xlen(stream))  # type: ignore[arg-type]
        unread = found[0].get("lag")
        if unread is None:
            begin = b"(" + found[0]["last-delivered-id"]
            entries: Any = client.xrange(stream, begin, "+", 1000)
            unread = len(entries)
        return int(found[0]["pending"]) + int(unread)


class OneServer(Site):
    """One server, and a proxy before it. ``settings`` are directives of its configuration."""

    def __init__(self, settings: Mapping[str, Setting] | None = None) -> None:
        super().__init__()
        self._settings = settings
        self.server: Server
        self.proxy: FaultProxy

    def open(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(Server(settings=self._settings))
        self.proxy = stack.enter_context(FaultProxy((self.server.host, self.server.port)))

    def options(self, *, proxied: bool) -> dict[str, Any]:
        return {"addr": self.proxy.address if proxied else self.server.address}

    def server_for(self, key: str) -> Server:
        return self.server

    def heal(self) -> None:
        self.proxy.heal()
        if not self.server.is_running:
            self.server.restart()


class Sentinels(Site):
    """A primary with a replica, and three sentinels."""

    def __init__(self) -> None:
        super().__init__()
        self.group: SentinelGroup

    def open(self, stack: ExitStack) -> None:
        self.group = stack.enter_context(SentinelGroup(replicas=2))

    def options(self, *, proxied: bool) -> dict[str, Any]:
        return {"sentinel": {"addresses": self.group.addresses, "service": self.group.service}}

    def server_for(self, key: str) -> Server:
        return self.group.primary()


class OfCluster(Site):
    """Three primaries that share the slots, which keep them over a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster: Cluster

    def open(self, stack: ExitStack) -> None:
        self.cluster = stack.enter_context(Cluster(settings={"appendonly": "yes"}))

    def options(self, *, proxied: bool) -> dict[str, Any]:
        return {"cluster": self.cluster.addresses}

    def server_for(self, key: str) -> Server:
        return self.cluster.owner_of(key)

    def heal(self) -> None:
        for server in self.cluster.servers:
            if not server.is_running:
                server.restart()
