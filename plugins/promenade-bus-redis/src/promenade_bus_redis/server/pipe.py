"""Lets many tasks share a connection: commands issued while a batch is under way form the next batch.

There is one connection for each server, opened on first use and reopened after a failure. Everything except
publishing, blocking reads and the heartbeat uses it, so the number of connections does not grow with the
number of subscriptions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from hiredis import pack_command

from promenade_bus_redis.addresses import Address
from promenade_bus_redis.server.failures import Kind, RedisFailure, failure_of
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.scripts import Script, source_of

__all__ = ["Pipe", "Routed"]

Command = Sequence[Any]
Routed = tuple[str, Command]
"""A key, which selects the server, and a command."""

_MOST_AT_ONCE: Final = 2000
"""The maximum number of commands in one batch."""

_MOST_BYTES: Final = 1_000_000
"""The size in bytes at which a batch takes no further command."""


class Pipe:
    """Sends commands; each reply is a value, or the ``RedisFailure`` of that command."""

    def __init__(self, locator: NodeLocator) -> None:
        self._locator = locator
        self._node_pipes: dict[Address, _NodePipe] = {}
        self._closed = False

    async def call(self, *command: Any, key: str = "") -> Any:
        """Returns the reply to one command; raises ``RedisFailure``."""
        reply = (await self.call_many([(key, command)]))[0]
        if isinstance(reply, RedisFailure):
            raise reply
        return reply

    async def run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Returns the reply of a script; raises ``RedisFailure``."""
        return await self.call(*script.command(keys, arguments), key=keys[0])

    async def call_many(self, commands: Sequence[Routed]) -> list[Any]:
        """Returns the replies to commands; those for one server are sent together, in order. Never raises."""
        replies = await self._send(commands)
        seen_to = (Kind.NO_SCRIPT, Kind.MOVED, Kind.ASK) if self._locator.is_cluster else (Kind.NO_SCRIPT,)
        again = [
            index
            for index, reply in enumerate(replies)
            if isinstance(reply, RedisFailure) and reply.kind in seen_to
        ]
        for index in again:
            replies[index] = await self._send_again(commands[index], replies[index])
        return replies

    async def _send(self, commands: Sequence[Routed]) -> list[Any]:
        by_address: dict[Address, list[int]] = {}
        replies: list[Any] = [None] * len(commands)
        for index, (key, _command) in enumerate(commands):
            try:
                address = await self._locator.find(key)
            except RedisFailure as failure:
                replies[index] = failure
            else:
                by_address.setdefault(address, []).append(index)
        calls = [
            self._node_pipe(address).call_many([commands[index][1] for index in indices])
            for address, indices in by_address.items()
        ]
        answers = [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)
        for indices, answer in zip(by_address.values(), answers, strict=True):
            for index, reply in zip(indices, answer, strict=True):
                replies[index] = reply
        return replies

    async def ask_all(self, *command: Any) -> list[tuple[Address, Any]]:
        """Returns the reply, or the failure, of each server that takes writes. Raises ``RedisFailure``."""
        addresses = await self._locator.connections.topology.primaries()
        answers = await asyncio.gather(*(self._node_pipe(each).call_many([command]) for each in addresses))
        return [(address, answer[0]) for address, answer in zip(addresses, answers, strict=True)]

    def leave(self, failure: RedisFailure) -> None:
        """Uses new connections from now on: the current ones lead to a server that is not in charge."""
        self._locator.learn(failure)
        for lane in self._node_pipes.values():
            lane.leave()

    def _node_pipe(self, address: Address) -> _NodePipe:
        lane = self._node_pipes.get(address)
        if lane is None:
            lane = self._node_pipes[address] = _NodePipe(self._locator, address)
        return lane

    async def _send_again(self, routed: Routed, failure: RedisFailure) -> Any:
        """Repeats a command that the server refused for a reason that can be fixed."""
        key, command = routed
        if failure.kind is Kind.NO_SCRIPT:
            load = ("SCRIPT", "LOAD", source_of(command[1]))
            return (await self._send([(key, load), (key, command)]))[1]
        if failure.kind is Kind.ASK:
            try:
                return (await self._locator.connections.call_many([command], key=key))[0]
            except RedisFailure as other:
                return other
        return (await self._send([routed]))[0]  # the topology has learnt the new server

    async def close(self) -> None:
        """Finishes pending commands, and closes the connections."""
        lanes, self._node_pipes = [*self._node_pipes.values()], {}
        await asyncio.gather(*(lane.close() for lane in lanes))


class _CommandBatch:
    """Packed commands that are sent together, and the future of their replies."""

    __slots__ = ("commands", "done", "packed")

    def __init__(self, commands: Sequence[Command], packed: bytes, done: asyncio.Future[list[Any]]) -> None:
        self.commands = commands
        self.packed = packed
        self.done = done


class _NodePipe:
    """The pipe to one server."""

    def __init__(self, locator: NodeLocator, address: Address) -> None:
        self._locator = locator
        self._address = address
        self._waiting: deque[_CommandBatch] = deque()
        self._link: Link | None = None
        self._sending: asyncio.Task[None] | None = None

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        """Returns the replies. Large batches are sent in parts, so that others get their turn."""
        replies: list[Any] = []
        while commands:
            part, packed = _first_part(commands)
            commands = commands[len(part) :]
            if isinstance(packed, Exception):
                replies.append(failure_of(packed, self._address, sent=False))
                continue
            replies += await self._call_part(part, packed)
            if commands and isinstance(failure := replies[-1], RedisFailure) and failure.ends_connection:
                # The rest was not sent: it would fail in the same way, after the same time.
                rest = RedisFailure(failure.kind, failure.place, detail=failure.detail, uncertain=False)
                return [*replies, *(rest for _ in commands)]
        return replies

    async def _call_part(self, commands: Sequence[Command], packed: bytes) -> list[Any]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append(_CommandBatch(commands, packed, done))
        if self._sending is None:
            self._sending = loop.create_task(self._send_all(), name="promenade-redis-pipe")
            self._sending.add_done_callback(self._ended)
        # A cancelled caller's commands still run; the other callers get their replies.
        return await done

    async def _send_all(self) -> None:
        batch: list[_CommandBatch] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                replies = await self._replies(batch)
                begin = 0
                for part in batch:
                    if not part.done.done():
                        part.done.set_result(replies[begin : begin + len(part.commands)])
                    begin += len(part.commands)
                batch = []
        except Exception as error:  # a bug of the adapter: waiting callers get the error and may retry
            if self._link is not None:
                self._link.abort()
            waiting, self._waiting = [*batch, *self._waiting], deque()
            batch = []
            for part in waiting:
                if not part.done.done():
                    part.done.set_exception(error)
        except asyncio.CancelledError:  # a program has cancelled every task
            self._give_up(batch, uncertain=True)
            raise
        finally:
            self._sending = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Handles the end of the task, even if it was cancelled before its first step."""
        if self._sending is task:
            self._sending = None
        if task.cancelled() and self._sending is None:
            waiting, self._waiting = self._waiting, deque()
            self._give_up(waiting, uncertain=False)

    def _give_up(self, waiting: Iterable[_CommandBatch], *, uncertain: bool) -> None:
        for part in waiting:
            if not part.done.done():
                failure = RedisFailure(Kind.LOST, str(self._address), uncertain=uncertain)
                part.done.set_result([failure for _ in part.commands])

    def _next_batch(self) -> list[_CommandBatch]:
        batch: list[_CommandBatch] = []
        count = size = 0
        while self._waiting:
            part = self._waiting[0]
            count += len(part.commands)
            size += len(part.packed)
            if batch and (count > _MOST_AT_ONCE or size > _MOST_BYTES):
                break
            self._waiting.popleft()
            if not part.done.done():
                batch.append(part)
        return batch

    async def _replies(self, batch: Sequence[_CommandBatch]) -> list[Any]:
        commands = [command for part in batch for command in part.commands]
        if not commands:
            return []
        try:
            link = await self._usable_link()
        except RedisFailure as failure:
            self._locator.learn(failure)
            return [failure for _ in commands]
        replies = await link.send(b"".join([part.packed for part in batch]), commands)
        for reply in replies:
            if isinstance(reply, RedisFailure):
                self._locator.learn(reply)
        return replies

    async def _usable_link(self) -> Link:
        link = self._link
        if link is None or not link.is_usable:
            if link is not None:
                link.abort()
            self._link = None
            link = self._link = await self._locator.connections.open_to(self._address, purpose="commands")
        return link

    def leave(self) -> None:
        if self._sending is None and self._link is not None:  # a batch under way fails by itself
            self._link.abort()

    async def close(self) -> None:
        if self._sending is not None:
            await asyncio.wait((self._sending,))
        link, self._link = self._link, None
        if link is not None:
            await link.close()


def _first_part(commands: Sequence[Command]) -> tuple[Sequence[Command], bytes | Exception]:
    """Returns the commands that may be sent together, packed, or the first one and its packing error."""
    packed: list[bytes] = []
    size = 0
    for command in commands:
        try:
            one = pack_command(tuple(command))
        except Exception as error:
            if packed:
                break
            return commands[:1], error
        size += len(one)
        if packed and (size > _MOST_BYTES or len(packed) == _MOST_AT_ONCE):
            break
        packed.append(one)
    return (commands if len(packed) == len(commands) else commands[: len(packed)]), b"".join(packed)
