"""The adapter for streams, which starts and closes its parts."""

from __future__ import annotations

from collections.abc import Sequence

from bus_core import (
    AdapterError,
    BuildContext,
    Consumer,
    DeadLetterStore,
    Features,
    Message,
    PublishError,
    SubscriptionSpec,
    TopicPattern,
)
from bus_core.events import is_pattern
from bus_core.runtime import fault_of
from promenade_bus_redis.config import RedisOptions
from promenade_bus_redis.server.checks import ServerFacts, check_servers
from promenade_bus_redis.server.connections import Connections, make_connections
from promenade_bus_redis.server.node_locator import NodeLocator
from promenade_bus_redis.server.pipe import Pipe
from promenade_bus_redis.server.scripts import RELEASE
from promenade_bus_redis.server.target import resolve_target
from promenade_bus_redis.streams.administration import RedisAdministration
from promenade_bus_redis.streams.backlog import count_backlogs
from promenade_bus_redis.streams.broadcast_consumer import BroadcastConsumer, count_unread
from promenade_bus_redis.streams.dead_letters import RedisDeadLetters
from promenade_bus_redis.streams.epoch import Epoch
from promenade_bus_redis.streams.group_consumer import GroupConsumer
from promenade_bus_redis.streams.groups import RedisGroups
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.leases import Leases
from promenade_bus_redis.streams.losses import Losses
from promenade_bus_redis.streams.names import name_instance
from promenade_bus_redis.streams.publisher import RedisPublisher
from promenade_bus_redis.streams.retention import Retention
from promenade_bus_redis.streams.server_clock import ServerClock
from promenade_bus_redis.streams.service_records import ServiceRecords
from promenade_bus_redis.streams.services import LockState, Services
from promenade_bus_redis.streams.stored_events import StoredEvents
from promenade_bus_redis.streams.topics import StoredTopics
from promenade_bus_redis.streams.upkeep import Upkeep
from promenade_bus_redis.streams.wakeups import Wakeups

__all__ = ["StreamsAdapter"]


class StreamsAdapter:
    """Implements ``bus_core.Adapter``, and its options for counting and administration, on streams."""

    name = "redis"
    features = Features(
        durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True, admin=True
    )

    def __init__(self, options: RedisOptions, context: BuildContext) -> None:
        self.options = options
        self._options = options
        self._target = resolve_target(options, context.sections)
        self._service = context.service
        self._keys = Keys(options.prefix, is_cluster=self._target.kind == "cluster")
        self._losses = Losses()
        self.facts: tuple[ServerFacts, ...] = ()
        self._connections: Connections | None = None
        self._services: Services | None = None
        self._upkeep: Upkeep | None = None
        self._publisher: RedisPublisher | None = None
        self._dead_letters: RedisDeadLetters | None = None
        self._retention: Retention | None = None

    # --- what it says of itself ---------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """The number of events known to be lost."""
        return self._losses.lost

    @property
    def degraded(self) -> str | None:
        """A sentence about losses and problems, or None."""
        return self._losses.degraded

    @property
    def dead_letters(self) -> DeadLetterStore:
        """The dead-letter store."""
        assert self._dead_letters is not None, "the adapter is not started"
        return self._dead_letters

    @property
    def running(self) -> Services | None:
        """The shared services while the adapter is started; for the health probe."""
        return self._services

    @property
    def upkeep(self) -> Upkeep:
        """The maintenance task of its consumers, once started."""
        assert self._upkeep is not None, "the adapter was not started"
        return self._upkeep

    @property
    def groups(self) -> RedisGroups:
        """The groups on the server. Raises ``AdapterError`` if the adapter is not started."""
        return RedisGroups(self._running)

    @property
    def admin(self) -> RedisAdministration:
        """The groups on the server, and replays, for operators."""
        return RedisAdministration(lambda: self._running)

    def loss_figures(self) -> dict[str, int | bool]:
        """Returns the counters of lost and removed events, for health."""
        losses, services = self._losses, self._services
        figures: dict[str, int | bool] = {
            "data_losses": losses.ended_epochs,
            "lost_groups": sum(losses.reset_groups.values()),
            "forgotten_by_server": sum(losses.forgotten_events.values()),
            "dropped_by_cap": sum(losses.dropped_by_cap.values()),
            "trimmed_by_others": sum(losses.foreign_trims.values()),
            "trimmed": 0 if self._retention is None else self._retention.trimmed,
        }
        if services is not None:
            figures["foreign_trims_detectable"] = services.counts_gaps
        return figures

    # --- its life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects, and checks the server."""
        connections = self._make_connections()
        try:
            facts = await check_servers(connections, self._options, self._target)
        except BaseException:
            await connections.close()
            raise
        self._connections = connections
        self.facts = facts
        locator = NodeLocator(connections)
        pipe = Pipe(locator)
        registry = StoredTopics(pipe, self._keys)
        configured = self._options.consumer
        name = name_instance(configured, self._options.lease)
        leases = Leases(
            self._make_connections,
            self._keys,
            name,
            lease=self._options.lease,
            interval=self._options.heartbeat_interval,
            clock=ServerClock(),
        )
        self._losses.problems["leases"] = lambda: leases.problem
        waiting = self._losses.trouble("the shared blocking read")
        wakeups = Wakeups(locator, pipe, self._options.block, waiting)
        services = Services(
            options=self._options,
            keys=self._keys,
            name=name,
            locator=locator,
            pipe=pipe,
            registry=registry,
            leases=leases,
            wakeups=wakeups,
            losses=self._losses,
            records=ServiceRecords(pipe, self._keys, name, self._service, self._options.retention),
            epoch=Epoch(pipe, self._keys),
            stored_events=StoredEvents(pipe, self._keys, self._losses),
            name_lock=LockState(self._keys.name_lock(configured), name) if configured else None,
        )
        upkeep = Upkeep(services)
        registry.found = upkeep.topic_found
        services.stored_events.suspected = upkeep.suspect_loss
        self._publisher = RedisPublisher(
            locator, registry, self._keys, self._options, self._uses_waitaof, services.stored_events
        )
        self._dead_letters = RedisDeadLetters(services)
        self._retention = Retention(services)
        try:
            await services.epoch.check_layout()
            await services.epoch.has_ended()
            await leases.renew(pipe)
            await services.records.begin()
            self._losses.before = await RedisGroups(services).losses()
        except BaseException:
            await pipe.close()
            await connections.close()
            raise
        self._services = services
        leases.start()
        self._upkeep = upkeep
        upkeep.start()
        self._retention.start()

    def _uses_waitaof(self) -> bool:
        return any(facts.fsync == "waitaof" for facts in self.facts)

    def _make_connections(self) -> Connections:
        return make_connections(self._target, self._options, name=self._service)

    async def close(self) -> None:
        """Releases everything that ``start`` opened."""
        services, self._services = self._services, None
        if services is None:
            return
        try:
            await self._close(services)
        finally:  # even if the time was too short for all of it
            services.leases.abort()
            if self._connections is not None:
                self._connections.abort()

    async def _close(self, services: Services) -> None:
        if self._retention is not None:
            await self._retention.close()
        await self.upkeep.close()
        await fault_of(services.records.close())
        await services.wakeups.close()
        await services.leases.close()
        if (lock := services.name_lock) is not None and lock.token:
            await services.pipe.call_many([(lock.key, RELEASE.command([lock.key], [lock.holder]))])
        if self._publisher is not None:
            await self._publisher.close()
        await services.pipe.close()
        if self._connections is not None:
            await self._connections.close()

    # --- what the engine calls ----------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """Stores messages; returns one result for each."""
        assert self._publisher is not None, "the adapter is not started"
        return await self._publisher.publish(messages)

    async def open_consumer(self, spec: SubscriptionSpec) -> Consumer:
        """Opens a subscription; raises ``RedisFailure``."""
        services = self._running
        pattern = TopicPattern(spec.topic) if is_pattern(spec.topic) else None
        topics = [spec.topic]
        if pattern is not None:
            topics = await services.registry.matching(pattern)
        if spec.mode == "broadcast":
            return await self._open_broadcast(spec, topics)
        # COUNT limits a read of many streams for each of them, not in total.
        link = None
        if not spec.ordered and pattern is None:
            link = services.lend_link(self._keys.stream(spec.topic) if services.locator.is_cluster else "")
        consumer = GroupConsumer(services, self.upkeep, spec, link)
        try:
            await services.records.enter(spec)
            await consumer.open(topics, spec.start or "earliest")
        except BaseException:
            await consumer.close()
            raise
        self.upkeep.look_after(consumer)
        return consumer

    async def _open_broadcast(self, spec: SubscriptionSpec, topics: Sequence[str]) -> Consumer:
        services = self._running
        consumer = BroadcastConsumer(services, self.upkeep, spec)
        try:
            await consumer.open(topics)
        except BaseException:
            await consumer.close()
            raise
        self.upkeep.look_after(consumer)
        return consumer

    async def backlog(self, spec: SubscriptionSpec) -> int:
        """Returns the number of unsettled events of a group on all of its topics; raises ``RedisFailure``.

        For a broadcast subscription it returns the number of events that this instance has not read.
        """
        return (await self.backlogs([spec]))[0]

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        """Returns the backlog of many subscriptions, counted together."""
        services = self._running
        groups = list(dict.fromkeys(spec for spec in specs if spec.mode == "group"))
        counts = dict(zip(groups, await count_backlogs(services, groups), strict=True))
        ours = [each for each in self.upkeep.consumers if isinstance(each, BroadcastConsumer)]
        broadcasts = {spec for spec in specs if spec.mode == "broadcast"}
        counts |= await count_unread(services.pipe, ours, broadcasts)
        return [counts[spec] for spec in specs]

    @property
    def _running(self) -> Services:
        if self._services is None:
            raise AdapterError("the Redis adapter is not started")
        return self._services
