"""The layout of the keys, and whether the server has lost them, as after FLUSHALL.

A key says when the data began. It never changes while they are there; when it is gone, or another one, so is
everything else that was there. On a cluster it speaks for the node that has it.
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
    """The key, and what it was when this instance started."""

    def __init__(self, pipe: Pipe, keys: Keys) -> None:
        self._pipe = pipe
        self._keys = keys
        self._key = keys.epoch
        self._known: bytes | None = None

    async def check_layout(self) -> None:
        """Notes the layout where there is none. Raises ``AdapterError`` for another, and ``RedisFailure``."""
        key = self._keys.layout
        found = await self._pipe.call("GET", key, key=key) or await self._pipe.run(BEGIN, [key], LAYOUT)
        if found != str(LAYOUT).encode():
            shown, prefix = printable(found.decode(errors="replace"), 20), self._keys.prefix
            raise AdapterError(
                f"the keys under the prefix {prefix!r} have the layout {shown}, and this version of "
                f"promenade-bus-redis has the layout {LAYOUT}: the two cannot share them. Give this one a "
                f"bus.redis.prefix of its own, or end the other version and delete the keys that begin with "
                f"'{prefix}:'"
            )

    async def has_ended(self) -> bool:
        """Whether the data are not those that were there before. Raises ``RedisFailure``."""
        found = await self._pipe.call("GET", self._key, key=self._key)
        if found is None:
            await self.check_layout()
            found = await self._pipe.run(BEGIN, [self._key], secrets.token_hex(8))
        before, self._known = self._known, found
        return before is not None and found != before
