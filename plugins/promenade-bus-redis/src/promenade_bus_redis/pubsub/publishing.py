"""Publishing: one pipelined batch per call, with numbered events, and announcements while idle.

The reply to PUBLISH is the number of connections that received the event. It guarantees nothing: an event
without a listener is accepted like any other, and counted as ``unheard``.

A replica accepts PUBLISH, too, and passes the event only to its own listeners. A former primary behind a
fixed address would receive every event for ever. So the publisher checks the role at intervals, and counts
events published since the last check that found a primary as ``strayed``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import attrs
from hiredis import pack_command

from bus_core import Clock, Message, PublishError, PublishFailed, PublishUncertain
from bus_core.runtime import BackgroundTask, Trouble, counted, plain_logger
from promenade_bus_redis.addresses import Address
from promenade_bus_redis.pubsub.channels import Channels
from promenade_bus_redis.pubsub.envelope import encode_announcement, encode_event
from promenade_bus_redis.server.checks import is_replica, parse_info
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe, Routed

__all__ = ["PubsubPublisher"]

_TIMES: Final = 7
"""The number of announcements of an idle publisher, each after twice the pause."""

_AT_ONCE: Final = 500

_ROLE: Final = ("INFO", "replication")

_SURE: Final = 0.5
"""Seconds for which a checked server counts as the primary."""

logger = plain_logger("promenade.bus.redis")


@attrs.define
class _Quiet:
    """A topic on which this publisher is idle, and the number of its last event."""

    latest: int
    due: float
    pause: float
    left: int = _TIMES


class PubsubPublisher:
    """Publishes. ``announce`` is the first pause before an announcement; ``patience`` limits a batch."""

    def __init__(
        self,
        locator: NodeLocator,
        pipe: Pipe,
        channels: Channels,
        clock: Clock,
        *,
        announce: float,
        patience: float,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.published = 0
        self.unheard = 0
        self.strayed = 0
        self.trouble = Trouble("the announcements of the Redis adapter")
        self._locator = locator
        self._pipe = pipe
        self._channels = channels
        self._clock = clock
        self._announce = announce
        self._patience = patience
        self._numbers: dict[str, int] = {}
        self._quiet: dict[str, _Quiet] = {}
        self._published_some = asyncio.Event()
        self._link: Link | None = None
        self._sure_at = -_SURE
        self._since_sure = 0  # events published since
        self._announcing = BackgroundTask(self._announce_all, "promenade-redis-announce")

    def start(self) -> None:
        """Starts the announcements."""
        self._announcing.start()

    # --- events -------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> list[PublishError | None]:
        """Returns one result for each message, as ``bus_core.Adapter`` defines."""
        results: list[PublishError | None] = [None] * len(messages)
        now = int(self._clock.now().timestamp() * 1000)
        sent: list[int] = []
        numbers: list[int] = []
        commands: list[tuple[Any, ...]] = []
        for index, message in enumerate(messages):
            number = self._numbers.get(message.topic, 0) + 1
            try:
                payload = encode_event(message, self.id, number, now)
            except UnicodeEncodeError:
                results[index] = PublishFailed(
                    "the event was not sent: its key or its headers contain text that cannot be encoded",
                    permanent=True,
                )
                continue
            self._numbers[message.topic] = number
            sent.append(index)
            numbers.append(number)
            commands.append(("PUBLISH", self._channels.of(message.topic), payload))
        replies = await self._replies(commands) if commands else []
        self._take_back_numbers([messages[index].topic for index in sent], replies)
        for index, number, reply in zip(sent, numbers, replies, strict=True):
            if isinstance(reply, RedisFailure):
                results[index] = _publish_error(reply)
            else:
                self._was_published(messages[index].topic, number, reply)
        return results

    def _take_back_numbers(self, topics: Sequence[str], replies: Sequence[Any]) -> None:
        """Reuses the numbers of events that were definitely not sent, to avoid gaps."""
        done: set[str] = set()
        for topic, reply in zip(reversed(topics), reversed(replies), strict=True):
            if topic in done:
                continue
            if isinstance(reply, RedisFailure) and not reply.is_uncertain:
                self._numbers[topic] -= 1
            else:
                done.add(topic)

    def _was_published(self, topic: str, number: int, receivers: int) -> None:
        self.published += 1
        self._since_sure += 1
        self.unheard += not receivers
        due = asyncio.get_running_loop().time() + self._announce
        quiet = self._quiet.get(topic)
        if quiet is None:
            self._quiet[topic] = _Quiet(number, due, self._announce)
            self._published_some.set()
        else:
            quiet.latest, quiet.due, quiet.pause, quiet.left = number, due, self._announce, _TIMES

    async def _replies(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        try:
            link = await self._usable_link()
        except RedisFailure as failure:
            self._locator.learn(failure)
            return [failure for _ in commands]
        packed = b"".join([pack_command(command) for command in commands])
        replies = await link.send(packed, commands, self._patience)
        for reply in replies:
            if isinstance(reply, RedisFailure):
                self._locator.learn(reply)
        return replies

    async def _usable_link(self) -> Link:
        address: Address = await self._locator.find(self._channels.place)
        link = self._link
        is_right = link is not None and link.is_usable and link.address == address
        if link is not None and is_right and not await self._is_former_primary(link):
            return link
        if link is not None:
            link.abort()
        self._link = None
        link = self._link = await self._locator.connections.open_to(address, purpose="publish")
        self._sure_at = -_SURE
        if await self._is_former_primary(link):
            raise RedisFailure(Kind.READ_ONLY, str(address), command="INFO")
        return link

    async def _is_former_primary(self, link: Link) -> bool:
        """Checks the role; returns True, and closes the connection, if it is not the primary."""
        now = time.monotonic()
        if self._locator.is_cluster or now - self._sure_at < _SURE:
            return False  # the nodes of a cluster forward published events to each other
        reply = (await link.call_many([_ROLE]))[0]
        if not link.is_usable or (isinstance(reply, bytes) and is_replica(parse_info(reply))):
            link.abort()
            self._tell_strayed(link.address)
            return True
        self._sure_at, self._since_sure = now, 0
        return False

    def _tell_strayed(self, address: Address) -> None:
        count, self._since_sure = self._since_sure, 0
        if count:
            self.strayed += count
            logger.error(
                "%s may have had no listener: the server was a former primary (place=%s)",
                counted(count, "event"),
                address,
            )

    # --- announcements ------------------------------------------------------------------------------------

    async def _announce_all(self) -> None:
        while True:
            if not self._quiet:
                self._published_some.clear()
                await self._published_some.wait()
            await asyncio.sleep(self._announce / 2)
            now = asyncio.get_running_loop().time()
            due = [topic for topic, quiet in self._quiet.items() if quiet.due <= now]
            try:
                for first in range(0, len(due), _AT_ONCE):
                    await self._announce_some(due[first : first + _AT_ONCE])
            except Exception as error:
                self.trouble.failed("be made", error)
            else:
                self.trouble.over()

    async def _announce_some(self, topics: Sequence[str]) -> None:
        place = self._channels.place
        if not self._locator.is_cluster and is_replica(parse_info(await self._pipe.call(*_ROLE, key=place))):
            failure = RedisFailure(Kind.READ_ONLY, place, command="PUBLISH")
            self._pipe.leave(failure)
            raise failure
        said = [self._quiet[topic].latest for topic in topics]
        replies = await self._pipe.call_many([self._announcement(topic) for topic in topics])
        now = asyncio.get_running_loop().time()
        for topic, latest, reply in zip(topics, said, replies, strict=True):
            quiet = self._quiet[topic]
            if isinstance(reply, RedisFailure) or quiet.latest != latest:
                continue  # it is repeated, or replaced by a newer one
            quiet.left -= 1
            quiet.pause *= 2
            quiet.due = now + quiet.pause
            if not quiet.left:
                del self._quiet[topic]

    def _announcement(self, topic: str) -> Routed:
        payload = encode_announcement(self.id, self._quiet[topic].latest)
        return self._channels.place, ("PUBLISH", self._channels.of(topic), payload)

    async def close(self) -> None:
        """Announces the latest numbers a last time, and closes the connection."""
        await self._announcing.end()
        link, self._link = self._link, None
        if link is None:
            return
        if link.is_usable:
            topics = [*self._quiet]
            commands = [self._announcement(topic)[1] for topic in topics]
            for first in range(0, len(commands), _AT_ONCE):
                await link.call_many(commands[first : first + _AT_ONCE])
        await link.close()


def _publish_error(failure: RedisFailure) -> PublishFailed | PublishUncertain:
    """Returns the error for the publisher of an event."""
    if failure.is_uncertain:
        return PublishUncertain(f"{failure}; the event may have been passed on")
    text = f"{failure}; the event was not passed on"
    return PublishFailed(text, transient=failure.is_transient, permanent=False)
