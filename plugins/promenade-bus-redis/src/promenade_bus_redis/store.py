"""The store ``redis`` for middleware: claims, marks and token buckets that all instances share.

Each key is one string with a time to live, ``{prefix}:store:{key}``. The server's clock decides. What the
server loses, such as in a restart without an append-only file, is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from bus_core import AdapterError, BuildContext
from bus_core.config import read_settings
from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.connections import Connections, make_connections
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.scripts import STORE_CLAIM, STORE_RELEASE, STORE_TAKE
from promenade_bus_redis.server.target import check_options, resolve_target

__all__ = ["OWN_SECTION", "RedisStore", "store_faults"]

OWN_SECTION: Final = "bus.redis"

_State = Literal["mine", "taken", "marked"]

_STATES: Final[Mapping[int, _State]] = {1: "mine", 0: "taken", -1: "marked"}


def store_faults(sections: Mapping[str, Any]) -> list[str]:
    """The faults of the sections, also where the bus uses another adapter."""
    faults: list[str] = []
    options = _options_in(sections, faults)
    return [*faults, *check_options(options, sections)]


def _options_in(sections: Mapping[str, Any], faults: list[str]) -> RedisOptions | None:
    return read_settings(RedisOptions, sections.get(OWN_SECTION) or {}, f"$.{OWN_SECTION}", faults)


class RedisStore:
    """Implements ``bus_core.Store`` and ``bus_core.abc.BoundedStore``. Calls raise ``RedisFailure``, an ``AdapterError``."""

    def __init__(self, context: BuildContext) -> None:
        options = _options_in(context.sections, [])
        assert options is not None, "the sections were checked"
        self._options = options
        self._target = resolve_target(options, context.sections)
        self._service = context.service
        self._prefix = f"{options.prefix}:store:"
        self._connections: Connections | None = None
        self._pipe: Pipe | None = None

    @property
    def forgotten(self) -> int:
        """Always 0. A server with an evicting policy drops marks without a count: use ``noeviction``."""
        return 0

    async def start(self) -> None:
        """Prepares the connections. They are opened by the first call."""
        self._connections = make_connections(self._target, self._options, name=f"{self._service}-store")
        self._pipe = Pipe(NodeLocator(self._connections))

    async def close(self) -> None:
        """Finishes running calls, and closes the connections."""
        pipe, connections = self._pipe, self._connections
        self._pipe = self._connections = None
        if pipe is not None and connections is not None:
            await pipe.close()
            await connections.close()

    async def claim(self, key: str, owner: str, seconds: float) -> _State:
        """See ``bus_core.Store``."""
        reply = await self._running.run(STORE_CLAIM, [self._prefix + key], owner, _milliseconds(seconds))
        return _STATES[int(reply)]

    async def mark(self, key: str, seconds: float) -> None:
        """See ``bus_core.Store``."""
        name = self._prefix + key
        await self._running.call("SET", name, "marked", "PX", _milliseconds(seconds), key=name)

    async def release(self, key: str, owner: str) -> None:
        """See ``bus_core.Store``."""
        await self._running.run(STORE_RELEASE, [self._prefix + key], owner)

    async def take(self, key: str, rate: float, burst: int) -> float:
        """See ``bus_core.Store``."""
        return await self._take(key, rate, burst)

    async def take_within(self, key: str, rate: float, burst: int, longest: float) -> float:
        """See ``bus_core.abc.BoundedStore``."""
        return await self._take(key, rate, burst, f"{longest * 1_000_000:.0f}")

    async def _take(self, key: str, rate: float, burst: int, *longest: str) -> float:
        interval = f"{1_000_000 / rate:.3f}"
        reply = await self._running.run(STORE_TAKE, [self._prefix + key], interval, burst, *longest)
        return int(reply) / 1_000_000

    @property
    def _running(self) -> Pipe:
        if self._pipe is None:
            raise AdapterError("the store 'redis' is not started")
        return self._pipe


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
