"""Blocking reads on the server, and their interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe

__all__ = ["BlockingLink"]

_SHORT: Final = 0.1
"""The block time in seconds of a read that cannot be ended early."""

_PAUSE: Final = 0.002


class BlockingLink:
    """A connection whose commands may block on the server for up to ``block`` seconds."""

    def __init__(self, locator: NodeLocator, pipe: Pipe, block: float, key: str) -> None:
        self._locator = locator
        self._pipe = pipe
        self._block = block
        self._key = key
        self._link: Link | None = None
        self._client_id: int | None = None
        self._may_interrupt = True
        self._is_waiting = False
        self._interrupting: asyncio.Task[None] | None = None

    @property
    def milliseconds(self) -> int:
        """The time that the next read may block."""
        return max(1, round((self._block if self._may_interrupt else min(self._block, _SHORT)) * 1000))

    async def call(self, command: Sequence[Any]) -> Any:
        """Returns the reply; raises ``RedisFailure``. Make one call at a time."""
        return (await self._call_many([command]))[-1]

    async def call_both(self, first: Sequence[Any], command: Sequence[Any]) -> tuple[Any, Any]:
        """Sends a command together with a blocking one, and returns both replies.

        The first reply may be a ``RedisFailure``. Raises ``RedisFailure`` for the second.
        """
        found, reply = await self._call_many([first, command])
        return found, reply

    async def _call_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        link = await self._usable_link()
        self._is_waiting = True
        try:
            replies = await link.call_many(commands)
        finally:
            self._is_waiting = False
        reply = replies[-1]
        if isinstance(reply, RedisFailure):
            self._locator.learn(reply)
            raise reply
        return replies

    async def _usable_link(self) -> Link:
        link = self._link
        if link is None or not link.is_usable:
            if link is not None:
                link.abort()
                self._link = None
            address = await self._locator.find(self._key)
            try:
                link = await self._locator.connections.open_to(address, purpose="wait", blocks=self._block)
            except RedisFailure as failure:
                self._locator.learn(failure)
                raise
            self._link = link
            reply = (await link.call_many([("CLIENT", "ID")]))[0]
            if isinstance(reply, RedisFailure):
                if not link.is_open:
                    self._locator.learn(reply)
                    raise reply
                self._may_interrupt = False
            else:
                self._client_id = reply
        return link

    def interrupt(self) -> None:
        """Ends the current blocking read soon, if there is one."""
        if self._is_waiting and self._interrupting is None:
            self._interrupting = asyncio.get_running_loop().create_task(
                self._interrupt(), name="promenade-redis-interrupt"
            )
            self._interrupting.add_done_callback(self._interrupted)

    async def _interrupt(self) -> None:
        """Repeats the interruption until the read is over: the server may not have the read yet."""
        while self._is_waiting and self._may_interrupt and self._client_id is not None:
            try:
                if await self._pipe.call("CLIENT", "UNBLOCK", self._client_id, key=self._key):
                    return
            except RedisFailure as failure:
                if failure.kind in (Kind.FORBIDDEN, Kind.UNKNOWN_COMMAND):
                    self._may_interrupt = False
                return
            await asyncio.sleep(_PAUSE)

    def _interrupted(self, _task: asyncio.Task[None]) -> None:
        self._interrupting = None

    async def close(self) -> None:
        """Closes the connection."""
        if self._interrupting is not None:
            await asyncio.wait((self._interrupting,))
        link, self._link = self._link, None
        if link is not None:
            await link.close()
