"""``mode: pubsub`` in tests: adapters on one prefix, and what somebody else publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bus_core import SystemClock
from bus_core.abc import BuildContext
from promenade_bus_redis.pubsub.adapter import PubsubAdapter
from promenade_bus_redis.pubsub.channels import Channels
from redis_support.connecting import make_options
from redis_support.fixtures import SharedServer
from redis_support.servers import Server
from redis_support.streams import TOPIC, message, spec

EACH = spec(mode="broadcast")


class Air:
    """One prefix on one server: adapters that publish and listen there."""

    def __init__(self, server: SharedServer | Server, prefix: str, address: str) -> None:
        self.server = server
        self.prefix = prefix
        self.address = address
        self.channels = Channels(prefix)
        self.adapters: list[PubsubAdapter] = []

    def options(self, address: str | None = None, **options: Any) -> dict[str, Any]:
        """Options of the adapter."""
        where = {} if {"cluster", "sentinel"} & {*options} else {"addr": address or self.address}
        return {**where, "prefix": self.prefix, "mode": "pubsub", **options}

    async def adapter(self, address: str | None = None, **options: Any) -> PubsubAdapter:
        """A started adapter, which is closed at the end of the test."""
        given = make_options(**self.options(address, **options))
        adapter = PubsubAdapter(given, BuildContext(service="tests", clock=SystemClock()))
        await adapter.start()
        self.adapters.append(adapter)
        return adapter

    async def publish(self, adapter: PubsubAdapter, *numbers: int, topic: str = TOPIC) -> None:
        """Publishes a message for each number."""
        results = await adapter.publish([message(number, topic) for number in numbers])
        assert results == [None] * len(numbers)

    async def close(self) -> None:
        """Closes every adapter."""
        for adapter in self.adapters:
            await adapter.close()


@asynccontextmanager
async def air_on(server: SharedServer | Server) -> AsyncIterator[Air]:
    """A prefix on a shared server, or on one of the test's own."""
    if isinstance(server, SharedServer):
        address = server.url.removeprefix("redis://").partition("/")[0]
        air = Air(server, server.prefix, address)
    else:
        air = Air(server, "bus", server.address)
    try:
        yield air
    finally:
        await air.close()
