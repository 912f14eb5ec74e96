"""A feed is one topic for one group: its streams, and the entries that this instance owns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import MAKE, OPEN
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.wire import Content, EntryState

__all__ = ["Feed", "HeldEntry", "StreamSource"]

INBOX_NOTES: Final = "inbox:"


class HeldEntry:
    """An entry that this instance owns until it is settled: the receipt of a received message.

    ``session`` is the session of ``Leases`` in which it was received or last confirmed. ``state``, if given,
    overrides the state in the entry.
    """

    __slots__ = (
        "entry_id",
        "fault",
        "message",
        "noted",
        "published_at",
        "session",
        "source",
        "state",
        "suspect",
        "tried",
    )

    def __init__(
        self,
        source: StreamSource,
        entry_id: bytes,
        content: Content,
        session: int,
        state: EntryState | None = None,
    ) -> None:
        self.source = source
        self.entry_id = entry_id
        self.message = content.message
        self.published_at = content.published_at
        self.fault = content.fault  # the reason if it is invalid
        self.session = session
        self.state = content.state if state is None else state
        self.noted = False  # True if its attempts are noted
        self.suspect = False  # True if it was claimed from a dead consumer
        self.tried = False  # True if a settlement was attempted and may have succeeded


class StreamSource:
    """One of the two streams of a feed."""

    __slots__ = ("feed", "group", "held", "is_inbox", "key", "notes", "notes_prefix")

    def __init__(self, feed: Feed, key: str, *, is_inbox: bool) -> None:
        self.feed = feed
        self.key = key
        self.group = feed.group
        self.notes = feed.notes
        self.is_inbox = is_inbox
        self.notes_prefix = INBOX_NOTES if is_inbox else ""
        self.held: dict[bytes, HeldEntry] = {}

    @property
    def deletes(self) -> str:
        """Non-empty if settled entries are deleted, as in the inbox, which no other group reads."""
        return "1" if self.is_inbox else ""


class Feed:
    """One topic for one group, or for one ``instance`` of a broadcast subscription."""

    def __init__(self, keys: Keys, topic: str, group: str, instance: str = "") -> None:
        self.topic = topic
        self.group = group
        self.parked = keys.parked(topic, group)
        self.notes = keys.notes(topic, group)
        self.dead = keys.dead(topic)
        self.fence = keys.fence(topic, group)
        self.main = StreamSource(self, keys.stream(topic), is_inbox=False)
        self.inbox = StreamSource(self, keys.inbox(topic, group, instance), is_inbox=True)
        self.is_open = False
        self.was_open = False
        self.is_new = False  # True if the topic is younger than the subscription
        self.must_sweep = False  # True if unknown entries may be pending
        self.claim_due = True
        self.is_awaited = False  # True if an earlier active instance still owns entries
        self.trimmed = keys.trimmed(topic)
        self.settled = keys.settled(topic)
        self.losses = keys.losses_of(topic)
        self.must_count = True  # True if entries may have been trimmed since the last read
        self.foreign: int | None = None  # the number of foreign removals then

    @property
    def sources(self) -> tuple[StreamSource, StreamSource]:
        """Both streams; the inbox comes first."""
        return (self.inbox, self.main)

    def opening(self, start: Literal["0", "$"]) -> Sequence[Routed]:
        """Returns the commands that create its groups if they are missing."""
        keys = [self.main.key, self.settled, self.trimmed, self.losses]
        main = OPEN.command(keys, [self.group, start, self.topic, "1" if self.is_new else ""])
        return [(self.main.key, main), (self.inbox.key, MAKE.command([self.inbox.key], [self.group]))]
