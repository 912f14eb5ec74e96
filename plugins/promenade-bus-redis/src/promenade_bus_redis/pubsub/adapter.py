"""The adapter of ``mode: pubsub``, which starts and closes its parts."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from bus_core import (
    AdapterError,
    BuildContext,
    Consumer,
    DeadLetterStore,
    Features,
    Message,
    PublishError,
    SubscriptionSpec,
)
from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.pubsub.channels import Channels, may_narrow
from promenade_bus_redis.pubsub.consumer import PubsubConsumer
from promenade_bus_redis.pubsub.letters import ProcessDeadLetters
from promenade_bus_redis.pubsub.misses import Misses
from promenade_bus_redis.pubsub.publishing import PubsubPublisher
from promenade_bus_redis.pubsub.subscriber import Subscriber
from promenade_bus_redis.server.checks import ServerFacts, check_servers
from promenade_bus_redis.server.connections import Connections, make_connections
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.target import resolve_target

__all__ = ["PubsubAdapter", "Running"]


@attrs.frozen(eq=False)
class Running:
    """The parts of a started adapter."""

    locator: NodeLocator
    pipe: Pipe
    channels: Channels
    publisher: PubsubPublisher
    subscriber: Subscriber
    letters: ProcessDeadLetters


class PubsubAdapter:
    """Implements ``bus_core.Adapter`` and ``bus_core.CountingAdapter``.

    It delivers to current subscribers at most once, and may drop events.
    """

    name = "redis"
    features = Features(
        broadcast=True,
        delayed=True,
        remedy=(
            "mode: pubsub passes events to every instance that currently listens, may drop them, and "
            "stores nothing: subscribe with mode='broadcast', or use mode: streams @ $.bus.redis.mode"
        ),
    )

    def __init__(self, options: RedisOptions, context: BuildContext) -> None:
        self.options = options
        self.misses = Misses()
        self.facts: tuple[ServerFacts, ...] = ()
        self.running: Running | None = None
        self._service = context.service
        self._clock = context.clock
        self._target = resolve_target(options, context.sections)
        self._connections: Connections | None = None
        self._lost_before = 0

    # --- what it says of itself ---------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """The number of missed events of subscriptions here, and of dropped dead letters.

        Events published here to a former primary count, too.
        """
        running = self.running
        now = running.letters.dropped + running.publisher.strayed if running is not None else 0
        return self.misses.total + self._lost_before + now

    @property
    def degraded(self) -> str | None:
        """A sentence about current problems, or None."""
        return None if self.running is None else self.running.publisher.trouble.text

    @property
    def dead_letters(self) -> DeadLetterStore:
        """The dead letters of this instance's subscriptions."""
        return self._started.letters

    @property
    def _started(self) -> Running:
        if self.running is None:
            raise AdapterError("the Redis adapter is not started")
        return self.running

    # --- its life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects, and checks the server."""
        options = self.options
        connections = make_connections(self._target, options, name=self._service)
        channels = Channels(options.prefix)
        try:
            self.facts = await check_servers(connections, options, self._target)
            channels = Channels(options.prefix, await may_narrow(connections, channels))
        except BaseException:
            await connections.close()
            raise
        locator = NodeLocator(connections)
        pipe = Pipe(locator)
        subscriber = Subscriber(
            locator,
            channels,
            self.misses,
            self._clock,
            patience=options.block,
            limit=options.command_timeout,
        )
        publisher = PubsubPublisher(
            locator,
            pipe,
            channels,
            self._clock,
            announce=options.pubsub.announce,
            patience=options.command_timeout,
        )
        publisher.start()

        def find(spec: SubscriptionSpec) -> PubsubConsumer | None:
            return next(subscriber.consumers_of(spec), None)

        letters = ProcessDeadLetters(options.pubsub.dead_letters, find)
        self._connections = connections
        self.running = Running(locator, pipe, channels, publisher, subscriber, letters)

    async def close(self) -> None:
        """Releases everything that ``start`` opened."""
        running, self.running = self.running, None
        if running is None:
            return
        self._lost_before += running.letters.dropped + running.publisher.strayed
        connections = self._connections
        assert connections is not None, "it was started"
        try:
            await running.subscriber.close()
            await running.publisher.close()
            await running.pipe.close()
            await connections.close()
        finally:  # even if the time was too short for all of it
            connections.abort()

    # --- what the engine calls ----------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """Publishes messages; returns one result for each. None means that the server has passed it on."""
        return await self._started.publisher.publish(messages)

    async def open_consumer(self, spec: SubscriptionSpec) -> Consumer:
        """Opens a subscription; raises ``RedisFailure``."""
        running, options = self._started, self.options
        consumer = PubsubConsumer(
            spec,
            running.subscriber,
            running.letters,
            self.misses,
            room=options.pubsub.buffer,
            patience=options.block,
        )
        await running.subscriber.join(consumer)
        return consumer

    async def backlog(self, spec: SubscriptionSpec) -> int:
        """Returns the number of published events not yet passed to the engine of this instance.

        Raises ``RedisFailure``.
        """
        return (await self.backlogs([spec]))[0]

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        """Returns the backlog of many subscriptions with one query to the server."""
        subscriber = self._started.subscriber
        counts = dict.fromkeys(specs, 0)
        consumers = [consumer for consumer in subscriber.consumers if consumer.spec in counts]
        if consumers:
            await subscriber.fence()
        for consumer in consumers:
            counts[consumer.spec] += consumer.held
        return [counts[spec] for spec in specs]
