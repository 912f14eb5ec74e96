"""Trims topics: one instance removes entries that every group has settled and that are old enough.

One script handles each topic in small steps. Active topics are visited often, and idle ones less and less, so
that an idle bus is quiet. The same script counts unread entries that a foreign program has removed.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from bus_core import AdapterError
from bus_core.runtime import (
    FIRST_PAUSE,
    BackgroundTask,
    counted,
    fault_of,
    lease_clock,
    next_pause,
    plain_logger,
)
from promenade_bus_redis.addresses import Address
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import EXPIRE, RAISE, TRIM
from promenade_bus_redis.streams.active_lock import ActiveLock, fenced_by
from promenade_bus_redis.streams.ages import Ages, later
from promenade_bus_redis.streams.server_clock import ServerClock
from promenade_bus_redis.streams.service_record import EVER, Demand, ServiceRecord, Span

if TYPE_CHECKING:
    from promenade_bus_redis.streams.services import Services

__all__ = ["Retention"]

logger = plain_logger("promenade.bus.redis")

RETENTION: Final = "retention"
"""The name used instead of a group when a topic cannot be read."""

_TOPICS_AT_ONCE: Final = 10
_REMOVED_AT_ONCE: Final = 1000
_DROPPED_AT_ONCE: Final = 100
_STEPS: Final = 20
"""The maximum number of steps in one call, so that old entries do not delay the rest of the upkeep."""

_FIRST: Final = 0.5
"""Seconds until the first visit, so that short-lived processes, such as commands, do not trim."""

_STANDBY: Final = 5.0
_SHORTEST: Final = 0.05
_SOONEST: Final = 0.2
_OFTEN: Final = 30.0
_SELDOM: Final = 900.0
_QUIET: Final = 2.0
"""The minimum time in seconds between visits for each idle topic, to limit the number of commands."""

_READ_AGAIN: Final = 30.0
"""Seconds after which the record is read again; a new group is protected before it reads."""


class Retention:
    """The trimming task. ``trimmed`` counts the entries that this instance has removed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._active_lock = ActiveLock(services, services.keys.upkeep, f"{services.name}#upkeep")
        self._due: list[tuple[float, str]] = []
        self._pauses: dict[str, float] = {}
        self._last_ids: dict[str, bytes] = {}
        self._foreign: dict[str, int] = {}
        self._demand = Demand()
        self._min_age = 0.0
        self._settled: Sequence[Span] = ()
        self._unsubscribed: Sequence[Span] = ()
        self._letters: Sequence[Span] = ()  # empty if they stay for ever
        self._read_at = 0.0
        self._ask_at = 0.0
        self._version = ""
        self._read_in = 0  # the lock number in which it has read the topics
        self._new: set[str] = set()  # new topics that were not visited yet
        self._bound: set[tuple[str, str]] = set()  # groups and their topics
        self._undeclared: set[tuple[str, str]] = set()  # undeclared groups and their topics
        self._noticed: set[tuple[str, str]] = set()  # undeclared groups that were noted
        self._copied: dict[bytes, bytes] = {}  # of a cluster
        self._ages: dict[tuple[str, float], Ages] = {}  # by topic and relevant age
        self._clocks: dict[Address, ServerClock] = {}  # of the nodes of a cluster
        self._background = BackgroundTask(self._go_on, "promenade-redis-retention")
        self._visiting = asyncio.Lock()
        self._trouble = services.losses.trouble("the retention of the Redis adapter")
        self.trimmed = 0
        self.expired_letters = 0

    def start(self) -> None:
        """Starts the task."""
        self._background.start()

    async def close(self) -> None:
        """Stops the task, and releases its lock for another instance."""
        await self.stop()
        await self._active_lock.give_back()

    async def stop(self) -> None:
        """Stops the task."""
        await self._background.end()

    async def _go_on(self) -> None:
        await asyncio.sleep(_FIRST)
        pause = FIRST_PAUSE
        while True:
            fault = await fault_of(self.visit())
            if fault is None:
                self._trouble.over()
                pause = FIRST_PAUSE
            elif isinstance(fault, AdapterError) and not getattr(fault, "is_lasting", False):
                logger.debug("retention failed: %s", getattr(fault, "kind", type(fault).__name__))
            else:
                self._trouble.failed("trim", fault)
                await asyncio.sleep(pause)
                pause = next_pause(pause)
                continue
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        if not self._active_lock.is_taken:
            return _STANDBY
        soonest = min(self._read_at, self._due[0][0] if self._due else self._read_at)
        return min(_STANDBY, max(_SHORTEST, soonest - time.monotonic()))

    async def visit(self) -> None:
        """Does the due work if this instance has the lock. Raises ``RedisFailure``."""
        async with self._visiting:
            await self._visit()

    async def _visit(self) -> None:
        now = time.monotonic()
        if not self._active_lock.is_taken and not await self._active_lock.take():
            return
        if now >= self._read_at or await self._has_changed(now):
            await self._read()
            refresh = self._services.options.topic_refresh
            self._read_at = now + min(_READ_AGAIN, max(_SOONEST, refresh, self._min_age / 10))
        busy = self._take_due(time.monotonic())
        try:
            for _ in range(_STEPS):
                if not busy or not self._active_lock.is_taken:
                    break
                busy = await self._trim(busy)
        except BaseException:
            planned = {topic for _, topic in self._due}
            for topic in busy:
                if topic not in planned:
                    self._plan(topic, _SOONEST)
            raise
        for topic in busy:
            self._plan(topic, 0.0)

    async def _has_changed(self, now: float) -> bool:
        """Returns True if the record has changed since it was read; checked at intervals."""
        if now < self._ask_at:
            return False
        self._ask_at = now + _STANDBY
        return await self._services.records.version() != self._version

    async def _read(self) -> None:
        """Reads the topics and the record."""
        topics = await self._services.registry.refresh()
        records, alive = self._services.records, await self._services.alive()
        record = await records.read(alive)
        is_freed = self._learn_record(record)
        await self._notice(record)
        await records.tidy(record, alive)
        if self._read_in == self._active_lock.number:
            self._new |= topics - self._pauses.keys()
        self._read_in = self._active_lock.number
        for topic in topics - self._pauses.keys():
            self._plan(topic, 0.0)
        if gone := self._pauses.keys() - topics:
            for topic in gone:
                del self._pauses[topic]
            self._ages = {place: ages for place, ages in self._ages.items() if place[0] not in gone}
        if is_freed:
            self._pauses = dict.fromkeys(sorted(self._pauses), 0.0)
            self._due = [(time.monotonic(), topic) for topic in self._pauses]

    def _learn_record(self, record: ServiceRecord) -> bool:
        """Learns the groups and retention times; returns True if one no longer applies."""
        self._version = record.version
        before = self._settled, self._unsubscribed, self._letters
        gone = self._bound - (bound := {(part.group, part.topic) for part in record.parts})
        self._bound = bound
        self._noticed &= {(topic, group) for group, topic in bound}  # a forgotten group may come back
        self._demand = Demand(record.parts)
        settled = record.spans(lambda wish: wish.settled)
        letters = record.spans(lambda wish: wish.letters)
        self._min_age = settled[0].seconds or 0.0
        self._settled = settled
        self._unsubscribed = record.spans(lambda wish: max(wish.settled, wish.unsubscribed))
        self._letters = () if letters[0].seconds is None else letters
        wanted = {span.seconds for span in (*self._settled, *self._unsubscribed)}
        self._ages = {place: ages for place, ages in self._ages.items() if place[1] in wanted}
        return bool(gone) or before != (self._settled, self._unsubscribed, self._letters)

    # --- when ---------------------------------------------------------------------------------------------

    def _take_due(self, now: float) -> list[str]:
        topics: dict[str, None] = {}
        while self._due and self._due[0][0] <= now and len(topics) < _TOPICS_AT_ONCE:
            topic = heapq.heappop(self._due)[1]
            if topic in self._pauses:
                topics[topic] = None
        return [*topics]

    def _plan(self, topic: str, pause: float) -> None:
        self._pauses[topic] = pause
        heapq.heappush(self._due, (time.monotonic() + pause, topic))

    def _plan_next(self, topic: str, last_id: bytes) -> None:
        """Plans the next visit: soon if there was something new, and otherwise later each time."""
        often = min(_OFTEN, max(_SOONEST, self._min_age / 10))
        before, self._last_ids[topic] = self._last_ids.get(topic), last_id
        if before is not None and before != last_id:
            self._plan(topic, often)
            return
        longest = max(often, min(_SELDOM, self._min_age / 4))
        pause = max(often, self._pauses[topic] * 2, min(longest, _QUIET * len(self._pauses)))
        self._plan(topic, min(longest, pause))

    # --- doing it -----------------------------------------------------------------------------------------

    async def _trim(self, topics: Sequence[str]) -> list[str]:
        """Does one step on each topic; returns the topics with more to do, and plans the others."""
        clocks = [await self._clock_for(topic) for topic in topics]
        sent = lease_clock()
        commands = [self._trimming(topic, clock, sent) for topic, clock in zip(topics, clocks, strict=True)]
        if self._letters:
            for topic, clock in zip(topics, clocks, strict=True):
                place = self._services.keys.dead(topic)
                young = " ".join(_young(span, _id_at(clock, sent, span)) for span in self._letters)
                commands.append((place, EXPIRE.command([place], [young])))
        replies = await self._services.pipe.call_many(commands)
        received = lease_clock()
        self._count_expired(replies[len(topics) :])
        again: list[str] = []
        failure: RedisFailure | None = None
        for topic, clock, reply in zip(topics, clocks, replies, strict=False):
            if isinstance(reply, RedisFailure):
                self._plan(topic, _OFTEN)
                if reply.kind is Kind.WRONG_TYPE:
                    self._services.losses.left_out(topic, RETENTION)
                else:
                    failure = reply
            elif (token := fenced_by(reply)) is not None:
                self._active_lock.lost_to(token)
                self._plan(topic, _SOONEST)
            else:
                self._services.losses.understood(topic, RETENTION)
                self._new.discard(topic)
                undeclared = {(topic, name.decode(errors="replace")) for name in reply[6]}
                self._undeclared |= undeclared - self._noticed
                clock.note(int(reply[7]) / 1000, sent, received)
                self._note_ages(topic, reply[3].decode(), received)
                if self._learn(topic, reply):
                    again.append(topic)
        if self._services.locator.is_cluster:
            await self._copy_losses(topics)
        if failure is not None:
            raise failure
        return again

    async def _notice(self, record: ServiceRecord) -> None:
        """Notes undeclared groups, so that health can name them later.

        A group is declared before it is created. A group that looked undeclared while trimming may be newer
        than the record that was read, and is in a later record.
        """
        unknown = {(topic, group) for topic, group in self._undeclared if not record.knows(group, topic)}
        await self._services.records.notice(sorted(unknown))
        self._noticed |= unknown
        self._undeclared.clear()

    async def _clock_for(self, topic: str) -> ServerClock:
        """Returns the clock of a topic's server."""
        locator = self._services.locator
        if not locator.is_cluster:
            return self._services.leases.clock
        try:
            address = await locator.find(self._services.keys.stream(topic))
        except RedisFailure:
            return ServerClock()  # the trimming step fails, too
        return self._clocks.setdefault(address, ServerClock())

    def _note_ages(self, topic: str, last_id: str, now: float) -> None:
        for span in (*self._settled, *self._unsubscribed):
            if span.seconds is not None:
                self._ages.setdefault((topic, span.seconds), Ages()).note(last_id, now, span.seconds)

    def _too_young(self, topic: str, spans: Iterable[Span], clock: ServerClock, now: float) -> str:
        """Returns the ids from which entries are too young, by the server's clock or by observation."""
        found: list[str] = []
        for span in spans:
            bound = _id_at(clock, now, span)
            if span.seconds is not None and (ages := self._ages.get((topic, span.seconds))) is not None:
                bound = later(bound, ages.bound(now, span.seconds))
            found.append(_young(span, bound))
        return " ".join(found)

    def _trimming(self, topic: str, clock: ServerClock, now: float) -> Routed:
        keys = self._services.keys
        names = [
            keys.stream(topic),
            keys.trimmed(topic),
            keys.trim_fence(topic),
            keys.settled(topic),
            keys.losses_of(topic),
        ]
        arguments = [
            self._active_lock.token,
            self._too_young(topic, self._settled, clock, now),
            self._too_young(topic, self._unsubscribed, clock, now),
            self._services.options.retention.max_length or 0,
            _REMOVED_AT_ONCE,
            _DROPPED_AT_ONCE,
            topic,
            "1" if topic in self._new else "",
            *self._demand.groups_on(topic),
        ]
        return names[0], TRIM.command(names, arguments)

    def _learn(self, topic: str, reply: Sequence[Any]) -> bool:
        """Counts the result of a step; returns True if there is more to do."""
        removed, dropped, more, last_id, foreign, lost = reply[:6]
        losses = self._services.losses
        self.trimmed += removed
        if dropped:
            losses.dropped(dropped, topic)
        for group, count in zip(lost[::2], lost[1::2], strict=True):
            losses.lose_unread(count, topic, group.decode(errors="replace"))
        before = self._foreign.get(topic)
        if foreign >= 0:
            self._foreign[topic] = foreign
            if before is not None and foreign > before:
                losses.foreign(foreign - before, topic)
        if not more:
            self._plan_next(topic, last_id)
        return bool(more)

    async def _copy_losses(self, topics: Sequence[str]) -> None:
        """Copies losses counted at the topics to the common counts. Raises ``RedisFailure``."""
        keys, pipe = self._services.keys, self._services.pipe
        places = [keys.losses_of(topic) for topic in topics]
        replies = await pipe.call_many([(place, ("HGETALL", place)) for place in places])
        found = [each for reply in replies if not isinstance(reply, RedisFailure) for each in reply]
        counts = dict(zip(found[::2], found[1::2], strict=True))
        if changed := {name: count for name, count in counts.items() if self._copied.get(name) != count}:
            await pipe.run(RAISE, [keys.losses], *[word for pair in changed.items() for word in pair])
            self._copied |= changed

    def _count_expired(self, replies: Iterable[Any]) -> None:
        count = sum(reply for reply in replies if isinstance(reply, int))
        if count:
            self.expired_letters += count
            logger.info("removed %s older than dead_letters_max_age", counted(count, "dead letter"))


def _id_at(clock: ServerClock, now: float, span: Span) -> str:
    """Returns the first id of entries younger than the span, by the server's clock."""
    if span.seconds is None:
        return "0-0"
    return f"{max(0, round(clock.stamp_of(now - span.seconds) * 1000))}-0"


def _young(span: Span, bound: str) -> str:
    return f"{bound}<{EVER if span.upto is None else span.upto}"
