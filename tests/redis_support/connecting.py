"""Connections for tests, made from options as a configuration gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bus_core.config import read_settings
from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.connections import Connections, make_connections
from promenade_bus_redis.server.target import resolve_target


def make_options(**options: Any) -> RedisOptions:
    faults: list[str] = []
    read = read_settings(RedisOptions, options, "$.bus.redis", faults)
    assert read is not None, faults
    return read


@asynccontextmanager
async def connected(
    name: str = "", sections: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[Connections]:
    read = make_options(**options)
    connections = make_connections(resolve_target(read, sections or {}), read, name=name)
    try:
        yield connections
    finally:
        await connections.close()
