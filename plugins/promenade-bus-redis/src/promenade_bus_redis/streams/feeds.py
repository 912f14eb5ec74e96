"""A feed is one topic for one group: its streams, and what this instance holds of them."""

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
    """An entry that this instance owns until it is settled: the receipt of what was received.

    ``session`` is that of ``Leases`` in which it was received, or last confirmed. ``state`` is known better
    than the entry says, if given.
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
        self.fault = content.fault  # why it cannot be understood
        self.session = session
        self.state = content.state if state is None else state
        self.noted = False  # whether there is a note of its attempts
        self.suspect = False  # whether it was taken over from one that died
        self.tried = False  # whether settling it was tried, and may have been done


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
        """Whether what is settled is deleted: in the inbox nobody else wants it."""
        return "1" if self.is_inbox else ""


class Feed:
    """One topic for one group; or for one ``instance`` of a broadcast subscription."""

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
        self.is_new = False  # whether the topic is younger than the subscription
        self.must_sweep = False  # whether something may be pending that nobody here knows of
        self.claim_due = True
        self.is_awaited = False  # whether an earlier active instance has something of it in hand still
        self.trimmed = keys.trimmed(topic)
        self.settled = keys.settled(topic)
        self.losses = keys.losses_of(topic)
        self.must_count = True  # whether something may have been trimmed since it was last read
        self.foreign: int | None = None  # how many entries somebody else had removed then

    @property
    def sources(self) -> tuple[StreamSource, StreamSource]:
        """Both streams; what came back goes first."""
        return (self.inbox, self.main)

    def opening(self, start: Literal["0", "$"]) -> Sequence[Routed]:
        """The commands that make its groups, where they are missing."""
        keys = [self.main.key, self.settled, self.trimmed, self.losses]
        main = OPEN.command(keys, [self.group, start, self.topic, "1" if self.is_new else ""])
        return [(self.main.key, main), (self.inbox.key, MAKE.command([self.inbox.key], [self.group]))]
