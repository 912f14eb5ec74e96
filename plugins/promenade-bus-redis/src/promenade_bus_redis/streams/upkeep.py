"""The periodic maintenance of all subscriptions of one adapter, in one task.

It offers new topics to patterns, returns due retries, and claims entries of dead consumers. When an instance
has died, it claims in all feeds at once, otherwise in one feed after the other. An idle worker sends a few
commands a second for this, however many subscriptions it has.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from bus_core import TopicPattern
from bus_core.events import TopicIndex
from bus_core.runtime import FIRST_PAUSE, BackgroundTask, fault_of, lease_clock, next_pause, plain_logger
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import COUNT, DUE, LEAVE, NOBODY
from promenade_bus_redis.streams.feeds import Feed, StreamSource
from promenade_bus_redis.streams.names import instance_of, next_owner_of, raw, text
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.streams.settlement import Parked

__all__ = ["Upkeep", "Wakeable"]

logger = plain_logger("promenade.bus.redis")

_TURN: Final = 1.0
"""The maximum time in seconds between two runs of work that is not urgent."""

_LOOK: Final = 3.0
"""The minimum time in seconds between two checks of a feed, because each is several commands."""

_DUE_AT_ONCE: Final = 100
_TOLD_FOR: Final = 86_400_000
"""Milliseconds for which the server remembers the losses that an instance has reported."""

_HINTED: Final = 10.0
"""Seconds between two reads of the hints about parked retries, if no instance has left or died."""

_GRACE: Final = 0.5
"""Seconds for which parked retries are left to the process that parked them."""

_SLACK: Final = 0.01
_ROUNDS: Final = 10
"""The number of checks of all feeds between two removals of dead consumers."""


class Wakeable(Protocol):
    """The interface of the upkeep to a consumer."""

    @property
    def feeds(self) -> dict[str, Feed]:
        """Its feeds, by topic."""
        ...

    @property
    def pattern(self) -> TopicPattern | None:
        """Its pattern, if it has one."""
        ...

    def add_topic(self, topic: str) -> None:
        """Reads another topic."""
        ...

    def note_dead_owners(self, feed: Feed) -> None:
        """Notes that a feed may have entries of dead consumers, to be claimed before the next read."""
        ...

    def wake(self) -> None:
        """Ends a wait."""
        ...


class Upkeep:
    """The maintenance task and its state."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._consumers: dict[Wakeable, None] = {}
        self._patterns: TopicIndex[Wakeable] = TopicIndex()  # consumers with a pattern
        self._left_out: dict[tuple[Wakeable, str], None] = {}  # topics to be retried
        self._timers: list[tuple[float, int, Feed]] = []
        self._waiting: dict[Feed, dict[str, float]] = {}  # parked retries, and when they are due
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._background = BackgroundTask(self._go_on, "promenade-redis-upkeep")
        self._topics_at = 0.0
        self._hints_at = 0.0
        self._look_at = 0.0
        self._epoch_at = 0.0
        self._looking: list[tuple[Wakeable, Feed]] = []
        self._dead: frozenset[str] = frozenset()
        self._departures = 0
        self._check_all_feeds_at: float | None = None
        self._leaving: dict[tuple[StreamSource, str], None] = {}
        self._rounds = 0
        self._undecided: set[Feed] = set()  # feeds whose owners are not judged yet
        self._hinting: set[asyncio.Task[object]] = set()
        self._trouble = services.losses.trouble("the upkeep of the Redis adapter")

    # --- what others tell it ------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the task."""
        self._background.start()

    async def close(self) -> None:
        """Stops the task, after a due check for lost data, and after storing the counted losses."""
        if not self._background.is_started:
            return
        await self._background.end()
        if self._hinting:
            await asyncio.wait(self._hinting)
        try:
            await self._check_stored_events()
        except RedisFailure as failure:
            logger.debug("the last check for lost data failed: %s", failure.kind)
        await self._store_losses(time.monotonic())

    def look_after(self, consumer: Wakeable) -> None:
        """Adds an opened consumer, and the topics found meanwhile."""
        self._consumers[consumer] = None
        if consumer.pattern is not None:
            self._patterns.add(consumer.pattern.text, consumer)
            for topic in self._services.registry.known(consumer.pattern):
                _offer(consumer, topic)
        self._hints_at = min(self._hints_at, time.monotonic() + _TURN)

    def forget(self, consumer: Wakeable) -> None:
        """Removes a closing consumer."""
        self._consumers.pop(consumer, None)
        if consumer.pattern is not None:
            self._patterns.discard(consumer.pattern.text, consumer)

    @property
    def consumers(self) -> tuple[Wakeable, ...]:
        """The open consumers of this instance."""
        return tuple(self._consumers)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of this instance's groups, sorted."""
        return tuple(sorted({topic for consumer in self._consumers for topic in consumer.feeds}))

    def suspect_loss(self) -> None:
        """Schedules a check for lost data after something was missing on the server."""
        self._epoch_at = 0.0
        self._changed.set()

    def parked(self, parked: Iterable[Parked]) -> None:
        """Adds retries that were parked here."""
        now = time.monotonic()
        hinted: dict[Feed, None] = {}
        for each in parked:
            self._wait_for(each.feed, each.score, now + each.delay + _SLACK)
            hinted[each.feed] = None
        key = self._services.keys.due
        for feed in hinted:
            self._hint((key, ("ZADD", key, 0, _hint_of(feed))))
        if hinted:
            self._changed.set()

    def check_feeds_in(self, seconds: float) -> None:
        """Checks all feeds for entries of dead consumers after this many seconds."""
        at = time.monotonic() + seconds + _SLACK
        if self._check_all_feeds_at is None or at < self._check_all_feeds_at:
            self._check_all_feeds_at = at
            self._changed.set()

    async def leave(self, sources: Iterable[StreamSource], consumer: str) -> None:
        """Gives up the entries of a closed consumer whose instance lives on; others claim them after a lease.

        Raises ``RedisFailure``, and then repeats it later.
        """
        leaving = [(source, consumer) for source in sources]
        try:
            await self._leave(leaving)
        except BaseException:
            self._leaving.update(dict.fromkeys(leaving))
            raise

    async def _leave(self, leaving: Sequence[tuple[StreamSource, str]]) -> None:
        commands = [_leaving(source, name, next_owner_of(name)) for source, name in leaving]
        failure: RedisFailure | None = None
        for (source, name), reply in zip(leaving, await self._services.pipe.call_many(commands), strict=True):
            # Without the group, or with a foreign key instead, no entries are held there.
            if isinstance(reply, RedisFailure) and reply.kind not in (Kind.NO_GROUP, Kind.WRONG_TYPE):
                failure = failure or reply
                continue
            self._leaving.pop((source, name), None)
            if isinstance(reply, int) and reply > 0:
                self._services.losses.lose(reply, source.feed.topic, source.group)
        if failure is not None:
            raise failure

    def left_out(self, consumer: Wakeable, topic: str) -> None:
        """Records that a consumer skips a topic, until the next search for topics."""
        self._left_out[consumer, topic] = None

    def topic_found(self, topic: str) -> None:
        """Handles a topic that may be new."""
        for consumer in self._patterns.matching(topic):
            _offer(consumer, topic)

    def _hint(self, command: Routed) -> None:
        """Sends a hint. Without it parked retries are found later."""
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
                # The consumers detect it themselves and report it.
                logger.debug("the upkeep failed: %s", failure.kind)
            else:
                if fault is None:
                    self._trouble.over()
                    pause = FIRST_PAUSE
                else:
                    self._trouble.failed("do all due work", fault)
                    await asyncio.sleep(pause)
                    pause = next_pause(pause)
            self._changed.clear()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float:
        soonest = min(self._topics_at, self._hints_at, self._look_at, self._epoch_at)
        if self._check_all_feeds_at is not None:
            soonest = min(soonest, self._check_all_feeds_at)
        if self._timers:
            soonest = min(soonest, self._timers[0][0])
        return min(_TURN, max(0.005, soonest - time.monotonic()))

    async def _take_turn(self) -> BaseException | None:
        """Does the due work. An error in one step, or a lasting refusal, does not stop the others.

        Returns such an error. Raises ``RedisFailure``: at once if the other steps would fail, too, because
        there is only one server.
        """
        now = time.monotonic()
        steps = (
            self._look_for_losses,
            self._notice_departures,
            self._return_due,
            self._leave_again,
            self._find_topics,
            self._announce_again,
            self._store_losses,
            self._check_all_feeds,
            self._check_next_feed,
        )
        fault: BaseException | None = None
        refusal: RedisFailure | None = None
        for step in steps:
            failure = await fault_of(step(now))
            if isinstance(failure, RedisFailure):
                if failure.ends_connection and not self._services.locator.is_cluster:
                    raise failure
                if failure.is_lasting:
                    fault = fault or failure
                refusal = refusal or failure
            else:
                fault = fault or failure
        if fault is None and refusal is not None:
            raise refusal
        return fault

    async def _return_due(self, now: float) -> None:
        due: dict[Feed, None] = {}
        while self._timers and self._timers[0][0] <= now:
            due[heapq.heappop(self._timers)[2]] = None
        if now >= self._hints_at:
            self._hints_at = now + _HINTED
            due.update(dict.fromkeys(await self._hinted()))
        if due:
            await self._return_parked([*due])

    async def _leave_again(self, _now: float) -> None:
        if self._leaving:
            await self._leave([*self._leaving])

    async def _announce_again(self, _now: float) -> None:
        await self._services.records.announce_again()

    async def _find_topics(self, now: float) -> None:
        if now < self._topics_at:
            return
        self._topics_at = now + self._services.options.topic_refresh / 2
        if self._patterns or self._services.registry.has_own:
            await self._services.registry.update(at_once=False)
            again, self._left_out = self._left_out, {}
            for consumer, topic in again:
                if consumer in self._consumers:
                    _offer(consumer, topic)

    # --- what was lost ------------------------------------------------------------------------------------

    async def _look_for_losses(self, now: float) -> None:
        """Checks that the server still has its data."""
        if now < self._epoch_at:
            return
        refresh = self._services.options.topic_refresh
        self._epoch_at = again = now + min(_TURN, refresh)  # in case it fails
        if await self._services.epoch.has_ended():
            await self._begin_again()
        elif await self._services.records.is_forgotten():
            await self._services.records.announce_again(all_of_it=True)
        if await self._services.stored_events.look(self._services.epoch.has_ended):
            await self._begin_again()
        if self._epoch_at == again:  # no new suspicion meanwhile
            self._epoch_at = now + refresh

    async def _check_stored_events(self) -> None:
        """Counts what a server has lost that broke a connection shortly before the end."""
        services = self._services
        if services.stored_events.is_check_due:
            has_ended = services.epoch.has_ended
            if await has_ended() or await services.stored_events.look(has_ended):
                services.losses.epoch_ended()

    async def _begin_again(self) -> None:
        """After the server lost its data: declares everything again, and recreates groups."""
        self._services.losses.epoch_ended()
        self._services.stored_events.forget()
        self._topics_at = 0.0
        for consumer in self._consumers:
            for feed in consumer.feeds.values():
                feed.is_open = False
            consumer.wake()
        await self._services.records.announce_again(all_of_it=True)

    async def _store_losses(self, _now: float) -> None:
        """Adds the losses counted here to the counts on the server."""
        services, unreported = self._services, self._services.losses.unreported
        commands: list[Routed] = []
        batches = unreported.batches()
        for topic, number, counts in batches:
            places = [services.keys.losses_of(topic), services.keys.told(topic)]
            told = [argument for pair in counts.items() for argument in pair]
            commands.append((places[0], COUNT.command(places, [services.name, number, _TOLD_FOR, *told])))
        replies = await services.pipe.call_many(commands) if commands else []
        for (topic, *_), reply in zip(batches, replies, strict=True):
            if not isinstance(reply, RedisFailure):
                unreported.arrived(topic)

    # --- what is parked -----------------------------------------------------------------------------------

    async def _hinted(self) -> list[Feed]:
        """Returns own feeds with parked retries, according to the hints."""
        key = self._services.keys.due
        names = await self._services.pipe.call("ZRANGEBYSCORE", key, "-inf", "+inf", key=key)
        if not names:
            return []
        feeds = {
            _hint_of(feed).encode(): feed for consumer in self._consumers for feed in consumer.feeds.values()
        }
        return [feeds[name] for name in names if name in feeds]

    async def _return_parked(self, feeds: list[Feed]) -> None:
        """Moves due retries to the inboxes, and schedules the others.

        Raises ``RedisFailure``.
        """
        key = self._services.keys.due
        failure: RedisFailure | None = None
        while feeds:
            now = time.monotonic()
            commands: list[Routed] = []
            for feed in feeds:
                scores = [score for score, at in self._waiting.get(feed, {}).items() if at <= now]
                commands.append(
                    (feed.parked, DUE.command([feed.parked, feed.inbox.key], [_DUE_AT_ONCE, *scores]))
                )
            sent = lease_clock()
            replies = await self._services.pipe.call_many(commands)
            again: list[Feed] = []
            for feed, command, reply in zip(feeds, commands, replies, strict=True):
                if isinstance(reply, RedisFailure):
                    self._wake_at(feed, time.monotonic() + _TURN)
                    failure = failure or reply
                    continue
                _moved, more, stamp, left, strange = reply
                self._services.losses.strange(strange, feed.topic, feed.group)
                self._services.leases.clock.note(int(stamp) / 1000, sent, lease_clock())
                if more:
                    again.append(feed)
                    continue
                waiting = self._waiting.get(feed, {})
                for score in command[1][6:]:
                    waiting.pop(score, None)
                self._wait_for_others(feed, left)
                if not left:
                    self._waiting.pop(feed, None)
                    self._hint((key, ("ZREM", key, _hint_of(feed))))
            feeds = again
        if failure is not None:
            raise failure

    def _wait_for_others(self, feed: Feed, left: Sequence[bytes]) -> None:
        """Schedules the parked retries of dead processes, on the clock of this process.

        Their delays began in server time, which may have stepped since. In any case the wait from now on is
        at most the delay.
        """
        waiting, clock = self._waiting.setdefault(feed, {}), self._services.leases.clock
        for score, delay in zip(left[::2], left[1::2], strict=True):
            known = score.decode()
            if known in waiting:
                continue
            seconds = int(delay) / 1000
            now = lease_clock()
            began = clock.own_of(float(score) / 1000 - seconds, now)
            waited = 0.0 if began is None else max(0.0, now - began)
            self._wait_for(feed, known, time.monotonic() + max(0.0, seconds - waited) + _GRACE)

    def _wait_for(self, feed: Feed, score: str, at: float) -> None:
        waiting = self._waiting.setdefault(feed, {})
        waiting[score] = max(at, waiting.get(score, at))  # of the same millisecond
        self._wake_at(feed, waiting[score])

    def _wake_at(self, feed: Feed, at: float) -> None:
        heapq.heappush(self._timers, (at, next(self._numbers), feed))

    # --- the dead -----------------------------------------------------------------------------------------

    async def _notice_departures(self, now: float) -> None:
        """Checks all feeds when an instance has died or left."""
        leases = self._services.leases
        dead = frozenset(leases.dead)
        if dead - self._dead or leases.departures != self._departures:
            self._hints_at = 0.0
        if dead - self._dead:
            self._check_all_feeds_at = now
        self._dead, self._departures = dead, leases.departures

    async def _check_all_feeds(self, now: float) -> None:
        if self._check_all_feeds_at is None or now < self._check_all_feeds_at:
            return
        self._check_all_feeds_at = None
        for consumer in self._consumers:
            for feed in consumer.feeds.values():
                consumer.note_dead_owners(feed)
            consumer.wake()

    async def _check_next_feed(self, now: float) -> None:
        """Checks one feed: entries of dead consumers, parked retries, and left consumers."""
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
        consumer.note_dead_owners(feed)
        await self._return_parked([feed])
        if self._rounds % _ROUNDS == 0 or feed in self._undecided:
            self._undecided.discard(feed)
            await self._remove_the_dead(feed)

    async def _remove_the_dead(self, feed: Feed) -> None:
        """Removes consumers of dead instances that own nothing."""
        pipe, sources = self._services.pipe, feed.sources
        replies = await pipe.call_many(
            [(source.key, ("XINFO", "CONSUMERS", source.key, source.group)) for source in sources]
        )
        names: dict[StreamSource, list[str]] = {}
        for source, reply in zip(sources, replies, strict=True):
            if isinstance(reply, RedisFailure):
                raise reply
            facts = (dict(zip(each[::2], each[1::2], strict=True)) for each in reply)
            names[source] = [text(each[b"name"]) for each in facts if not each[b"pending"]]
        instances = {instance_of(name) for found in names.values() for name in found}
        dead, more_in = await self._services.leases.judge(pipe, instances)
        if more_in is not None:
            self._undecided.add(feed)
        await pipe.call_many(
            [
                _leaving(source, name, "")
                for source, found in names.items()
                for name in found
                if instance_of(name) in dead and name != NOBODY
            ]
        )


def _offer(consumer: Wakeable, topic: str) -> None:
    """Offers a topic of its pattern to a consumer."""
    if topic not in consumer.feeds:
        consumer.add_topic(topic)
        consumer.wake()


def _leaving(source: StreamSource, name: str, next_owner: str) -> Routed:
    feed = source.feed
    keys = [source.key, source.notes, feed.settled, feed.losses]
    return source.key, LEAVE.command(
        keys, [source.group, raw(name), raw(next_owner), feed.topic, source.notes_prefix]
    )


def _hint_of(feed: Feed) -> str:
    return f"{feed.topic} {feed.group}"
