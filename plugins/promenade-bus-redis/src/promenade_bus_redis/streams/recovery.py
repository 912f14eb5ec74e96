"""The recovery of a consumer: lost groups, lost replies, and entries of dead owners."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import CLAIM, FORGET_LOST, GAP, NOBODY, OWNED
from promenade_bus_redis.streams.active_lock import ActiveLock, fenced_by
from promenade_bus_redis.streams.feeds import Feed, HeldEntry, StreamSource
from promenade_bus_redis.streams.holdings import Holdings
from promenade_bus_redis.streams.leases import NO_SESSION
from promenade_bus_redis.streams.names import instance_of, is_ordered, raw, text
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.streams.upkeep import Upkeep
from promenade_bus_redis.streams.wire import EntryState

__all__ = ["Recovery"]

_MOST_SUSPECTS: Final = 16
"""The maximum number of unsettled entries claimed from dead consumers; one may kill this process, too."""

_WINDOW: Final = 200
"""The number of pending entries that one check for dead consumers reads."""

_SWEEP: Final = 500

_ASKED_AT_ONCE: Final = 200
"""The number of entries whose owners one script checks."""

_PAUSE: Final = 0.05
"""Seconds between two checks while claimed entries are being handled."""

_REGROUPINGS: Final = 3
_REGROUPINGS_WITHIN: Final = 5.0
"""The number of recreations within this many seconds after which the consumer reports a failure."""


class Recovery:
    """The part of a group's consumer that recovers old entries.

    It calls ``group_recreated`` with a topic whose group was gone and must be read from its beginning. It
    calls ``leave_out`` with a topic whose key has foreign data; the others go on.
    """

    def __init__(
        self,
        services: Services,
        upkeep: Upkeep,
        holdings: Holdings,
        group_recreated: Callable[[Feed], None],
        leave_out: Callable[[Feed], None] | None = None,
    ) -> None:
        self._group_recreated = group_recreated
        self._leave_out = leave_out
        self._services = services
        self._upkeep = upkeep
        self._holdings = holdings
        self._suspects: set[HeldEntry] = set()
        self._settled: set[tuple[StreamSource, bytes]] | None = None  # during a sweep
        self._changed = asyncio.Event()
        self._regrouped: list[float] = []

    @property
    def is_busy(self) -> bool:
        """True if more entries of dead consumers can be claimed once the claimed ones are settled."""
        return any(feed.claim_due for feed in self._holdings.feeds.values())

    @property
    def must_wait(self) -> bool:
        """True if an ordered group has pending entries that come before the next read."""
        return any(feed.claim_due or feed.is_awaited for feed in self._holdings.feeds.values())

    async def pause(self) -> None:
        """Waits until an entry is settled, or for a moment."""
        self._changed.clear()
        try:
            async with asyncio.timeout(_PAUSE):
                await self._changed.wait()
        except TimeoutError:
            pass

    def settled(self, held: HeldEntry) -> None:
        """Records that this consumer no longer owns an entry."""
        source = held.source
        if source.held.get(held.entry_id) is held:
            del source.held[held.entry_id]
        if self._settled is not None:
            self._settled.add((source, held.entry_id))
        self.cleared(held)

    def cleared(self, held: HeldEntry) -> None:
        """Records that an entry of a dead consumer was handled without killing this process."""
        if held.suspect:
            held.suspect = False
            self._suspects.discard(held)
            self._changed.set()

    async def confirm(self, entries: Sequence[HeldEntry]) -> tuple[int, Sequence[bool]]:
        """Checks which entries this consumer still owns, and drops the others.

        Also returns the session for which the result holds. Raises ``RedisFailure``.
        """
        leases, pipe = self._services.leases, self._services.pipe
        batches = [
            batch
            for source in dict.fromkeys(held.source for held in entries)
            for batch in _in_batches([held for held in entries if held.source is source])
        ]
        commands = [self._asking(batch) for batch in batches]
        while True:
            try:
                # Nobody claims entries that are owned after the heartbeat.
                session = await leases.renew(pipe)
            except RedisFailure:
                if not self._services.locator.is_cluster:
                    raise
                session = NO_SESSION  # the node of the heartbeats is down: no instance counts as dead
            replies = await pipe.call_many(commands)
            if session == NO_SESSION or leases.is_sure(session):
                break  # otherwise the result would be outdated
        owned: set[HeldEntry] = set()
        for batch, reply in zip(batches, replies, strict=True):
            if isinstance(reply, RedisFailure):
                if reply.kind is Kind.NO_GROUP:
                    continue  # without its group an entry has no owner
                raise reply
            owned.update(held for held, answer in zip(batch, reply, strict=True) if answer == 1)
        for held in entries:
            if held in owned:
                held.session = session
            else:
                self.settled(held)
        return session, [held in owned for held in entries]

    def _asking(self, batch: Sequence[HeldEntry]) -> Routed:
        source = batch[0].source
        ids = [held.entry_id for held in batch]
        return source.key, OWNED.command([source.key], [source.group, self._holdings.consumer, *ids])

    async def recover(self, limit: int, active_lock: ActiveLock) -> None:
        """Does the due recovery steps; recovered entries are received next. Raises ``RedisFailure``."""
        if any(not feed.is_open for feed in self._holdings.feeds.values()):
            await self.open_groups("0")
        feeds = [*self._holdings.feeds.values()]  # without skipped ones
        try:
            if counting := [feed for feed in feeds if feed.must_count]:
                await self._count_gaps(counting)
            if sweeping := [feed for feed in feeds if feed.must_sweep]:
                await self._sweep(sweeping)
            if self._may_claim and (claiming := [feed for feed in feeds if feed.claim_due]):
                room = self._holdings.read_size.count(min(_MOST_SUSPECTS, limit))
                most = min(_MOST_SUSPECTS, len(self._suspects) + room)
                await self._claim(claiming, most, active_lock)
                if stranded := [feed for feed in claiming if feed.must_sweep]:
                    await self._sweep(stranded)
        except RedisFailure as failure:
            if not self.may_regroup(failure):
                raise
            await self.regroup()

    @property
    def _may_claim(self) -> bool:
        """Returns False while an entry that outlived two owners is handled; it must be handled alone."""
        alone = any(held.state.deaths > 1 for held in self._suspects)
        return len(self._suspects) < _MOST_SUSPECTS and not alone

    # --- groups -------------------------------------------------------------------------------------------

    async def open_groups(self, start: Literal["0", "$"]) -> None:
        """Creates the groups that may be missing."""
        feeds = [feed for feed in self._holdings.feeds.values() if not feed.is_open]
        refused = await self._services.registry.know([feed.topic for feed in feeds])
        for failure in refused.values():
            raise failure
        commands = [command for feed in feeds for command in feed.opening(start)]
        replies = await self._services.pipe.call_many(commands)
        for index, feed in enumerate(feeds):
            pair = replies[2 * index : 2 * index + 2]
            refusals = [
                reply
                for reply in pair
                if isinstance(reply, RedisFailure) and reply.kind is not Kind.GROUP_EXISTS
            ]
            if refusals:
                if refusals[0].kind is not Kind.WRONG_TYPE or self._leave_out is None:
                    raise refusals[0]
                self._leave_out(feed)
                continue
            self._services.losses.understood(feed.topic, feed.group)
            if feed.was_open and not all(isinstance(reply, RedisFailure) for reply in pair):
                self._services.losses.reset(feed.topic, feed.group)
                self._group_recreated(feed)
            if isinstance(pair[0], int):
                self._services.losses.lose_unread(pair[0], feed.topic, feed.group)
            feed.is_open = feed.was_open = True
            feed.is_new = False

    def may_regroup(self, failure: RedisFailure) -> bool:
        """Returns True if a check of all groups helps: one is gone, or one topic has foreign data."""
        is_foreign = failure.kind is Kind.WRONG_TYPE and self._leave_out is not None
        return is_foreign or failure.kind is Kind.NO_GROUP

    async def regroup(self) -> None:
        """Recreates missing groups, and gives up after several times in a row."""
        self._upkeep.suspect_loss()
        now = time.monotonic()
        self._regrouped = [at for at in self._regrouped if now - at < _REGROUPINGS_WITHIN]
        self._regrouped.append(now)
        for feed in self._holdings.feeds.values():
            feed.is_open = False
            feed.must_count = True
        if len(self._regrouped) > _REGROUPINGS:
            await asyncio.sleep(_PAUSE * len(self._regrouped))
        await self.open_groups("0")

    async def _count_gaps(self, feeds: Sequence[Feed]) -> None:
        """Counts entries that were trimmed unread, before the group reads on."""
        if self._services.counts_gaps:
            commands = [(feed.main.key, self.gap_command([feed])) for feed in feeds]
            replies = await self._services.pipe.call_many(commands)
            for feed, reply in zip(feeds, replies, strict=True):
                if isinstance(reply, RedisFailure):
                    raise reply
                self.learn_gaps([feed], reply)
        for feed in feeds:
            feed.must_count = False

    def gap_command(self, feeds: Sequence[Feed]) -> Sequence[Any]:
        """Returns the command that counts entries trimmed unread."""
        keys = [key for feed in feeds for key in (feed.main.key, feed.trimmed, feed.settled, feed.losses)]
        known = [
            argument
            for feed in feeds
            for argument in (feed.topic, "" if feed.foreign is None else feed.foreign)
        ]
        return GAP.command(keys, [self._holdings.group, *known])

    def learn_gaps(self, feeds: Sequence[Feed], reply: object) -> None:
        """Counts the result of ``gap_command``; repeats it without one."""
        if not isinstance(reply, list):
            for feed in feeds:
                feed.must_count = True
            return
        for feed, (lost, foreign) in zip(feeds, reply, strict=True):
            if foreign == -1 and lost == -1:
                self._services.counts_gaps = False
                continue
            if foreign != b"":  # otherwise it is unknown so far
                feed.foreign = foreign
            self._services.losses.lose_unread(lost, feed.topic, feed.group)

    # --- what is ours, and was never heard of --------------------------------------------------------------

    async def _sweep(self, feeds: Sequence[Feed]) -> None:
        """Reads the pending entries of this consumer, and adds those that it does not know."""
        self._settled = set()
        try:
            for feed in feeds:
                for source in feed.sources:
                    await self._sweep_source(source)
                feed.must_sweep = False
        finally:
            self._settled = None

    async def _sweep_source(self, source: StreamSource) -> None:
        name, group, pipe = self._holdings.consumer, source.group, self._services.pipe
        size = self._holdings.read_size
        begin: bytes = b"0-0"
        while True:
            session = self._services.leases.session
            count = size.count(_SWEEP)
            command = ("XREADGROUP", "GROUP", group, name, "COUNT", count, "STREAMS", source.key, begin)
            reply = await pipe.call(*command, key=source.key)
            entries = reply[0][1] if reply else []
            size.learn(entries)
            unknown = [each for each in entries if self._is_unknown(source, each[0])]
            gone = [entry_id for entry_id, fields in unknown if fields is None]
            if gone:
                await self._forget_lost(source, gone)
            found = [each for each in unknown if each[1] is not None]
            notes = await self._notes(source, [entry_id for entry_id, _ in found])
            for (entry_id, fields), state in zip(found, notes, strict=True):
                if self._is_unknown(source, entry_id):
                    held = self._holdings.take(source, entry_id, fields, session, state)
                    held.noted = state is not None
            if len(entries) < count:
                return
            begin = entries[-1][0]

    def _is_unknown(self, source: StreamSource, entry_id: bytes) -> bool:
        assert self._settled is not None
        return entry_id not in source.held and (source, entry_id) not in self._settled

    async def _notes(self, source: StreamSource, ids: Sequence[bytes]) -> list[EntryState | None]:
        if not ids:
            return []
        fields = [source.notes_prefix.encode() + entry_id for entry_id in ids]
        found = await self._services.pipe.call("HMGET", source.notes, *fields, key=source.key)
        return [_state(note) for note in found]

    async def _forget_lost(self, source: StreamSource, ids: Sequence[bytes]) -> None:
        feed = source.feed
        keys = [source.key, source.notes, feed.settled, feed.losses]
        lost = await self._services.pipe.run(
            FORGET_LOST, keys, source.group, feed.topic, source.notes_prefix, *ids
        )
        self._services.losses.lose(lost, feed.topic, source.group)

    # --- what belonged to the dead ------------------------------------------------------------------------

    async def _claim(self, feeds: Sequence[Feed], most: int, active_lock: ActiveLock) -> None:
        """Claims entries of dead consumers, and finds own entries that it does not know."""
        pending = await self._pending([source for feed in feeds for source in feed.sources])
        own, leases = self._holdings.consumer, self._services.leases
        others = {owner for owners in pending.values() for owner in owners} - {own, NOBODY}
        dead, more_in = await leases.judge(self._services.pipe, {*map(instance_of, others)})
        if more_in is not None:
            self._upkeep.check_feeds_in(more_in)
        for feed in feeds:
            left = False
            feed.is_awaited = False
            for source in feed.sources:
                owners = pending[source]
                if owners.get(own, 0) > len(source.held):
                    feed.must_sweep = True
                if active_lock.is_ordered:
                    older = (owner for owner in owners if owner != own and instance_of(owner) not in dead)
                    feed.is_awaited |= any(map(is_ordered, older))
                dead_owners = {
                    owner: dead[instance_of(owner)] for owner in owners if instance_of(owner) in dead
                }
                if dead_owners or NOBODY in owners:
                    left = await self._claim_source(source, most, active_lock, dead_owners) or left
                if len(self._suspects) >= most:
                    return  # this feed is checked again
            feed.claim_due = left

    async def _pending(self, sources: Sequence[StreamSource]) -> Mapping[StreamSource, Mapping[str, int]]:
        """Returns the number of pending entries for each consumer."""
        commands: list[Routed] = [(source.key, ("XPENDING", source.key, source.group)) for source in sources]
        found: dict[StreamSource, Mapping[str, int]] = {}
        for source, reply in zip(sources, await self._services.pipe.call_many(commands), strict=True):
            if isinstance(reply, RedisFailure):
                raise reply
            found[source] = {text(name): int(count) for name, count in reply[3] or ()}
        return found

    async def _claim_source(
        self, source: StreamSource, most: int, active_lock: ActiveLock, dead: Mapping[str, str]
    ) -> bool:
        """Claims entries of dead consumers; returns True if some are left for later."""
        begin: Any = "-"
        services = self._services
        while True:
            session = services.leases.session
            taken = len(self._suspects)
            arguments = [
                source.group,
                self._holdings.consumer,
                begin,
                _WINDOW,
                most - taken,
                taken,
                source.notes_prefix,
                active_lock.token,
                source.feed.topic,
                *(word for owner, beat in dead.items() for word in (raw(owner), beat)),
            ]
            feed = source.feed
            keys = [source.key, source.notes, feed.fence, feed.settled, feed.losses]
            if not services.locator.is_cluster:
                keys.append(services.keys.heartbeats)
            reply = await services.pipe.run(CLAIM, keys, *arguments)
            if (token := fenced_by(reply)) is not None:
                active_lock.lost_to(token)
                return True
            begin, picked, gone, left = reply
            services.losses.lose(len(gone), source.feed.topic, source.group)
            for entry_id, fields, note in picked:
                if entry_id in source.held:  # it is ours again: a handler here has it
                    source.held[entry_id].session = session
                    continue
                held = self._holdings.take(source, entry_id, fields, session, _state(note))
                held.noted = bool(note)
                if held.state.owner_died:
                    held.suspect = True
                    self._suspects.add(held)
            if left:
                return True
            if not begin:
                return False


def _in_batches(held: Sequence[HeldEntry]) -> list[Sequence[HeldEntry]]:
    """Splits entries of one stream into batches of one command each."""
    return [held[first : first + _ASKED_AT_ONCE] for first in range(0, len(held), _ASKED_AT_ONCE)]


def _state(note: bytes | None) -> EntryState | None:
    if not note:
        return None
    try:
        return EntryState.decode(note)
    except ValueError:
        return EntryState(attempt=1, deaths=1)  # it was attempted before, an unknown number of times
