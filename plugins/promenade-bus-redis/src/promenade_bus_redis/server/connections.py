"""The connections of one adapter on one event loop: own connections of its parts, and a bounded pool.

A publisher and a blocking reader open their own connections (``open``); everything else borrows
(``call``, ``call_many``, ``borrow``). A thread with its own loop makes its own ``Connections``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

from promenade_bus_redis.addresses import Address
from promenade_bus_redis.config import RedisOptions, TlsOptions
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.link import Connector, Link, make_tls_context
from promenade_bus_redis.server.target import Target
from promenade_bus_redis.server.topology import ClusterNodes, OneServer, SentinelPrimary, Topology

__all__ = ["Connections", "make_connections"]


class Connections:
    """Opens, lends and closes connections. ``limit`` is the maximum number of lent and idle ones."""

    def __init__(self, connector: Connector, topology: Topology, limit: int) -> None:
        self.connector = connector
        self.topology = topology
        self._room = asyncio.Semaphore(limit)
        self._limit = limit
        self._lent: set[Link] = set()
        self._idle: deque[Link] = deque()  # the most recently used at the right
        self._opened: WeakSet[Link] = WeakSet()
        self._closed = False

    async def open(self, key: str = "", *, purpose: str = "", blocks: float = 0.0) -> Link:
        """Opens a connection of the caller's own to the server that takes writes for a key.

        The caller closes it. ``blocks`` is the time in seconds for which its commands may block on the
        server. Raises ``RedisFailure``.
        """
        address = await self.topology.find(key)
        return await self.open_to(address, purpose=purpose, blocks=blocks)

    async def open_to(self, address: Address, *, purpose: str = "", blocks: float = 0.0) -> Link:
        """Opens a connection of the caller's own to a given server; see ``open``."""
        try:
            link = await self.connector.open(address, purpose=purpose, blocks=blocks)
        except RedisFailure as failure:
            self.topology.learn(failure)
            raise
        self._opened.add(link)
        try:
            await self.topology.verify(link)
        except BaseException:
            link.abort()
            raise
        return link

    @asynccontextmanager
    async def borrow(self, key: str = "") -> AsyncIterator[Link]:
        """Lends a connection to the server that takes writes for a key, as soon as one is free."""
        address = await self.topology.find(key)
        async with self._borrow_from(address) as link:
            yield link

    async def call(self, *command: Any, key: str = "") -> Any:
        """Returns the reply to one command on a borrowed connection; raises ``RedisFailure``."""
        reply = (await self.call_many([command], key=key))[0]
        if isinstance(reply, RedisFailure):
            raise reply
        return reply

    async def call_many(self, commands: Sequence[Sequence[Any]], *, key: str = "") -> list[Any]:
        """Returns the replies to commands on keys of one slot; a failed command has a ``RedisFailure``.

        A command that a cluster node redirects is sent to the other node, once. Raises ``RedisFailure`` when
        there is no connection.
        """
        async with self.borrow(key) as link:
            replies = await link.call_many(commands)
        for index, reply in enumerate(replies):
            if not isinstance(reply, RedisFailure):
                continue
            self.topology.learn(reply)
            if reply.kind in (Kind.MOVED, Kind.ASK) and reply.moved_to is not None:  # within a cluster
                replies[index] = await self._call_elsewhere(commands[index], reply, link.address)
        return replies

    async def _call_elsewhere(self, command: Sequence[Any], told: RedisFailure, asked: Address) -> Any:
        assert told.moved_to is not None
        target = told.moved_to if told.moved_to.host else Address(asked.host, told.moved_to.port)
        first = [("ASKING",)] if told.kind is Kind.ASK else []
        async with self._borrow_from(target) as link:
            return (await link.call_many([*first, command]))[-1]

    @asynccontextmanager
    async def _borrow_from(self, address: Address) -> AsyncIterator[Link]:
        async with self._room:
            link = await self._idle_link(address) or await self.open_to(address, purpose="pool")
            self._lent.add(link)
            try:
                yield link
            except BaseException:
                link.abort()
                raise
            finally:
                self._lent.discard(link)
                if link.is_open and not self._closed:
                    self._idle.append(link)
                else:
                    link.abort()

    async def _idle_link(self, address: Address) -> Link | None:
        """Returns an idle connection that the server has not closed; makes room for a new one if needed."""
        for link in [*reversed(self._idle)]:
            if link.address == address and link in self._idle:
                self._idle.remove(link)
                if not await link.is_stale():
                    return link
                link.abort()
        while self._idle and len(self._idle) + len(self._lent) >= self._limit:
            await self._idle.popleft().close()
        return None

    async def close(self) -> None:
        """Closes lent and idle connections. Callers close the connections that they opened."""
        self._closed = True
        for link in self._lent:
            link.abort()
        while self._idle:
            await self._idle.popleft().close()

    def abort(self) -> None:
        """Ends all open connections, even those of callers, without waiting."""
        self._closed = True
        for link in [*self._opened]:
            link.abort()


def make_connections(target: Target, options: RedisOptions, *, name: str = "") -> Connections:
    """Makes the connections to a target, without connecting; raises ``AdapterError`` for invalid TLS files.

    ``name`` is the prefix of connection names in CLIENT LIST.
    """
    tls = make_tls_context(target.tls) if target.tls is not None else None
    limits: dict[str, Any] = {
        "connect_timeout": options.connect_timeout,
        "command_timeout": options.command_timeout,
        "name": name,
        "server_name": target.tls.server_name if target.tls is not None else None,
        "is_node": target.kind == "cluster",
    }
    connector = Connector(username=target.username, password=target.password, db=target.db, tls=tls, **limits)
    topology: Topology
    if target.kind == "sentinel":
        asking = Connector(
            username=target.sentinel_username,
            password=target.sentinel_password,
            tls=(tls or make_tls_context(TlsOptions())) if target.sentinel_tls else None,
            **limits,
        )
        topology = SentinelPrimary(asking, target.addresses, target.service)
    elif target.kind == "cluster":
        topology = ClusterNodes(connector, target.addresses)
    else:
        topology = OneServer(target.addresses[0])
    return Connections(connector, topology, target.pool_size)
