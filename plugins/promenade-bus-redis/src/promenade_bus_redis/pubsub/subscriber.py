"""The connection that listens for all subscriptions of an adapter, and is reopened when it breaks.

It reads every message at once and passes it to the consumers, without waiting for them. When this process
cannot read, the server's buffer for the connection grows up to its client-output-buffer-limit; then the
server closes the connection. The event numbers show the loss.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import attrs

from bus_core import Clock, SubscriptionSpec
from bus_core.runtime import BackgroundTask
from promenade_bus_redis.pubsub.channels import Channels
from promenade_bus_redis.pubsub.consumer import PubsubConsumer
from promenade_bus_redis.pubsub.misses import Misses
from promenade_bus_redis.pubsub.sources import ChannelSource
from promenade_bus_redis.server.failures import Kind, RedisFailure, failure_of
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.node_locator import NodeLocator

__all__ = ["Subscriber"]

_PAUSES: Final = (0.05, 1.0)
"""Seconds between two attempts to connect: after the first failure, and the maximum."""

Answer = Callable[[RedisFailure | None], None]
"""A callback for the reply to a command, or its failure."""


@attrs.frozen
class _Asked:
    """A command without a reply yet."""

    at: float
    answer: Answer


class Subscriber:
    """Listens for all subscriptions.

    ``patience`` is the normal time in seconds without a message; ``limit`` is the further time for a reply.
    """

    def __init__(
        self,
        locator: NodeLocator,
        channels: Channels,
        misses: Misses,
        clock: Clock,
        *,
        patience: float,
        limit: float,
    ) -> None:
        self.connections = 0
        """The number of connections so far, which numbers them."""
        self.read_at: float | None = None
        """The time of the last message from the server, on the monotonic clock."""
        self._locator = locator
        self._channels = channels
        self._misses = misses
        self._clock = clock
        self._patience = patience
        self._limit = limit
        self._sources: dict[tuple[bool, bytes], ChannelSource] = {}
        self._of: dict[PubsubConsumer, ChannelSource] = {}
        self._link: Link | None = None
        self._asked: deque[_Asked] = deque()
        self._fencing: list[Answer] = []
        self._pinged_at = 0.0
        self._listening = BackgroundTask(self._run, "promenade-redis-subscriber", cut=self._cut_off)

    # --- who listens --------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """True if there is a connection now."""
        return self._link is not None

    @property
    def has_consumers(self) -> bool:
        """True if a consumer listens or wants to."""
        return bool(self._of)

    @property
    def consumers(self) -> Iterable[PubsubConsumer]:
        """The consumers that listen or want to."""
        return self._of.keys()

    def consumers_of(self, spec: SubscriptionSpec) -> Iterator[PubsubConsumer]:
        """Yields the consumers of a subscription: one while it is open."""
        return (consumer for consumer in self._of if consumer.spec == spec)

    async def join(self, consumer: PubsubConsumer) -> None:
        """Adds a consumer; returns when it cannot miss an event any more. Raises ``RedisFailure``."""
        topic = consumer.spec.topic
        is_glob = consumer.pattern is not None
        name = self._channels.glob(topic) if is_glob else self._channels.of(topic)
        key = (is_glob, name.encode())
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = ChannelSource(
                name, is_glob=is_glob, channels=self._channels, misses=self._misses
            )
        self._of[consumer] = source
        done = source.joining[consumer] = asyncio.get_running_loop().create_future()
        if not self._listening.is_started:
            self._listening.start()
        elif source.connection:
            # Messages published before and under way are not for this consumer.
            self._fence(partial(self._admit, source, consumer))
        elif self._link is not None and not source.is_asked:
            self._subscribe(source)
        try:
            await done
        except BaseException:
            self.leave(consumer)
            raise

    def _admit(self, source: ChannelSource, consumer: PubsubConsumer, failure: RedisFailure | None) -> None:
        if failure is None:
            source.admit(consumer)
        else:
            source.refuse(consumer, failure)

    def stop_for(self, consumer: PubsubConsumer) -> None:
        """Delivers everything published until now, then tells the consumer that it is complete."""

        def ended(_: RedisFailure | None) -> None:
            self.leave(consumer)
            consumer.end()

        if self._link is None:
            ended(None)
        else:
            self._fence(ended)

    def leave(self, consumer: PubsubConsumer) -> None:
        """Removes a consumer; does nothing for an unknown one."""
        source = self._of.pop(consumer, None)
        if source is None:
            return
        source.remove(consumer)
        key = (source.is_glob, source.name.encode())
        if source.is_wanted or self._sources.get(key) is not source:
            return
        del self._sources[key]
        if source.is_asked and self._link is not None:
            self._ask(_ignore, "PUNSUBSCRIBE" if source.is_glob else "UNSUBSCRIBE", source.name)

    async def fence(self) -> None:
        """Returns when everything published until now is with its consumers. Raises ``RedisFailure``."""
        if not self._listening.is_started:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def passed(failure: RedisFailure | None) -> None:
            if done.done():
                return
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

        self._fence(passed)
        await done

    def _fence(self, answer: Answer) -> None:
        """Sends PING: the server replies in order, so its reply comes after everything sent before."""
        if not self._fencing:
            asyncio.get_running_loop().call_soon(self._send_fence)
        self._fencing.append(answer)

    def _send_fence(self) -> None:
        waiting, self._fencing = self._fencing, []

        def answer(failure: RedisFailure | None) -> None:
            for each in waiting:
                each(failure)

        self._ask(answer, "PING")

    # --- the connection -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        shortest, longest = _PAUSES
        pause = shortest
        while True:
            before = self.read_at
            try:
                await self._listen()
            except Exception as error:
                failure = failure_of(error, "the server")
                self._locator.learn(failure)
                self._cut(failure)
            if self.read_at != before:
                pause = shortest
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _listen(self) -> None:
        """Listens until the connection fails, then raises the failure."""
        address = await self._locator.find(self._channels.place)
        link = await self._locator.connections.open_to(address, purpose="listen")
        self._link = link
        self.connections += 1
        try:
            self._pinged_at = time.monotonic()
            for source in [*self._sources.values()]:
                self._subscribe(source)
            while True:
                replies = await link.read(self._patience)
                if replies:
                    self.read_at = time.monotonic()
                    self._take(replies)
                self._look_after(link, idle=not replies)
        finally:
            self._link = None
            link.abort()

    def _look_after(self, link: Link, *, idle: bool) -> None:
        now = time.monotonic()
        if idle and self._asked and now - self._asked[0].at > self._limit:
            raise RedisFailure(Kind.TIMED_OUT, str(link.address), command="PING")
        if now - self._pinged_at < self._patience:
            return
        self._pinged_at = now
        self._ask(_ignore, "PING")
        for source in [*self._sources.values()]:
            if not source.is_asked:  # it was refused; the permission may have been granted meanwhile
                self._subscribe(source)
        self._misses.tell()

    def _subscribe(self, source: ChannelSource) -> None:
        def answer(failure: RedisFailure | None) -> None:
            if failure is None:
                source.opened(self.connections)
            else:
                source.failed(failure)

        source.is_asked = True
        self._ask(answer, "PSUBSCRIBE" if source.is_glob else "SUBSCRIBE", source.name)

    def _ask(self, answer: Answer, *command: Any) -> None:
        """Sends a command; calls ``answer`` with its reply or its failure."""
        try:
            if self._link is None:
                raise RedisFailure(Kind.LOST, "the server", command=str(command[0]), uncertain=False)
            self._link.write(*command)
        except RedisFailure as failure:
            answer(failure)
        else:
            self._asked.append(_Asked(time.monotonic(), answer))

    def _take(self, replies: list[Any]) -> None:
        now = self._clock.now()
        for reply in replies:
            kind = reply[0] if isinstance(reply, list) and reply else None
            if kind == b"message":
                source = self._sources.get((False, reply[1]))
                if source is not None:
                    source.take(reply[1], reply[2], now)
            elif kind == b"pmessage":
                source = self._sources.get((True, reply[1]))
                if source is not None:
                    source.take(reply[2], reply[3], now)
            elif self._asked:
                self._asked.popleft().answer(reply if isinstance(reply, RedisFailure) else None)

    def _cut(self, failure: RedisFailure) -> None:
        """Handles a lost or failed connection: notifies every waiting caller."""
        asked, self._asked = self._asked, deque()
        for each in asked:
            each.answer(failure)
        for source in [*self._sources.values()]:
            source.failed(failure)

    def _cut_off(self) -> None:
        self._cut(RedisFailure(Kind.LOST, "the server", uncertain=False))

    async def close(self) -> None:
        """Closes the connection."""
        await self._listening.end()
        self._cut_off()
        self._misses.tell(everything=True)


def _ignore(_: RedisFailure | None) -> None:
    """Ignores a result that no caller waits for."""
