"""The consumer of a group: receives entries and settles outcomes for the engine.

Entries come from four sources: new entries, the group's inbox, pending entries of a lost reply, and entries
of dead consumers.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

from bus_core import BusError, Outcome, Received, SubscriptionSpec, TopicPattern
from bus_core.events import is_pattern
from promenade_bus_redis.server.blocking_link import BlockingLink
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import NOBODY, READ
from promenade_bus_redis.streams.active_lock import ActiveLock, fenced_by
from promenade_bus_redis.streams.feeds import Feed, HeldEntry, StreamSource
from promenade_bus_redis.streams.holdings import Holdings
from promenade_bus_redis.streams.leases import NO_SESSION
from promenade_bus_redis.streams.read_size import WIDER
from promenade_bus_redis.streams.recovery import Recovery
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.streams.settlement import settle
from promenade_bus_redis.streams.upkeep import Upkeep

__all__ = ["GroupConsumer"]

_STREAMS_AT_ONCE: Final = 1000
"""The maximum number of streams in one read."""

_STANDBY: Final = 1.0
"""Seconds between two attempts of a standby instance to become active."""

_AWAY: Final = 0.05
"""Seconds between two reads after which entries may have been trimmed in between."""

_MOST_COUNTED: Final = 16
"""The number of topics up to which each is checked before a read; with more, retention checks them."""

_CLOSING: Final = 2.0
"""The time limit in seconds for leaving a group."""


class GroupConsumer:
    """Implements ``bus_core.Consumer`` for a group subscription, on any number of topics.

    ``link`` is its own connection for blocking reads; without one it waits together with others. An ordered
    group always waits with others, because its read must be refused if another instance became active.
    """

    def __init__(
        self, services: Services, upkeep: Upkeep, spec: SubscriptionSpec, link: BlockingLink | None
    ) -> None:
        self.spec = spec
        self.pattern = TopicPattern(spec.topic) if is_pattern(spec.topic) else None
        self.name = services.name_consumer(ordered=spec.ordered)
        self._holdings = Holdings(spec.group, self.name)
        self._services = services
        self._upkeep = upkeep
        self._link = link
        self._is_open = False  # True once the groups exist on the known topics
        self._stopped = False
        self._sources: dict[bytes, StreamSource] = {}
        leave_out = self._leave_out if self.pattern is not None else None
        self._recovery = Recovery(services, upkeep, self._holdings, self._read_anew, leave_out)
        key = services.keys.active(spec.topic, spec.group) if spec.ordered else None
        self._active_lock = ActiveLock(services, key, self.name)
        self._active_number = 0
        self._later: dict[asyncio.TimerHandle, Received] = {}  # delivered again here, later
        self._watch = services.wakeups.watch()
        self._read_at = 0.0
        self._session = services.leases.session  # in which held entries are known to be owned
        self._is_behind = False  # True if there was more than it could take
        self._unread: dict[Feed, None] = {}  # feeds that may have more
        self._left_out: dict[str, Feed] = {}  # skipped feeds, with their held entries

    @property
    def feeds(self) -> dict[str, Feed]:
        """Its feeds, by topic."""
        return self._holdings.feeds

    # --- what the engine calls ----------------------------------------------------------------------------

    @property
    def longest_hold(self) -> float:
        """The limit of local waits: longer retries are parked, except in an ordered group."""
        if self.spec.ordered:
            return math.inf
        return self._services.options.lease / 3

    async def receive(self, limit: int) -> Sequence[Received]:
        """Returns available events, or waits a few seconds for some; see ``bus_core.Consumer``."""
        if not self._holdings.ready and not self._stopped:
            try:
                await self._fill(limit)
            except BaseException as failure:  # even a cancellation: we own the entries of the reply
                self._distrust(failure)
                raise
            self._read_at = self._services.read_at = time.monotonic()
        await self._confirm_ready()
        ready = self._holdings.ready
        return [ready.popleft() for _ in range(min(limit, len(ready)))]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Carries out outcomes; see ``bus_core.Consumer``."""
        stays = self.spec.ordered and not self._stopped
        in_place = ("" if stays else NOBODY) if self.spec.ordered else None
        leases = self._services.leases
        settled = await settle(self._services.pipe, self.name, outcomes, leases.is_sure, in_place)
        for outcome, result in zip(outcomes, settled.results, strict=True):
            held: HeldEntry = outcome.receipt
            if outcome.action == "hold":
                self._recovery.cleared(held)
                continue
            if isinstance(result, RedisFailure):
                continue
            if result is None and stays and outcome.action in ("release", "retry"):
                self._recovery.cleared(held)
                self._hand_out_again(held, outcome.delay)
                continue
            self._recovery.settled(held)
        self._upkeep.parked(settled.parked)
        for feed in settled.lost:
            self._services.losses.lose(1, feed.topic, feed.group)
        return settled.results

    def _hand_out_again(self, held: HeldEntry, delay: float) -> None:
        """Delivers a released entry again here, because an ordered group cannot move it."""
        received = self._holdings.received(held, redelivered=True)

        def hand_out() -> None:
            self._later.pop(timer, None)
            self._holdings.ready.appendleft(received)
            self.wake()

        timer = asyncio.get_running_loop().call_later(delay, hand_out)
        self._later[timer] = received

    @property
    def in_doubt(self) -> bool:
        """Returns True if others may own received entries; see ``bus_core.LeasingConsumer``."""
        return self._session == NO_SESSION or self._services.leases.session != self._session

    async def confirm(self, receipts: Sequence[HeldEntry]) -> Sequence[bool]:
        """Renews the lease; returns for each entry if this consumer owns it. Raises ``RedisFailure``."""
        self._session, owned = await self._recovery.confirm(receipts)
        return owned

    async def has_standby(self) -> bool:
        """Returns True if another instance stands by; see ``bus_core.YieldingConsumer``."""
        alive = await self._services.alive()
        return bool(await self._services.records.others_on(self.spec, alive))

    async def _confirm_ready(self) -> None:
        """Drops entries not yet passed to the engine that others own. Raises ``RedisFailure``."""
        session = self._services.leases.session
        doubtful = [
            received.receipt
            for received in self._holdings.ready
            if session == NO_SESSION or received.receipt.session != session
        ]
        if doubtful:
            _, owned = await self._recovery.confirm(doubtful)
            lost = {held for held, is_owned in zip(doubtful, owned, strict=True) if not is_owned}
            self._holdings.ready = deque(
                received for received in self._holdings.ready if received.receipt not in lost
            )

    def stop(self) -> None:
        """Stops receiving."""
        self._stopped = True
        self.wake()

    async def close(self) -> None:
        """Leaves the group; others claim its unsettled entries when its lease ends."""
        self._stopped = True
        self._upkeep.forget(self)
        self._services.records.leave(self.spec)
        self._watch.close()
        try:
            async with asyncio.timeout(_CLOSING):
                await self._give_back()
                await self._leave()
                await self._active_lock.give_back()
                await self._services.records.announce_left()
        except (RedisFailure, TimeoutError):
            pass  # the upkeep repeats it, or others detect that the instance is dead
        finally:
            if self._link is not None:
                await self._services.give_back_link(self._link)

    # --- what the upkeep calls ----------------------------------------------------------------------------

    def wake(self) -> None:
        """Ends a wait, because there is other work."""
        if self._link is not None:
            self._link.interrupt()
        self._watch.wake()

    def note_dead_owners(self, feed: Feed) -> None:
        """Notes that a feed has entries of dead consumers, which the next read claims."""
        feed.claim_due = True

    def add_topic(self, topic: str) -> None:
        """Reads another topic from the next read on."""
        if topic in self.feeds:
            return
        feed = self._left_out.pop(topic, None)
        if feed is None:
            feed = Feed(self._services.keys, topic, self.spec.group)
            feed.is_new = self._is_open
        self.feeds[topic] = feed
        for source in feed.sources:
            self._sources[source.key.encode()] = source
        self._unread[feed] = None

    def _read_anew(self, feed: Feed) -> None:
        """Reads a feed from its beginning, even if no new event comes."""
        self._unread[feed] = None

    def _leave_out(self, feed: Feed) -> None:
        """Goes on without one topic of a pattern, until the next search for topics."""
        self._left_out[feed.topic] = self.feeds.pop(feed.topic)
        feed.is_open, feed.must_count, feed.claim_due = False, True, True
        for source in feed.sources:
            del self._sources[source.key.encode()]
        self._unread.pop(feed, None)
        self._upkeep.left_out(self, feed.topic)
        self._services.losses.left_out(feed.topic, self.spec.group)

    async def open(self, topics: Iterable[str], start: str) -> None:
        """Creates the groups on the existing topics. Raises ``RedisFailure``."""
        for topic in topics:
            self.add_topic(topic)
        await self._recovery.open_groups("$" if start == "latest" else "0")
        self._is_open = True

    # --- reading ------------------------------------------------------------------------------------------

    async def _fill(self, limit: int) -> None:
        if not await self._may_read():
            return
        if self._link is None and self._may_have_missed:
            for feed in self._unread:
                feed.must_count = True
        await self._recovery.recover(limit, self._active_lock)
        if self._holdings.ready or self._stopped:
            return
        if self._active_lock.is_ordered and self._recovery.must_wait:
            await self._recovery.pause()  # older entries first
            for feed in self.feeds.values():
                feed.claim_due |= feed.is_awaited
            return
        if not self.feeds:
            await self._watch.wait(self._services.options.block)
            return
        try:
            if self._link is not None:
                await self._read_and_wait(limit)
            else:
                await self._read_and_wait_with_others(limit)
        except RedisFailure as failure:
            if not self._recovery.may_regroup(failure):
                raise
            await self._recovery.regroup()

    async def _may_read(self) -> bool:
        """Returns True if this instance is active; otherwise waits a while."""
        if not self._active_lock.is_taken and not await self._active_lock.take():
            return await self._stand_by()
        if self._active_number != self._active_lock.number:
            if self.spec.ordered and await self._comes_later():
                return await self._stand_by()
            self._active_number = self._active_lock.number
            for feed in self.feeds.values():
                feed.claim_due = True
                self._unread[feed] = None
        return not self._stopped

    async def _comes_later(self) -> bool:
        """Returns True if an earlier instance serves the same events in order by another pattern."""
        services = self._services
        ahead = await services.records.ahead_of(self.spec)
        dead, _ = await services.leases.judge(services.pipe, ahead)
        services.records.note_waiting(self.spec, ahead := {*ahead} - dead.keys())
        return bool(ahead)

    async def _stand_by(self) -> bool:
        self._watch.woken.clear()
        await self._watch.wait(_STANDBY)
        return False

    def _distrust(self, failure: BaseException) -> None:
        """After a failure, expects entries that were delivered to us and never arrived."""
        if not isinstance(failure, RedisFailure) or failure.is_uncertain or failure.ends_connection:
            for feed in self.feeds.values():
                feed.must_sweep = True
            self._holdings.read_size.failed()

    @property
    def _may_have_missed(self) -> bool:
        """Returns True if unread entries may have been trimmed."""
        if not self._services.counts_gaps or len(self.feeds) > _MOST_COUNTED:
            return False
        return self._is_behind or time.monotonic() - self._read_at > _AWAY

    async def _read_and_wait(self, limit: int) -> None:
        """Reads on its own connection, with the latency of one round trip."""
        assert self._link is not None
        session = self._services.leases.session
        count = self._holdings.read_size.count(limit)
        keys = [source.key for feed in self.feeds.values() for source in feed.sources]
        command: list[Any] = ["XREADGROUP", "GROUP", self.spec.group, self.name, "COUNT", count]
        if not self._recovery.is_busy:
            command += ["BLOCK", self._link.milliseconds]
        command += ["STREAMS", *keys, *[">"] * len(keys)]
        if self._may_have_missed:
            feeds = [*self.feeds.values()]
            found, reply = await self._link.call_both(self._recovery.gap_command(feeds), command)
            self._recovery.learn_gaps(feeds, found)
        else:
            reply = await self._link.call(command)
        self._is_behind = bool(reply) and sum(len(entries) for _, entries in reply) >= count
        if reply:
            self._arrived(reply, session)
        elif self._recovery.is_busy:
            await self._recovery.pause()

    async def _read_and_wait_with_others(self, limit: int) -> None:
        """Reads feeds that may have more, and waits only if there was nothing."""
        if not self._unread and not self._recovery.is_busy:
            await self._watch.wait(self._services.options.block)
        woken, self._watch.woken = self._watch.woken, set()
        for key in woken:
            if (source := self._sources.get(key.encode())) is not None:  # it may have been removed since
                self._unread[source.feed] = None
        if self._stopped:
            return
        left, wider = len(self._unread) + 1, 1
        while len(self._unread) < left and self._unread and not self._holdings.ready:
            left = len(self._unread)
            await self._look(limit, wider)
            wider *= WIDER
        if self._recovery.is_busy and not self._holdings.ready:
            await self._recovery.pause()

    async def _look(self, limit: int, wider: int) -> None:
        """Reads up to ``limit`` entries from feeds that may have more, longest-waiting feeds first.

        It reads as many feeds as entries are wanted, since most have one entry, or ``wider`` times as many.
        """
        session = self._services.leases.session
        count = self._holdings.read_size.count(limit)
        bundles = self._bundles(count * wider)[:count]
        commands: list[Routed] = []
        for bundle in bundles:
            keys = [source.key for feed in bundle for source in feed.sources]
            arguments = [self.spec.group, self.name, count // len(bundles), self._active_lock.token]
            commands.append((keys[0], READ.command([*keys, bundle[0].fence], arguments)))
        failure: RedisFailure | None = None
        arrived: list[Any] = []
        for bundle, reply in zip(bundles, await self._services.pipe.call_many(commands), strict=True):
            if isinstance(reply, RedisFailure):
                failure = failure or reply
            elif (token := fenced_by(reply)) is not None:
                self._active_lock.lost_to(token)
            else:
                self._learn_ends(bundle, *reply)
                arrived += reply[0]
        self._arrived(arrived, session)
        self._is_behind = bool(self._unread)
        if failure is not None:
            raise failure

    def _learn_ends(self, bundle: Sequence[Feed], found: Sequence[Any], last: Sequence[bytes]) -> None:
        """Watches feeds at their end; a feed that may have more waits for its next turn."""
        places: dict[str, bytes] = {}
        for feed, ends in zip(bundle, zip(last[::2], last[1::2], strict=True), strict=True):
            if all(ends):
                places.update(zip((source.key for source in feed.sources), ends, strict=True))
                self._unread.pop(feed, None)
        self._watch.arm(places)
        for key, _ in found:
            feed = self._sources[key].feed
            if feed in self._unread:
                del self._unread[feed]
                self._unread[feed] = None

    def _bundles(self, most: int) -> list[list[Feed]]:
        """Returns the first feeds that may have more, bundled by command."""
        feeds = [*islice(self._unread, most)]
        alone = self._services.locator.is_cluster or self._active_lock.is_ordered
        size = 1 if alone else _STREAMS_AT_ONCE
        return [feeds[first : first + size] for first in range(0, len(feeds), size)]

    def _arrived(self, reply: Sequence[Any], session: int) -> None:
        """Adds entries delivered to this consumer in a session that had begun before."""
        self._holdings.read_size.learn(entry for _, entries in reply for entry in entries)
        for key, entries in reply:
            source = self._sources[key]
            for entry_id, fields in entries:
                if fields is not None:
                    self._holdings.take(source, entry_id, fields, session)

    # --- leaving ------------------------------------------------------------------------------------------

    async def _give_back(self) -> None:
        """Releases entries that were received and never passed to the engine."""
        left, self._holdings.ready = self._holdings.ready, deque()
        for timer, received in self._later.items():
            timer.cancel()
            left.append(received)
        self._later.clear()
        if left:
            await self.settle(
                [
                    Outcome("release", each.receipt, 0.0, each.attempt, each.history, waited=each.waited)
                    for each in left
                ]
            )

    async def _leave(self) -> None:
        """Leaves the group, and gives up unsettled entries. Raises ``RedisFailure``."""
        feeds = [*self.feeds.values(), *self._left_out.values()]
        sources = [source for feed in feeds for source in feed.sources]
        for source in sources:
            for held in source.held.values():
                held.session = NO_SESSION
        await self._upkeep.leave(sources, self.name)
