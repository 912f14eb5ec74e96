"""Finds the server: a fixed one, the primary known to sentinels, or the cluster node of a slot.

A topology belongs to one event loop. It opens connections only for its own queries, and closes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from redis.crc import key_slot

from promenade_bus_redis.addresses import Address
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.link import Connector, Link

__all__ = ["ClusterNodes", "OneServer", "SentinelPrimary", "Topology"]

T = TypeVar("T")

SLOTS: Final = 16384


class Topology(Protocol):
    """Finds servers, and learns from failures."""

    async def find(self, key: str = "") -> Address:
        """Returns the known server that takes writes for a key; raises ``RedisFailure``."""
        ...

    async def primaries(self) -> tuple[Address, ...]:
        """Returns every server that takes writes."""
        ...

    def learn(self, failure: RedisFailure) -> None:
        """Learns from a failure that names the server in charge, or shows that one is not."""
        ...

    async def verify(self, link: Link) -> None:
        """Raises ``RedisFailure`` if a newly connected server is not the right one."""
        ...


class OneServer:
    """A server with a fixed address."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self, key: str = "") -> Address:
        return self._address

    async def primaries(self) -> tuple[Address, ...]:
        return (self._address,)

    def learn(self, failure: RedisFailure) -> None:
        pass

    async def verify(self, link: Link) -> None:
        pass


class SentinelPrimary:
    """The primary of a service; all sentinels are queried, and the first answer counts."""

    def __init__(self, connector: Connector, sentinels: Sequence[Address], service: str) -> None:
        self._connector = connector
        self._sentinels = tuple(sentinels)
        self._service = service

    async def find(self, key: str = "") -> Address:
        return await _first_answer(self._sentinels, self._ask, f"no sentinel knows {self._service!r}")

    async def primaries(self) -> tuple[Address, ...]:
        return (await self.find(),)

    def learn(self, failure: RedisFailure) -> None:
        pass  # it queries for every connection

    async def verify(self, link: Link) -> None:
        """Checks the role, because a sentinel may name the former primary for a while after a failover."""
        reply = (await link.call_many([("ROLE",)]))[0]
        if isinstance(reply, RedisFailure):
            if reply.kind is Kind.FORBIDDEN:
                return  # a write will fail
            raise reply
        if reply[0] != b"master":
            raise RedisFailure(Kind.READ_ONLY, str(link.address), command="ROLE")

    async def _ask(self, sentinel: Address) -> Address:
        link = await self._connector.open(sentinel, purpose="discovery")
        try:
            reply = await link.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        finally:
            await link.close()
        if reply is None:
            raise RedisFailure(
                Kind.REFUSED, str(sentinel), detail=f"it monitors no primary named {self._service!r}"
            )
        return Address(reply[0].decode(), int(reply[1]))


class ClusterNodes:
    """The nodes of a cluster and their slots. Failures that question the map cause a new read."""

    def __init__(self, connector: Connector, seeds: Sequence[Address]) -> None:
        self._connector = connector
        self._seeds = tuple(seeds)
        self._slots: list[Address | None] = [None] * SLOTS
        self._is_stale = True
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, key: str = "") -> Address:
        await self._refresh_if_stale()
        if not key:
            return (await self.primaries())[0]
        slot = key_slot(key.encode())
        address = self._slots[slot]
        if address is None:
            self._is_stale = True
            raise RedisFailure(
                Kind.CLUSTER_DOWN, ", ".join(map(str, self._seeds)), detail=f"no node serves slot {slot}"
            )
        return address

    async def primaries(self) -> tuple[Address, ...]:
        await self._refresh_if_stale()
        return tuple(dict.fromkeys(address for address in self._slots if address is not None))

    def learn(self, failure: RedisFailure) -> None:
        if failure.kind is Kind.MOVED and failure.slot is not None and failure.moved_to is not None:
            self._slots[failure.slot] = failure.moved_to
        if failure.questions_place:
            self._is_stale = True

    async def verify(self, link: Link) -> None:
        pass  # a node that does not serve a slot redirects

    async def _refresh_if_stale(self) -> None:
        """Reads the map once for all callers; a cancelled caller does not affect the others."""
        if not self._is_stale:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        known = [address for address in dict.fromkeys(self._slots) if address is not None]
        candidates = tuple(dict.fromkeys([*known, *self._seeds]))
        slots = await _first_answer(candidates, self._ask, "no node of the cluster replies")
        self._slots = slots
        self._is_stale = False

    async def _ask(self, node: Address) -> list[Address | None]:
        link = await self._connector.open(node, purpose="discovery")
        try:
            ranges = await link.call("CLUSTER", "SLOTS")
        finally:
            await link.close()
        if not ranges:
            raise RedisFailure(Kind.CLUSTER_DOWN, str(node), detail="it serves no slots")
        slots: list[Address | None] = [None] * SLOTS
        for begin, end, primary, *_replicas in ranges:
            # A node that does not know its own address sends no host; it is the queried node.
            host = primary[0].decode() if primary[0] else node.host
            slots[begin : end + 1] = [Address(host, int(primary[1]))] * (end - begin + 1)
        return slots


async def _first_answer(
    addresses: Sequence[Address], ask: Callable[[Address], Coroutine[Any, Any, T]], nobody: str
) -> T:
    """Queries all at once, because each may be slow or down; raises if none answers."""
    tasks = [asyncio.create_task(ask(address)) for address in addresses]
    failures: list[RedisFailure] = []
    try:
        for next_one in asyncio.as_completed(tasks):
            try:
                return await next_one
            except RedisFailure as failure:
                failures.append(failure)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    places = ", ".join(map(str, addresses))
    kinds = {failure.kind for failure in failures}
    kind = kinds.pop() if len(kinds) == 1 else Kind.UNREACHABLE
    reasons = "; ".join(str(failure) for failure in failures)
    raise RedisFailure(kind, places, detail=f"{nobody}: {reasons}", uncertain=False)
