"""Notices that the server has lost its data: after FLUSHALL, or a restart without persistence.

A key says when the data began. It never changes while they are there; when it is gone, or another one, so is
everything else that was there. On a cluster it speaks for the node that has it.
"""

from __future__ import annotations

import secrets

from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.scripts import BEGIN
from promenade_bus_redis.streams.keys import Keys

__all__ = ["Epoch"]


class Epoch:
    """The key, and what it was when this instance started."""

    def __init__(self, pipe: Pipe, keys: Keys) -> None:
        self._pipe = pipe
        self._key = keys.epoch
        self._known: bytes | None = None

    async def has_ended(self) -> bool:
        """Whether the data are not those that were there before. Raises ``RedisFailure``."""
        found = await self._pipe.call("GET", self._key, key=self._key)
        if found is None:
            found = await self._pipe.run(BEGIN, [self._key], secrets.token_hex(8))
        before, self._known = self._known, found
        return before is not None and found != before
