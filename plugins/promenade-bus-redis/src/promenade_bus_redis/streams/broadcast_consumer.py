"""The consumer of a broadcast subscription: each instance reads every event after it subscribed.

It has no group, but a cursor for each topic in this process. Retries wait in the process, too. Entries that
were trimmed before they were read are counted. A redriven dead letter comes back to this instance, as long as
it lives.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from bus_core import BusError, Outcome, Received, SubscriptionSpec, TopicPattern
from bus_core.events import is_pattern
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import TAIL
from promenade_bus_redis.streams.backlog import Position, count_ahead
from promenade_bus_redis.streams.feeds import Feed, HeldEntry, StreamSource
from promenade_bus_redis.streams.leases import NO_SESSION
from promenade_bus_redis.streams.read_size import WIDER, ReadSize
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.streams.upkeep import Upkeep
from promenade_bus_redis.streams.wire import letter_fields, read_entry

__all__ = ["BroadcastConsumer", "count_unread"]

_FEEDS_AT_ONCE: Final = 500


class _Cursor:
    """The read position in a topic. ``position`` is its number of entries, if known."""

    __slots__ = ("feed", "inbox", "main", "position")

    def __init__(self, feed: Feed, main: bytes, position: int | None) -> None:
        self.feed = feed
        self.main = main
        self.inbox = b"0-0"
        self.position = position


class BroadcastConsumer:
    """Implements ``bus_core.Consumer`` for one instance of a broadcast subscription."""

    longest_hold = math.inf

    def __init__(self, services: Services, upkeep: Upkeep, spec: SubscriptionSpec) -> None:
        self.spec = spec
        self.pattern = TopicPattern(spec.topic) if is_pattern(spec.topic) else None
        self.feeds: dict[str, Feed] = {}
        self._services = services
        self._upkeep = upkeep
        self._cursors: dict[Feed, _Cursor] = {}
        self._by_key: dict[str, Feed] = {}
        self._unread: dict[Feed, None] = {}
        self._one_by_one = False  # True while one of many topics cannot be read
        self._ready: deque[Received] = deque()
        self._watch = services.wakeups.watch()
        self._stopped = False
        self._read_size = ReadSize()

    # --- what the engine calls ----------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Received]:
        """Returns available events, or waits a few seconds for some; see ``bus_core.Consumer``."""
        if not self._ready and not self._stopped:
            if not self._unread:
                await self._watch.wait(self._services.options.block)
            woken, self._watch.woken = self._watch.woken, set()
            for key in woken:
                if (feed := self._by_key.get(key)) is not None:  # it may have been removed since
                    self._unread[feed] = None
            left, wider = len(self._unread) + 1, 1
            while len(self._unread) < left and self._unread and not self._ready and not self._stopped:
                left = len(self._unread)
                await self._look(limit, wider)
                wider *= WIDER
        ready = self._ready
        return [ready.popleft() for _ in range(min(limit, len(ready)))]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[BusError | None]:
        """Stores dead letters, and deletes redriven events; other outcomes need no action."""
        results: list[BusError | None] = [None] * len(outcomes)
        commands: list[Routed] = []
        judged: list[int] = []
        for index, outcome in enumerate(outcomes):
            held: HeldEntry = outcome.receipt
            source = held.source
            if outcome.action == "dead_letter" and outcome.letter is not None:
                fields = letter_fields(outcome.letter, held.message, held.published_at, self.spec.group)
                fields += ["instance", self._services.name]
                commands.append((source.key, ("XADD", source.feed.dead, "*", *fields)))
                judged.append(index)
            if source.is_inbox and outcome.action in ("ack", "dead_letter"):
                commands.append((source.key, ("XDEL", source.key, held.entry_id)))
                judged.append(index)
        if commands:
            replies = await self._services.pipe.call_many(commands)
            for index, reply in zip(judged, replies, strict=True):
                if isinstance(reply, RedisFailure):
                    results[index] = reply
        return results

    def stop(self) -> None:
        """Stops receiving."""
        self._stopped = True
        self.wake()

    async def close(self) -> None:
        """Drops its cursors and its redriven events."""
        self._stopped = True
        self._upkeep.forget(self)
        self._watch.close()
        inboxes = [feed.inbox.key for feed in self._cursors]
        if inboxes:
            await self._services.pipe.call_many([(key, ("DEL", key)) for key in inboxes])

    # --- what the upkeep calls ----------------------------------------------------------------------------

    def wake(self) -> None:
        """Ends a wait."""
        self._watch.wake()

    def note_dead_owners(self, feed: Feed) -> None:
        """Does nothing: a broadcast consumer claims no events of others."""

    def add_topic(self, topic: str) -> None:
        """Reads another topic, from its beginning, because the topic is newer than the subscription."""
        if topic not in self.feeds:
            self._add(topic, b"0-0", None)

    def _add(self, topic: str, cursor: bytes, position: int | None) -> None:
        feed = Feed(self._services.keys, topic, self.spec.group, self._services.name)
        self.feeds[topic] = feed
        self._cursors[feed] = _Cursor(feed, cursor, position)
        for source in feed.sources:
            self._by_key[source.key] = feed
        self._unread[feed] = None

    async def open(self, topics: Iterable[str]) -> None:
        """Starts after the last entry of each topic. Raises ``RedisFailure``."""
        services = self._services
        names = [*topics]
        for failure in (await services.registry.know(names)).values():
            raise failure
        replies = await services.pipe.call_many(
            [(key, ("XINFO", "STREAM", key)) for key in map(services.keys.stream, names)]
        )
        for topic, reply in zip(names, replies, strict=True):
            if isinstance(reply, RedisFailure):
                if reply.kind is Kind.WRONG_TYPE and self.pattern is not None:
                    services.losses.left_out(topic, self.spec.group)
                    continue
                if reply.ends_connection or reply.is_transient or reply.kind is Kind.WRONG_TYPE:
                    raise reply
                self._add(topic, b"0-0", 0)  # the stream does not exist yet
            else:
                facts = dict(zip(reply[::2], reply[1::2], strict=True))
                self._add(topic, facts[b"last-generated-id"], facts.get(b"entries-added"))

    @property
    def ready(self) -> int:
        """The number of entries read and not yet passed to the engine."""
        return len(self._ready)

    @property
    def positions(self) -> Iterable[Position]:
        """Yields the last entry read of each stream."""
        for feed, cursor in self._cursors.items():
            yield feed.main.key, cursor.main
            yield feed.inbox.key, cursor.inbox

    # --- reading ------------------------------------------------------------------------------------------

    async def _look(self, limit: int, wider: int) -> None:
        """Reads up to ``limit`` entries from topics that may have more, longest-waiting topics first.

        It reads as many topics as entries are wanted, since most have one entry, or ``wider`` times as many.
        """
        size = 1 if self._services.locator.is_cluster or self._one_by_one else _FEEDS_AT_ONCE
        count = self._read_size.count(limit)
        feeds = [*islice(self._unread, count * wider)]
        bundles = [feeds[first : first + size] for first in range(0, len(feeds), size)][:count]
        if len(self._unread) <= count:
            self._one_by_one = False  # each was tested
        commands: list[Routed] = []
        for bundle in bundles:
            keys: list[str] = []
            trimmed: list[str] = []
            begins: list[bytes] = []
            for feed in bundle:
                cursor = self._cursors[feed]
                keys += [feed.main.key, feed.inbox.key]
                trimmed += [self._services.keys.trimmed(feed.topic)] * 2
                begins += [cursor.main, cursor.inbox]
            arguments = [count // len(bundles), *begins]
            commands.append((keys[0], TAIL.command([*keys, *trimmed], arguments)))
        failure: RedisFailure | None = None
        arrived: list[Any] = []
        for bundle, reply in zip(bundles, await self._services.pipe.call_many(commands), strict=True):
            if isinstance(reply, RedisFailure) and self._may_leave_out(bundle, reply):
                continue
            if isinstance(reply, RedisFailure):
                failure = failure or reply
            else:
                arrived += (entry for _, entries in reply[0] for entry in entries)
                self._arrived(bundle, *reply)
        self._read_size.learn(arrived)
        if failure is not None:
            self._read_size.failed()
            raise failure

    def _may_leave_out(self, bundle: Sequence[Feed], failure: RedisFailure) -> bool:
        """Returns True if the other topics can be read without one; tests several one by one."""
        if failure.kind is not Kind.WRONG_TYPE or self.pattern is None:
            return False
        if len(bundle) > 1:
            self._one_by_one = True
            return True
        (feed,) = bundle
        self._one_by_one = False
        del self.feeds[feed.topic], self._cursors[feed], self._unread[feed]
        for source in feed.sources:
            del self._by_key[source.key]
        self._upkeep.left_out(self, feed.topic)
        self._services.losses.left_out(feed.topic, self.spec.group)
        return True

    def _arrived(
        self, feeds: Sequence[Feed], reply: Sequence[Any], facts: Sequence[Sequence[int] | bytes]
    ) -> None:
        found = {key.decode(): entries for key, entries in reply}
        for feed, of_main, of_inbox in zip(feeds, facts[::2], facts[1::2], strict=True):
            if isinstance(of_main, bytes):
                return  # earlier streams had enough
            self._services.losses.understood(feed.topic, self.spec.group)
            added, length, trimmed = of_main
            cursor = self._cursors[feed]
            entries = found.get(feed.main.key, ())
            removed = added - length if added >= 0 else trimmed
            if cursor.position is not None:
                # The next entry is the first existing one, or, without one, the end.
                reached = removed if entries else removed + length
                if reached > cursor.position:
                    self._services.losses.miss(reached - cursor.position, feed.topic, self.spec.group)
                    cursor.position = reached
                cursor.position += len(entries)
            for entry_id, fields in entries:
                self._take(feed.main, entry_id, fields)
                cursor.main = entry_id
            for entry_id, fields in found.get(feed.inbox.key, ()):
                self._take(feed.inbox, entry_id, fields)
                cursor.inbox = entry_id
            del self._unread[feed]
            if entries or feed.inbox.key in found or isinstance(of_inbox, bytes):
                self._unread[feed] = None  # it may have more; others come first
            else:
                cursor.position = removed + length
                self._watch.arm({feed.main.key: cursor.main, feed.inbox.key: cursor.inbox})

    def _take(self, source: StreamSource, entry_id: bytes, fields: Sequence[bytes]) -> None:
        content = read_entry(source.feed.topic, entry_id, fields)
        held = HeldEntry(source, entry_id, content, NO_SESSION)
        self._ready.append(
            Received(
                message=content.message,
                receipt=held,
                published_at=content.published_at,
                attempt=content.state.attempt,
                redelivered=source.is_inbox,
                fault=content.fault,
                history=content.state.history,
            )
        )


async def count_unread(
    pipe: Pipe, consumers: Iterable[BroadcastConsumer], specs: Collection[SubscriptionSpec]
) -> Mapping[SubscriptionSpec, int]:
    """Counts the entries not yet passed to the engine of this instance, for each subscription.

    Raises ``RedisFailure``.
    """
    counts = dict.fromkeys(specs, 0)
    positions: list[tuple[SubscriptionSpec, Position]] = []
    for consumer in consumers:
        if consumer.spec not in specs:
            continue
        counts[consumer.spec] += consumer.ready
        positions += [(consumer.spec, position) for position in consumer.positions]
    ahead = await count_ahead(pipe, [position for _, position in positions])
    for spec, position in positions:
        counts[spec] += ahead[position]
    return counts
