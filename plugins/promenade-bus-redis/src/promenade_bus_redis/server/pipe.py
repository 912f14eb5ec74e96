"""Commands of many tasks share a connection: what is asked for while a batch is under way goes as the next.

One connection for each server, opened at the first use and again after it broke. Everything but publishing,
reads that wait, and the heartbeat goes through here, so that the number of connections does not grow with
the number of subscriptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from promenade_bus_redis.addresses import Address
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.places import Places
from promenade_bus_redis.server.scripts import Script, source_of

__all__ = ["Pipe", "Routed"]

Command = Sequence[Any]
Routed = tuple[str, Command]
"""A key, which says where to send it, and a command."""

_MOST_AT_ONCE = 2000
"""Commands in one batch."""


class Pipe:
    """Sends commands; each reply is a value, or the ``RedisFailure`` of that command."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lanes: dict[Address, _Lane] = {}
        self._closed = False

    async def call(self, *command: Any, key: str = "") -> Any:
        """The reply to one command; raises ``RedisFailure``."""
        reply = (await self.call_many([(key, command)]))[0]
        if isinstance(reply, RedisFailure):
            raise reply
        return reply

    async def run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """The answer of a script; raises ``RedisFailure``."""
        return await self.call(*script.command(keys, arguments), key=keys[0])

    async def call_many(self, commands: Sequence[Routed]) -> list[Any]:
        """The replies to commands, those to one server sent together and in order. Raises nothing else."""
        replies = await self._send(commands)
        seen_to = (Kind.NO_SCRIPT, Kind.MOVED, Kind.ASK) if self._places.is_cluster else (Kind.NO_SCRIPT,)
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
                address = await self._places.find(key)
            except RedisFailure as failure:
                replies[index] = failure
            else:
                by_address.setdefault(address, []).append(index)
        calls = [
            self._lane(address).call_many([commands[index][1] for index in indices])
            for address, indices in by_address.items()
        ]
        answers = [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)
        for indices, answer in zip(by_address.values(), answers, strict=True):
            for index, reply in zip(indices, answer, strict=True):
                replies[index] = reply
        return replies

    async def ask_all(self, *command: Any) -> list[tuple[Address, Any]]:
        """The reply of each server that takes writes, or its failure. Raises ``RedisFailure``."""
        addresses = await self._places.connections.topology.primaries()
        answers = await asyncio.gather(*(self._lane(each).call_many([command]) for each in addresses))
        return [(address, answer[0]) for address, answer in zip(addresses, answers, strict=True)]

    def leave(self, failure: RedisFailure) -> None:
        """Takes new connections from now on: those that there are lead to a server that is not in charge."""
        self._places.learn(failure)
        for lane in self._lanes.values():
            lane.leave()

    def _lane(self, address: Address) -> _Lane:
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = _Lane(self._places, address)
        return lane

    async def _send_again(self, routed: Routed, failure: RedisFailure) -> Any:
        """What the server refused to do, for a reason that can be seen to."""
        key, command = routed
        if failure.kind is Kind.NO_SCRIPT:
            load = ("SCRIPT", "LOAD", source_of(command[1]))
            return (await self._send([(key, load), (key, command)]))[1]
        if failure.kind is Kind.ASK:
            try:
                return (await self._places.connections.call_many([command], key=key))[0]
            except RedisFailure as other:
                return other
        return (await self._send([routed]))[0]  # the topology has learnt where it is now

    async def close(self) -> None:
        """Finishes what was asked for, and closes the connections."""
        lanes, self._lanes = [*self._lanes.values()], {}
        await asyncio.gather(*(lane.close() for lane in lanes))


class _Lane:
    """The commands to one server."""

    def __init__(self, places: Places, address: Address) -> None:
        self._places = places
        self._address = address
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._link: Link | None = None
        self._sending: asyncio.Task[None] | None = None

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((commands, done))
        if self._sending is None:
            self._sending = loop.create_task(self._send_all(), name="promenade-redis-pipe")
        # Whoever is cancelled leaves his commands to their fate; the others get their replies.
        return await done

    async def _send_all(self) -> None:
        batch: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                commands = [command for group, _ in batch for command in group]
                replies = await self._replies(commands)
                begin = 0
                for group, done in batch:
                    if not done.done():
                        done.set_result(replies[begin : begin + len(group)])
                    begin += len(group)
                batch = []
        except Exception as error:  # a fault of the adapter: whoever waits is told of it, and may try again
            if self._link is not None:
                self._link.abort()
            waiting, self._waiting = [*batch, *self._waiting], []
            batch = []
            for _, done in waiting:
                if not done.done():
                    done.set_exception(error)
        finally:
            self._sending = None
            for _, done in (*batch, *self._waiting):  # the loop is being closed
                done.cancel()

    def _next_batch(self) -> list[tuple[Sequence[Command], asyncio.Future[list[Any]]]]:
        batch: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0][0]) <= _MOST_AT_ONCE):
            group = self._waiting.pop(0)
            if not group[1].done():
                batch.append(group)
                size += len(group[0])
        return batch

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        try:
            link = await self._usable_link()
        except RedisFailure as failure:
            self._places.learn(failure)
            return [failure for _ in commands]
        replies = await link.call_many(commands)
        for reply in replies:
            if isinstance(reply, RedisFailure):
                self._places.learn(reply)
        return replies

    async def _usable_link(self) -> Link:
        link = self._link
        if link is None or not link.is_usable:
            if link is not None:
                link.abort()
            self._link = None
            link = self._link = await self._places.connections.open_to(self._address, purpose="commands")
        return link

    def leave(self) -> None:
        if self._sending is None and self._link is not None:  # whatever is under way finds out for itself
            self._link.abort()

    async def close(self) -> None:
        if self._sending is not None:
            await asyncio.wait((self._sending,))
        link, self._link = self._link, None
        if link is not None:
            await link.close()
