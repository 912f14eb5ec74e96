"""The layout of the keys, and the detection of lost data, as after FLUSHALL.

A key holds the time at which the data began. It never changes while the data exist. If this marker is missing
or different, the server has lost its data. On a cluster this applies to the node with the key.
"""

from __future__ import annotations

import secrets
from typing import Final

from bus_core import AdapterError
from bus_core.runtime import printable
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.scripts import BEGIN
from promenade_bus_redis.streams.keys import Keys

__all__ = ["LAYOUT", "Epoch"]

LAYOUT: Final = 1
"""The number of the layout of keys and values that this code reads and writes."""


class Epoch:
    """The epoch key, and its value when this instance started."""

    def __init__(self, pipe: Pipe, keys: Keys) -> None:
        self._pipe = pipe
        self._keys = keys
        self._key = keys.epoch
        self._known: bytes | None = None

    async def check_layout(self) -> None:
        """Writes a missing layout. Raises ``AdapterError`` for another one, and ``RedisFailure``."""
        key = self._keys.layout
        found = await self._pipe.call("GET", key, key=key) or await self._pipe.run(BEGIN, [key], LAYOUT)
        if found != str(LAYOUT).encode():
            shown, prefix = printable(found.decode(errors="replace"), 20), self._keys.prefix
            raise AdapterError(
                f"the keys with the prefix {prefix!r} have the layout {shown}, but this version of "
                f"promenade-bus-redis has the layout {LAYOUT}: the two cannot share keys. Set another "
                f"bus.redis.prefix for this version, or stop the other one and delete the keys that begin "
                f"with '{prefix}:'"
            )

    async def has_ended(self) -> bool:
        """Returns True if the data of the start are gone. Raises ``RedisFailure``."""
        found = await self._pipe.call("GET", self._key, key=self._key)
        if found is None:
            await self.check_layout()
            found = await self._pipe.run(BEGIN, [self._key], secrets.token_hex(8))
        before, self._known = self._known, found
        return before is not None and found != before
