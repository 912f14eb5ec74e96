"""The unsettled entries of a group's consumer, and their feeds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bus_core import Received
from promenade_bus_redis.streams.feeds import Feed, HeldEntry, StreamSource
from promenade_bus_redis.streams.read_size import ReadSize
from promenade_bus_redis.streams.wire import EntryState, read_entry

__all__ = ["Holdings"]


class Holdings:
    """The unsettled entries of a consumer.

    ``feeds`` are by topic, ``ready`` has entries not yet passed to the engine, ``read_size`` limits reads,
    and ``consumer`` is the consumer's name.
    """

    def __init__(self, group: str, consumer: str) -> None:
        self.group = group
        self.consumer = consumer
        self.feeds: dict[str, Feed] = {}
        self.ready: deque[Received] = deque()
        self.read_size = ReadSize()

    def take(
        self,
        source: StreamSource,
        entry_id: bytes,
        fields: Sequence[bytes],
        session: int,
        state: EntryState | None = None,
    ) -> HeldEntry:
        """Adds an entry. ``state``, if given, overrides the state in the entry."""
        held = HeldEntry(source, entry_id, read_entry(source.feed.topic, entry_id, fields), session, state)
        source.held[entry_id] = held
        self.ready.append(self.received(held, redelivered=source.is_inbox or state is not None))
        return held

    @staticmethod
    def received(held: HeldEntry, *, redelivered: bool) -> Received:
        """Returns an entry in the form for the engine."""
        return Received(
            message=held.message,
            receipt=held,
            published_at=held.published_at,
            attempt=held.state.attempt,
            redelivered=redelivered,
            owner_died=held.state.owner_died,
            fault=held.fault,
            history=held.state.history,
            waited=held.state.waited,
        )
