"""The adapter. The bus calls it, and it starts and closes its parts."""

from __future__ import annotations

import asyncio
import sqlite3
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
)
from bus_core.adapters import Heartbeats, left_text, name_owner, orphans_text
from bus_core.events import TopicIndex
from promenade_bus_sqlite.administration import SqliteAdministration
from promenade_bus_sqlite.claiming import Owner, backlog_of
from promenade_bus_sqlite.config import SqliteOptions
from promenade_bus_sqlite.consumers import SqliteConsumer
from promenade_bus_sqlite.dead_letters import SqliteDeadLetters
from promenade_bus_sqlite.file import File
from promenade_bus_sqlite.heartbeats import HeartbeatTable
from promenade_bus_sqlite.news import News, Newsroom
from promenade_bus_sqlite.places import place_of
from promenade_bus_sqlite.publishing import Publisher
from promenade_bus_sqlite.services import Services
from promenade_bus_sqlite.subscriptions import add_owner, subscription_of
from promenade_bus_sqlite.topics import Topics
from promenade_bus_sqlite.upkeep import Upkeep
from promenade_bus_sqlite.worker import Worker

__all__ = ["SqliteAdapter"]


class SqliteAdapter:
    """Implements ``bus_core.Adapter``, and its options for counting and administration, on one file."""

    name = "sqlite"
    features = Features(
        durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True, admin=True
    )

    def __init__(self, options: SqliteOptions, context: BuildContext) -> None:
        self.options = options
        self._place = place_of(options, context.sections)
        self._services: Services | None = None
        self._consumers: dict[SqliteConsumer, None] = {}
        self._by_topic: TopicIndex[SqliteConsumer] = TopicIndex()
        self._dead_letters: SqliteDeadLetters | None = None

    # --- what it says of itself ---------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """Returns the number of events known to be lost since the start, over all users of the file."""
        return 0 if self._services is None else self._upkeep.lost

    @property
    def degraded(self) -> str | None:
        """Returns the current problems."""
        services = self._services
        if services is None:
            return None
        parts = (services.worker.trouble, services.heartbeats.trouble, self._upkeep.trouble)
        problems = [part.text for part in parts if part.text is not None]
        command = "promenade-bus sqlite forget"
        if self._upkeep.left:
            problems.append(left_text(self._upkeep.left, command))
        orphans = [each for each in self._upkeep.orphans if each not in self._upkeep.left]
        if orphans:
            problems.append(orphans_text(orphans, command))
        return "; ".join(dict.fromkeys(problems)) or None

    @property
    def dead_letters(self) -> DeadLetterStore:
        """The messages that subscriptions gave up on."""
        assert self._dead_letters is not None, "the adapter is not started"
        return self._dead_letters

    @property
    def running(self) -> Services:
        """The shared parts. Raises ``AdapterError`` when it is not started."""
        if self._services is None:
            raise AdapterError("the SQLite adapter is not started")
        return self._services

    @property
    def admin(self) -> SqliteAdministration:
        """The groups in the file, and replays, for operators."""
        return SqliteAdministration(lambda: self.running)

    @property
    def is_running(self) -> bool:
        """True when it is started."""
        return self._services is not None

    @property
    def specs(self) -> list[SubscriptionSpec]:
        """The subscriptions that are open in this process."""
        return [*dict.fromkeys(consumer.spec for consumer in self._consumers)]

    @property
    def upkeep(self) -> Upkeep:
        """The upkeep of the file, once it was started."""
        return self._upkeep

    # --- its life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens and checks the file. Raises ``SqliteFailure``."""
        file = File(self._place.path, self.options.synchronous, self._place.busy_timeout)
        db = await asyncio.to_thread(file.prepare)
        self._heartbeats = HeartbeatTable(file)
        heartbeats = Heartbeats(self._heartbeats.beat, name=self.name, lease=self.options.lease)
        topics = Topics()
        newsroom = Newsroom(file, topics, lambda: heartbeats.dead)
        worker = Worker(file, self.options.poll, newsroom.look, self._changed)
        services = Services(self.options, file, worker, heartbeats, topics, self._wake)
        worker.on_rollback(self._forget)
        worker.start(db)
        heartbeats.start()
        self._upkeep = Upkeep(services)
        try:
            await heartbeats.renewed()
            await worker.write(self._upkeep.look)
        except BaseException:
            await self._close(services)
            raise
        self._publisher = Publisher(worker, topics)
        self._dead_letters = SqliteDeadLetters(services)
        self._services = services
        self._upkeep.start()

    async def close(self) -> None:
        """Releases everything that ``start`` opened."""
        services, self._services = self._services, None
        if services is not None:
            await self._upkeep.close()
            await self._close(services)

    async def _close(self, services: Services) -> None:
        await services.heartbeats.close()
        self._heartbeats.close()
        await services.worker.close()

    def _forget(self) -> None:
        """Handles a rolled back transaction. Called in the worker's thread."""
        services = self._services
        if services is not None:
            services.topics.forget()
        for consumer in [*self._consumers]:
            consumer.forget()

    def _changed(self, news: News) -> None:
        """Handles new data that another process has stored."""
        if news.topics is None:
            concerned = [*self._consumers]
        else:
            concerned = [each for topic in news.topics for each in self._by_topic.matching(topic)]
            concerned += [
                each
                for each in self._consumers
                if news.somebody_died or each.spec.ordered or each.owner.subscription in news.subscriptions
            ]
        for consumer in concerned:
            consumer.look()

    def _wake(self, subscription: int) -> None:
        for consumer in self._consumers:
            if consumer.owner.subscription == subscription:
                consumer.look()

    # --- what the engine calls ----------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """Stores messages and returns one result for each."""
        results = await self._publisher.publish(messages)
        stored = {each.topic for each, result in zip(messages, results, strict=True) if result is None}
        if stored and self._consumers:
            self._changed(News(stored))
        return results

    async def open_consumer(self, spec: SubscriptionSpec) -> Consumer:
        """Opens a subscription. Raises ``SqliteFailure``."""
        services = self.running
        name = name_owner(services.options.lease)

        def run(db: sqlite3.Connection) -> Owner:
            return add_owner(db, spec, name, services.file.now())

        owner = await services.worker.write(run)
        self._heartbeats.owners[name] = owner
        group = name if spec.mode == "broadcast" else spec.group
        consumer = SqliteConsumer(services, spec, owner, group, self._closed)
        self._consumers[consumer] = None
        self._by_topic.add(spec.topic, consumer)
        return consumer

    def _closed(self, consumer: SqliteConsumer) -> None:
        if consumer in self._consumers:
            del self._consumers[consumer]
            self._by_topic.discard(consumer.spec.topic, consumer)
        self._heartbeats.owners.pop(consumer.owner.name, None)

    async def backlog(self, spec: SubscriptionSpec) -> int:
        """The unsettled messages of the group, or of this instance of a broadcast subscription."""
        return (await self.backlogs([spec]))[0]

    async def backlogs(self, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        """Returns the backlogs of many subscriptions with one call."""
        services = self.running
        broadcasts: dict[SubscriptionSpec, list[int]] = {}
        for consumer in self._consumers:
            if consumer.spec.mode == "broadcast":
                broadcasts.setdefault(consumer.spec, []).append(consumer.owner.subscription)

        def run(db: sqlite3.Connection) -> Sequence[int]:
            counts: dict[SubscriptionSpec, int] = {}
            for spec in dict.fromkeys(specs):
                if spec.mode == "broadcast":
                    numbers = broadcasts.get(spec, [])
                else:
                    number = subscription_of(db, spec.group, spec.topic)
                    numbers = [] if number is None else [number]
                counts[spec] = sum(backlog_of(db, services.topics, each, spec.topic) for each in numbers)
            return [counts[spec] for spec in specs]

        return await services.worker.read(run)
