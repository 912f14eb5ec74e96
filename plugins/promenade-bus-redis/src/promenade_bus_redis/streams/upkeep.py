"""What has to be done from time to time, for all subscriptions of one adapter, by one task.

Patterns get new topics; what is parked and due is handed on; each feed is looked through for what belonged
to the dead, at once when an instance is seen to have died, and one after the other otherwise. An idle worker
sends a few commands a second for this, however many subscriptions it has.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Iterable
from typing import Final, Protocol

from bus_core import TopicPattern
from bus_core.runtime import FIRST_PAUSE, fault_of, grown, plain_logger
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import COUNT, DUE, HINT, HINTS, LEAVE
from promenade_bus_redis.streams.feeds import Feed
from promenade_bus_redis.streams.services import Services

__all__ = ["Upkeep", "Wakeable"]

logger = plain_logger("promenade.bus.redis")

_TURN: Final = 1.0
"""Seconds between two turns of what is not urgent, at the most."""

_LOOK: Final = 3.0
"""Seconds between two looks through a feed, at least: each is several commands, of an idle worker too."""

_DUE_AT_ONCE: Final = 100
_HINTS_AT_ONCE: Final = 100
_TOLD_AGAIN: Final = 5.0
_TOLD_FOR: Final = 86_400_000
"""Milliseconds for which is remembered which losses an instance has told."""

_SLACK: Final = 0.01
_FORGOTTEN_AFTER: Final = 10
"""Leases without a sign of life after which a consumer that holds nothing is removed from its group."""


class Wakeable(Protocol):
    """A consumer, as the upkeep sees it."""

    @property
    def feeds(self) -> dict[str, Feed]:
        """What it reads, by topic."""
        ...

    @property
    def pattern(self) -> TopicPattern | None:
        """What topics it takes, if that is a pattern."""
        ...

    def add_topic(self, topic: str) -> None:
        """Takes this one as well."""
        ...

    def look_for_dead(self, feed: Feed) -> None:
        """Claims what the dead held, before it reads again."""
        ...

    def wake(self) -> None:
        """Ends its wait."""
        ...


class Upkeep:
    """The task, and what it knows."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._consumers: dict[Wakeable, None] = {}
        self._patterns: dict[Wakeable, TopicPattern] = {}  # of those that have one
        self._timers: list[tuple[float, int, Feed]] = []  # what this instance has parked
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._topics_at = 0.0
        self._hints_at = 0.0
        self._look_at = 0.0
        self._epoch_at = 0.0
        self._looking: list[tuple[Wakeable, Feed]] = []
        self._dead: frozenset[str] = frozenset()
        self._dead_beats = 0
        self._rounds = 0
        self._hinting: set[asyncio.Task[object]] = set()
        self._trouble = services.ledger.trouble("the upkeep of the Redis adapter")

    # --- what others tell it ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.get_running_loop().create_task(self._go_on(), name="promenade-redis-upkeep")

    async def close(self) -> None:
        """Ends, when what was counted is stored."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task, *self._hinting))
            await self._store_losses(time.monotonic())

    def look_after(self, consumer: Wakeable) -> None:
        """A consumer was opened."""
        self._consumers[consumer] = None
        if consumer.pattern is not None:
            self._patterns[consumer] = consumer.pattern

    def forget(self, consumer: Wakeable) -> None:
        """A consumer is being closed."""
        self._consumers.pop(consumer, None)
        self._patterns.pop(consumer, None)

    @property
    def consumers(self) -> tuple[Wakeable, ...]:
        """The consumers of this instance that are open."""
        return tuple(self._consumers)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of the groups of this instance, sorted."""
        return tuple(sorted({topic for consumer in self._consumers for topic in consumer.feeds}))

    def suspect_loss(self) -> None:
        """Something was gone from the server: looks whether everything is."""
        self._epoch_at = 0.0
        self._changed.set()

    def parked(self, feeds: Iterable[Feed], delay: float) -> None:
        """Something was parked that is due after so many seconds."""
        for feed in feeds:
            heapq.heappush(self._timers, (time.monotonic() + delay + _SLACK, next(self._numbers), feed))
            key = self._services.keys.due
            hint = HINT.command([key], [f"{feed.topic} {feed.group}", round(delay * 1000), "earliest"])
            self._hint((key, hint))
        self._changed.set()

    def topic_found(self, topic: str) -> None:
        """A topic that may be new, such as one that was just published to here."""
        for consumer, pattern in self._patterns.items():
            if topic not in consumer.feeds and pattern.matches(topic):
                consumer.add_topic(topic)
                consumer.wake()

    def _hint(self, command: Routed) -> None:
        """Hints are a convenience: what is parked is found without them, only later."""
        task = asyncio.get_running_loop().create_task(self._services.pipe.call_many([command]))
        self._hinting.add(task)
        task.add_done_callback(self._hinting.discard)

    # --- its task -----------------------------------------------------------------------------------------

    async def _go_on(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                fault = await self._take_turn()
            except RedisFailure as failure:
                # The consumers find out for themselves, and say so.
                logger.debug("the upkeep failed: %s", failure.kind)
            else:
                if fault is None:
                    self._trouble.over()
                    pause = FIRST_PAUSE
                else:
                    self._trouble.failed("do all that is due", fault)
                    await asyncio.sleep(pause)
                    pause = grown(pause)
            self._changed.clear()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float:
        soonest = min(self._topics_at, self._hints_at, self._look_at, self._epoch_at)
        if self._timers:
            soonest = min(soonest, self._timers[0][0])
        return min(_TURN, max(0.005, soonest - time.monotonic()))

    async def _take_turn(self) -> BaseException | None:
        """Does what is due. What goes wrong with one thing is returned, and keeps nobody from the next one.

        Raises ``RedisFailure``: then the rest would fail as well.
        """
        now = time.monotonic()
        steps = (
            self._look_for_losses,
            self._hand_on_what_is_due,
            self._find_topics,
            self._say_again,
            self._store_losses,
            self._notice_deaths,
            self._look_at_next,
        )
        fault: BaseException | None = None
        for step in steps:
            failure = await fault_of(step(now))
            if isinstance(failure, RedisFailure):
                raise failure
            fault = fault if failure is None else failure
        return fault

    async def _hand_on_what_is_due(self, now: float) -> None:
        due: dict[Feed, None] = {}
        while self._timers and self._timers[0][0] <= now:
            due[heapq.heappop(self._timers)[2]] = None
        if now >= self._hints_at:
            self._hints_at = now + _TURN
            due.update(dict.fromkeys(await self._hinted()))
        if due:
            await self._hand_on([*due])

    async def _say_again(self, _now: float) -> None:
        await self._services.census.say_again()

    async def _find_topics(self, now: float) -> None:
        if now < self._topics_at:
            return
        self._topics_at = now + self._services.options.topic_refresh / 2
        if self._patterns or self._services.registry.has_own:
            for topic in await self._services.registry.refresh():
                self.topic_found(topic)

    # --- what was lost ------------------------------------------------------------------------------------

    async def _look_for_losses(self, now: float) -> None:
        """Whether the server has everything that it had."""
        if now < self._epoch_at:
            return
        refresh = self._services.options.topic_refresh
        self._epoch_at = again = now + min(_TURN, refresh)  # if it fails
        if await self._services.epoch.has_ended():
            await self._begin_again()
        await self._services.accepted.look()
        if self._epoch_at == again:  # nothing was suspected meanwhile
            self._epoch_at = now + refresh

    async def _begin_again(self) -> None:
        """The server has lost its data: says again what is wanted, and makes groups anew."""
        self._services.ledger.epoch_ended()
        self._services.accepted.forget()
        self._topics_at = 0.0
        for consumer in self._consumers:
            for feed in consumer.feeds.values():
                feed.is_open = False
            consumer.wake()
        await self._services.census.say_again(all_of_it=True)

    async def _store_losses(self, _now: float) -> None:
        """Adds what was counted here to the counts that everybody can read."""
        services, uncounted = self._services, self._services.ledger.uncounted
        commands: list[Routed] = []
        batches = uncounted.batches()
        for topic, number, counts in batches:
            places = [services.keys.losses_of(topic), services.keys.told(topic)]
            told = [argument for pair in counts.items() for argument in pair]
            commands.append((places[0], COUNT.command(places, [services.name, number, _TOLD_FOR, *told])))
        replies = await services.pipe.call_many(commands) if commands else []
        for (topic, *_), reply in zip(batches, replies, strict=True):
            if not isinstance(reply, RedisFailure):
                uncounted.arrived(topic)

    # --- what is parked -----------------------------------------------------------------------------------

    async def _hinted(self) -> list[Feed]:
        """Feeds of ours that have something due, as far as hints tell."""
        key = self._services.keys.due
        names = await self._services.pipe.run(HINTS, [key], _HINTS_AT_ONCE, round(_TOLD_AGAIN * 1000))
        if not names:
            return []
        feeds = {
            f"{feed.topic} {feed.group}".encode(): feed
            for consumer in self._consumers
            for feed in consumer.feeds.values()
        }
        return [feeds[name] for name in names if name in feeds]

    async def _hand_on(self, feeds: list[Feed]) -> None:
        """Moves what is due to the inboxes, and remembers when the next one is."""
        key = self._services.keys.due
        while feeds:
            keys = [[feed.parked, feed.inbox.key] for feed in feeds]
            replies = await self._services.pipe.call_many(
                [(pair[0], DUE.command(pair, [_DUE_AT_ONCE])) for pair in keys]
            )
            again: list[Feed] = []
            for feed, reply in zip(feeds, replies, strict=True):
                if isinstance(reply, RedisFailure):
                    self._remember(feed, _TURN)
                    continue
                moved, following = reply
                name = f"{feed.topic} {feed.group}"
                if moved == _DUE_AT_ONCE:
                    again.append(feed)
                elif following >= 0:
                    self._remember(feed, following / 1000)
                    self._hint((key, HINT.command([key], [name, following, "set"])))
                elif moved:
                    self._hint((key, HINT.command([key], [name, 0, "clear"])))
            feeds = again

    def _remember(self, feed: Feed, delay: float) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay + _SLACK, next(self._numbers), feed))

    # --- the dead -----------------------------------------------------------------------------------------

    async def _notice_deaths(self, _now: float) -> None:
        """Looks everywhere when an instance is seen to have died, and once more a heartbeat later."""
        leases = self._services.leases
        if leases.dead - self._dead:
            self._dead_beats = leases.beats + 2
        if self._dead_beats and (leases.dead - self._dead or leases.beats >= self._dead_beats):
            if leases.beats >= self._dead_beats:
                self._dead_beats = 0
            for consumer in self._consumers:
                for feed in consumer.feeds.values():
                    consumer.look_for_dead(feed)
                consumer.wake()
        self._dead = leases.dead

    async def _look_at_next(self, now: float) -> None:
        """One feed after the other: what belonged to the dead, what is parked, who has left."""
        if now < self._look_at:
            return
        if not self._looking:
            self._rounds += 1
            self._looking = [
                (consumer, feed) for consumer in self._consumers for feed in consumer.feeds.values()
            ]
        lease = self._services.options.lease
        self._look_at = time.monotonic() + max(_LOOK, lease / 3 / max(1, len(self._looking)))
        if not self._looking:
            return
        consumer, feed = self._looking.pop()
        if consumer not in self._consumers or not feed.is_open:
            return
        consumer.look_for_dead(feed)
        await self._hand_on([feed])
        if self._rounds % _FORGOTTEN_AFTER == 0:
            arguments = [feed.group, "", round(_FORGOTTEN_AFTER * lease * 1000)]
            await self._services.pipe.call_many(
                [(source.key, LEAVE.command([source.key], arguments)) for source in feed.sources]
            )
