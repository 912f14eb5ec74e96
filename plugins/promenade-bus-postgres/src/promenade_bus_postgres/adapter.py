"""The adapter. The bus calls it, and it starts and closes its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final

import psycopg

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
from bus_core.runtime import next_pause
from promenade_bus_postgres.administration import PostgresAdministration
from promenade_bus_postgres.config import PostgresOptions
from promenade_bus_postgres.connections import Connection, Connector, Database, Sql
from promenade_bus_postgres.consumers import PostgresConsumer
from promenade_bus_postgres.dead_letters import PostgresDeadLetters
from promenade_bus_postgres.failures import failure_of
from promenade_bus_postgres.groups import backlogs_of
from promenade_bus_postgres.heartbeats import HeartbeatTable
from promenade_bus_postgres.listening import Listener, News, Notifier
from promenade_bus_postgres.lookout import Lookout
from promenade_bus_postgres.migrations import Migration
from promenade_bus_postgres.places import place_of
from promenade_bus_postgres.positions import check_positions
from promenade_bus_postgres.publishing import Publisher
from promenade_bus_postgres.schema import check, grants_of, migrate
from promenade_bus_postgres.services import Services
from promenade_bus_postgres.subscriptions import (
    Owner,
    add_owner,
    is_final,
    last_position,
    subscription_of,
)
from promenade_bus_postgres.topics import Topics
from promenade_bus_postgres.upkeep import Upkeep

__all__ = ["PostgresAdapter"]

_FIRST_LOOK: Final = 0.002
_LONGEST_WAIT: Final = 5.0
"""Seconds that a subscription from now on waits, at most, for transactions that have begun before it."""


class PostgresAdapter:
    """Implements ``bus_core.Adapter``, and its options for counting and administration, in a database."""

    name = "postgres"
    features = Features(
        durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True, admin=True
    )

    def __init__(self, options: PostgresOptions, context: BuildContext) -> None:
        self.options = options
        self._place = place_of(options, context.sections)
        self._connector = Connector(self._place, options)
        self._sql = Sql(options.schema)
        self._services: Services | None = None
        self._consumers: dict[PostgresConsumer, None] = {}
        self._by_topic: TopicIndex[PostgresConsumer] = TopicIndex()
        self._listener: Listener | None = None

    # --- what it says of itself ---------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """Returns the number of events known to be lost since the start, over all users of the tables."""
        return 0 if self._services is None else self._upkeep.lost

    @property
    def degraded(self) -> str | None:
        """Returns the current problems."""
        services = self._services
        if services is None:
            return None
        parts = [
            services.database.trouble,
            services.heartbeats.trouble,
            self._upkeep.trouble,
            self._lookout.trouble,
        ]
        if self._listener is not None:
            parts.append(self._listener.trouble)
        problems = [part.text for part in parts if part.text is not None]
        command = "promenade-bus postgres forget"
        if self._upkeep.left:
            problems.append(left_text(self._upkeep.left, command))
        orphans = [each for each in self._upkeep.orphans if each not in self._upkeep.left]
        if orphans:
            problems.append(orphans_text(orphans, command))
        return "; ".join(dict.fromkeys(problems)) or None

    @property
    def dead_letters(self) -> DeadLetterStore:
        """The messages that subscriptions gave up on."""
        return PostgresDeadLetters(self.running)

    @property
    def running(self) -> Services:
        """The shared parts. Raises ``AdapterError`` when it is not started."""
        if self._services is None:
            raise AdapterError("the PostgreSQL adapter is not started")
        return self._services

    @property
    def admin(self) -> PostgresAdministration:
        """The groups in the database, and replays, for operators."""
        return PostgresAdministration(lambda: self.running)

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
        """The upkeep of the tables, once it was started."""
        return self._upkeep

    # --- its life -----------------------------------------------------------------------------------------

    def _prepare(self, connection: Connection) -> None:
        """Checks the tables, and creates them if that is wanted."""
        place = str(self._place)
        if self.options.migrate:
            migrate(connection, self._sql, place)
        check(connection, self._sql, place)

    def migrate(self, role: str | None = None) -> Sequence[Migration]:
        """Applies missing migrations, grants a role what it needs, and returns what was applied.

        Blocks its thread. Raises ``PostgresFailure``.
        """
        place = str(self._place)
        connection = self._connector.open("migrate")
        try:
            applied = migrate(connection, self._sql, place)
            if role is not None:
                connection.execute(grants_of(self._sql.schema, role).encode())
            return applied
        except psycopg.Error as error:
            raise failure_of(place, error) from error
        finally:
            connection.close()

    async def start(self) -> None:
        """Connects and checks the tables. Raises ``PostgresFailure``."""
        database = Database(
            self._connector,
            self._place.pool_size,
            self.options.statement_timeout,
            lambda connection: check_positions(connection, self._sql),
        )
        self._heartbeats = HeartbeatTable(self._connector, self._sql)
        heartbeats = Heartbeats(self._heartbeats.beat, name=self.name, lease=self.options.lease)
        services = Services(self.options, self._sql, database, heartbeats, Topics(self._sql), self._freed)
        self._upkeep = Upkeep(services)
        self._lookout = Lookout(services, lambda: [*self._consumers])
        self._notifier = Notifier(database, self._sql)
        try:
            await database.prepare(self._prepare)
            await database.run(self._upkeep.begin)
            heartbeats.start()
            await heartbeats.renewed()
        except BaseException:
            await self._close(services)
            raise
        self._publisher = Publisher(database, self._sql, services.topics)
        self._services = services
        if self.options.listen:
            self._listener = Listener(self._connector, self._sql, self._notifier.tag, self._heard)
            self._listener.start()
        self._notifier.start()
        self._upkeep.start()
        self._lookout.start()

    async def close(self) -> None:
        """Releases everything that ``start`` opened."""
        services, self._services = self._services, None
        if services is None:
            return
        listener, self._listener = self._listener, None
        ending = [self._upkeep.close(), self._lookout.close(), self._notifier.close()]
        if listener is not None:
            ending.append(listener.close())
        await self._close(services, *ending)

    async def _close(self, services: Services, *ending: Coroutine[Any, Any, None]) -> None:
        """Ends everything at the same time. A bus that has no time left cancels it: nothing stays open."""
        try:
            await asyncio.gather(services.heartbeats.close(), *ending)
            await services.database.close()
        finally:
            self._heartbeats.close()
            services.database.shut()

    # --- news ---------------------------------------------------------------------------------------------

    def _heard(self, news: News) -> None:
        """Handles what another process has told."""
        services = self._services
        if services is None:
            return
        names = [services.topics.known_name_of(number) for number in news.topics]
        if news.is_all or "" in names:
            for each in [*self._consumers]:
                each.free()
            return
        self._wake(names)
        for each in [*self._consumers]:
            if each.owner.subscription in news.subscriptions:
                each.free()

    def _wake(self, topics: Sequence[str]) -> None:
        for topic in topics:
            for each in self._by_topic.matching(topic):
                each.look()

    def _freed(self, subscription: int) -> None:
        for consumer in self._consumers:
            if consumer.owner.subscription == subscription:
                consumer.free()
        self._notifier.tell(subscriptions=(subscription,))

    # --- what the engine calls ----------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """Stores messages and returns one result for each."""
        services = self.running
        results = await self._publisher.publish(messages)
        stored = {each.topic for each, result in zip(messages, results, strict=True) if result is None}
        if stored:
            self._wake([*stored])
            known = (services.topics.known_id_of(topic) for topic in stored)
            self._notifier.tell(topics=[number for number in known if number is not None])
        return results

    async def open_consumer(self, spec: SubscriptionSpec) -> Consumer:
        """Opens a subscription. Raises ``PostgresFailure``."""
        services = self.running
        name = name_owner(services.options.lease)

        def run(connection: Connection) -> Owner:
            return add_owner(connection, self._sql, spec, name)

        if spec.mode == "broadcast" or spec.start == "latest":
            await self._until_final(services, spec)
        owner = await services.database.run(run)
        self._heartbeats.owners[name] = owner
        group = name if spec.mode == "broadcast" else spec.group
        consumer = PostgresConsumer(services, spec, owner, group, self._closed)
        self._consumers[consumer] = None
        self._by_topic.add(spec.topic, consumer)
        return consumer

    async def _until_final(self, services: Services, spec: SubscriptionSpec) -> None:
        """Waits until every event that can be seen now is final, unless the subscription is there already.

        A subscription that begins then gets none of them, and misses none that is stored later. While an
        older transaction of the server stays open, the wait ends after some seconds.
        """

        def begin(connection: Connection) -> int | None:
            if (
                spec.mode == "group"
                and subscription_of(connection, self._sql, spec.group, spec.topic) is not None
            ):
                return None
            return last_position(connection, self._sql)

        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _LONGEST_WAIT, _FIRST_LOOK
        last = await services.database.run(begin)
        while last is not None:
            if await services.database.run(partial(is_final, sql=self._sql, tx=last)):
                return
            if loop.time() >= until:
                return
            await asyncio.sleep(pause)
            pause = min(next_pause(pause), services.options.poll)

    def _closed(self, consumer: PostgresConsumer) -> None:
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
        numbers: dict[SubscriptionSpec, set[int]] = {spec: set() for spec in specs}
        for consumer in self._consumers:
            if consumer.spec in numbers:
                numbers[consumer.spec].add(consumer.owner.subscription)

        def run(connection: Connection) -> Sequence[int]:
            for spec, found in numbers.items():
                if not found and spec.mode == "group":
                    number = subscription_of(connection, self._sql, spec.group, spec.topic)
                    if number is not None:
                        found.add(number)
            patterns = {number: spec.topic for spec, found in numbers.items() for number in found}
            counts = backlogs_of(connection, self._sql, services.topics, patterns)
            return [sum(counts.get(number, 0) for number in numbers[spec]) for spec in specs]

        return await services.database.run(run)
