"""Publishing: one pipelined batch per call, on its own connection, with a result for each message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hiredis import pack_command

from bus_core import Message, PublishError, PublishFailed, PublishUncertain
from promenade_bus_redis.addresses import Address
from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.failures import Kind, RedisFailure, publish_error
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.stored_events import StoredEvents
from promenade_bus_redis.streams.topics import StoredTopics
from promenade_bus_redis.streams.wire import message_fields

__all__ = ["RedisPublisher"]

Fsync = Callable[[], bool]

MOST_BYTES: Final = 1_000_000
"""The maximum bytes of a part sent before its replies are read; a single event may be larger."""

_LEAST_BYTES: Final = 10_000


class _PublishBatch:
    """Commands that are sent together."""

    __slots__ = ("commands", "indices", "packed", "size")

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.commands: list[tuple[Any, ...]] = []
        self.packed: list[bytes] = []
        self.size = 0

    def add(self, index: int, command: tuple[Any, ...], packed: bytes) -> None:
        """Adds the command of a message."""
        self.indices.append(index)
        self.commands.append(command)
        self.packed.append(packed)
        self.size += len(packed)


class RedisPublisher:
    """Stores messages. If ``uses_waitaof``, it asks servers to sync after each batch."""

    def __init__(
        self,
        locator: NodeLocator,
        registry: StoredTopics,
        keys: Keys,
        options: RedisOptions,
        uses_waitaof: Fsync,
        stored_events: StoredEvents,
    ) -> None:
        self._locator = locator
        self._stored_events = stored_events
        self._registry = registry
        self._keys = keys
        self._uses_waitaof = uses_waitaof
        self._replicas = options.wanted_replicas
        self._durability = options.durability
        self._wait_seconds = options.wait_seconds if options.durability != "server" else 0.0
        self._patience = options.command_timeout + self._wait_seconds
        self._links: dict[Address, Link] = {}
        self._most_bytes = MOST_BYTES  # smaller after a batch that took too long

    async def publish(self, messages: Sequence[Message]) -> list[PublishError | None]:
        """Returns one result for each message: None, or an error from ``publish_error``."""
        results: list[PublishError | None] = [None] * len(messages)
        batches: dict[Address, list[int]] = {}
        batch_of = await self._batches([*{message.topic: None for message in messages}], batches)
        for index, message in enumerate(messages):
            batch = batch_of[message.topic]
            if isinstance(batch, RedisFailure):
                results[index] = publish_error(batch)
            else:
                batch.append(index)
        calls = [
            self._publish_to(address, indices, messages, results) for address, indices in batches.items()
        ]
        if len(calls) == 1:
            await calls[0]
        else:
            await asyncio.gather(*calls)
        return results

    async def _batches(
        self, topics: Sequence[str], batches: dict[Address, list[int]]
    ) -> Mapping[str, list[int] | RedisFailure]:
        """Returns for each topic the batch of its server, or the reason for not sending."""
        refused = await self._registry.know(topics)
        found: dict[str, list[int] | RedisFailure] = {}
        for topic in topics:
            failure = refused.get(topic)
            if failure is None:
                try:
                    address = await self._locator.find(self._keys.stream(topic))
                except RedisFailure as error:
                    failure = error
                else:
                    found[topic] = batches.setdefault(address, [])
                    continue
            found[topic] = failure
        return found

    async def _publish_to(
        self,
        address: Address,
        indices: Sequence[int],
        messages: Sequence[Message],
        results: list[PublishError | None],
    ) -> None:
        """Sends messages in parts, according to their sizes; unsent ones have definitely failed."""
        streams = {topic: self._keys.stream(topic) for topic in {message.topic for message in messages}}
        parts: list[_PublishBatch] = []
        part = _PublishBatch()
        for index in indices:
            message = messages[index]
            command: tuple[Any, ...] = ("XADD", streams[message.topic], "*", *message_fields(message))
            try:
                packed = pack_command(command)
            except (ValueError, TypeError) as error:
                results[index] = PublishFailed(
                    "the event was not sent: its key, its id or its headers have text that cannot be encoded "
                    f"({type(error).__name__})",
                    permanent=True,
                )
                continue
            if part.size and part.size + len(packed) > self._most_bytes:
                parts.append(part)
                part = _PublishBatch()
            part.add(index, command, packed)
        if part.size:
            parts.append(part)
        for number, each in enumerate(parts):
            failure = await self._publish_part(address, each, messages, streams, results)
            if failure is not None and failure.ends_connection:
                unsent = RedisFailure(failure.kind, failure.place, detail=failure.detail, uncertain=False)
                for index in (index for later in parts[number + 1 :] for index in later.indices):
                    results[index] = publish_error(unsent)
                return

    async def _publish_part(
        self,
        address: Address,
        part: _PublishBatch,
        messages: Sequence[Message],
        streams: Mapping[str, str],
        results: list[PublishError | None],
    ) -> RedisFailure | None:
        """Sends one part; returns the failure of its last command, or None."""
        waiting = self._waiting()
        replies = await self._replies(address, part, waiting)
        last = replies[-1]
        shortage = self._shortage(replies.pop()) if waiting else None
        refused = 0
        for index, command, reply in zip(part.indices, part.commands, replies, strict=True):
            if isinstance(reply, RedisFailure):
                refused += 1
                results[index] = await self._judge(messages[index], command, reply)
            else:
                results[index] = shortage
        if shortage is None and refused < len(replies):
            self._note(part.indices, messages, streams, replies, refused)
        if not isinstance(last, RedisFailure):
            self._most_bytes = min(2 * self._most_bytes, MOST_BYTES)
            return None
        if last.kind is Kind.TIMED_OUT:  # perhaps it was too large for this network
            self._most_bytes = max(part.size // 2, _LEAST_BYTES)
        return last

    def _note(
        self,
        indices: Sequence[int],
        messages: Sequence[Message],
        streams: Mapping[str, str],
        replies: Sequence[Any],
        refused: int,
    ) -> None:
        """Remembers the stored events."""
        topics: str | list[str]
        if len(streams) == 1:
            (topics,) = streams
        else:
            topics = [messages[index].topic for index in indices]
        if refused:
            stored = [place for place, reply in enumerate(replies) if not isinstance(reply, RedisFailure)]
            replies = [replies[place] for place in stored]
            topics = topics if isinstance(topics, str) else [topics[place] for place in stored]
        self._stored_events.note(topics, replies)

    def _waiting(self) -> tuple[Any, ...] | None:
        """Returns the command that waits for replicas or disks."""
        milliseconds = round(self._wait_seconds * 1000)
        if self._durability == "replicated":
            return ("WAIT", self._replicas, milliseconds)
        if self._durability == "fsync" and self._uses_waitaof():
            return ("WAITAOF", 1, 0, milliseconds)
        return None

    def _shortage(self, reply: Any) -> PublishUncertain | None:
        """Returns the error for messages that are stored with less durability than requested."""
        if isinstance(reply, RedisFailure):
            return PublishUncertain(f"the event is stored, but its durability is unknown: {reply}")
        if self._durability == "fsync":
            if reply[0] >= 1:
                return None
            return PublishUncertain(
                f"the event is stored, but was not on the server's disk within {self._wait_seconds:g} s"
            )
        if reply >= self._replicas:
            return None
        return PublishUncertain(
            f"the event is stored, but {reply} of {self._replicas} replicas had it within "
            f"{self._wait_seconds:g} s"
        )

    async def _judge(self, message: Message, command: Sequence[Any], failure: RedisFailure) -> Any:
        """Returns the result of a refused message; sends it to another node if the cluster says so."""
        self._locator.learn(failure)
        if failure.kind is Kind.ASK and self._durability == "server":
            key = self._keys.stream(message.topic)
            try:
                reply = (await self._locator.connections.call_many([command], key=key))[0]
            except RedisFailure as other:
                return publish_error(other)
            return publish_error(reply) if isinstance(reply, RedisFailure) else None
        return publish_error(failure)

    # --- the connection -----------------------------------------------------------------------------------

    async def _replies(
        self, address: Address, part: _PublishBatch, waiting: tuple[Any, ...] | None
    ) -> list[Any]:
        commands = [*part.commands, waiting] if waiting else part.commands
        link = self._links.get(address)
        if link is None or not link.is_usable:
            if link is not None:
                link.abort()
            try:
                link = self._links[address] = await self._locator.connections.open_to(
                    address, purpose="publish", blocks=self._wait_seconds
                )
            except RedisFailure as failure:
                self._locator.learn(failure)
                return [failure for _ in commands]
            self._stored_events.opened(link)
        packed = b"".join([*part.packed, pack_command(waiting)] if waiting else part.packed)
        return await link.send(packed, commands, self._patience)

    async def close(self) -> None:
        """Closes the connections."""
        links, self._links = [*self._links.values()], {}
        for link in links:
            await link.close()
