"""The events that the server acknowledged as stored, and the detection of lost ones.

A server may come back without its latest data: the end of its append-only file was not on disk at a power
failure, or a lagging replica took over. It does not report this. The publisher knows the acknowledged events,
and compares them with the server after each reconnection.

Events are stored in order, so all entries from some entry on are missing. The check reads only the last entry
up to the newest acknowledged one. Later events are checked separately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.link import Link
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import UPTO
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.losses import Losses

__all__ = ["StoredEvents"]

_MOST: Final = 50_000
"""The number of remembered events, the latest ones: about 4 MB."""

_Batch = tuple[str | Sequence[str], Sequence[bytes]]
"""One topic for all, or one for each, and the ids of the entries."""


class StoredEvents:
    """Remembers the events stored over each connection. Calls ``suspected`` when a check is due."""

    def __init__(self, pipe: Pipe, keys: Keys, losses: Losses) -> None:
        self.suspected: Callable[[], None] | None = None
        self._pipe = pipe
        self._keys = keys
        self._losses = losses
        self._links: list[Link] = []
        # The events of each connection in order; the last connection is in use.
        self._sessions: deque[deque[_Batch]] = deque([deque()])
        self._count = 0
        self._cut_short: set[str] = set()  # topics with forgotten events
        self._must_look = False

    # --- what the publisher calls -------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        """Records that events use this connection from now on."""
        self._links = [each for each in self._links if not each.has_ended]
        self._links.append(link)
        self._suspect()

    def note(self, topics: str | Sequence[str], ids: Sequence[bytes]) -> None:
        """Records stored entries, of one topic, or each of its own."""
        self._sessions[-1].append((topics, ids))
        self._count += len(ids)
        if self._count > _MOST:
            self._shed()

    def _shed(self) -> None:
        while self._count > _MOST:
            while len(self._sessions) > 1 and not self._sessions[0]:
                self._sessions.popleft()
            if not self._sessions[0]:
                return  # the rest is being checked
            topics, ids = self._sessions[0].popleft()
            self._count -= len(ids)
            if isinstance(topics, str):
                self._cut_short.add(topics)
            else:
                self._cut_short.update(topics)

    def _suspect(self) -> None:
        if self._count:
            if self._sessions[-1]:
                self._sessions.append(deque())
            self._must_look = True
            if self.suspected is not None:
                self.suspected()

    # --- what the upkeep calls ----------------------------------------------------------------------------

    def forget(self) -> None:
        """Forgets everything after the server lost all data, which is reported separately."""
        self._sessions, self._count = deque([deque()]), 0
        self._cut_short.clear()
        self._must_look = False

    @property
    def is_check_due(self) -> bool:
        """True when a connection that stored events has broken since the last check."""
        # A connection with a running publish has not ended.
        if any(link.has_ended for link in self._links):
            self._links = [link for link in self._links if not link.has_ended]
            self._suspect()
        return self._must_look

    async def look(self, has_lost_everything: Callable[[], Awaitable[bool]]) -> bool:
        """After a broken connection, counts entries that the server lost; raises ``RedisFailure``.

        Returns True, and counts nothing, if the server has lost everything. If entries are missing, it asks
        for that once more, because the server may have restarted after the caller asked.
        """
        if not self.is_check_due:
            return False
        self._must_look = False
        taken = [by_topic for session in [*self._sessions][:-1] if (by_topic := _sorted(session))]
        self._sessions = deque([self._sessions[-1]])
        looked_at = self._sessions
        try:
            newest = [(topic, ids[-1]) for session in taken for topic, ids in session.items()]
            ends = await self._ends(newest)
            is_missing = any(found != wanted for (_, wanted), found in zip(newest, ends, strict=True))
            if is_missing and await has_lost_everything():
                return True
        except BaseException:
            if looked_at is self._sessions:
                self._sessions.extendleft(deque(session.items()) for session in reversed(taken))
                self._must_look = True
            raise
        if looked_at is not self._sessions:
            return False  # everything was forgotten meanwhile
        left: deque[_Batch] = deque()
        places = ((topic, ids) for session in taken for topic, ids in session.items())
        for (topic, ids), end in zip(places, ends, strict=True):
            if kept := self._judge(topic, ids, end):
                left.append((topic, kept))
        self._sessions.appendleft(left)
        return False

    async def _ends(self, newest: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """Returns the last entry of each topic on the server, up to a given one."""
        commands: list[Routed] = []
        for topic, entry_id in newest:
            keys = [self._keys.stream(topic), self._keys.trimmed(topic)]
            commands.append((keys[0], UPTO.command(keys, [entry_id])))
        replies = await self._pipe.call_many(commands)
        for reply in replies:
            if isinstance(reply, RedisFailure):
                raise reply
        return replies

    def _judge(self, topic: str, ids: Sequence[bytes], end: bytes) -> Sequence[bytes]:
        """Counts missing entries; returns the existing ones."""
        if ids[-1] == end:
            return ids
        bound = _order(end)
        kept = [entry_id for entry_id in ids if _order(entry_id) <= bound]
        missing = len(ids) - len(kept)
        if missing:
            self._count -= missing
            self._losses.forgotten(missing, topic, is_all=bool(kept) or topic not in self._cut_short)
        return kept


def _sorted(session: Sequence[_Batch]) -> Mapping[str, list[bytes]]:
    """Returns the entries of each topic, in order."""
    by_topic: dict[str, list[bytes]] = {}
    for topics, ids in session:
        if isinstance(topics, str):
            by_topic.setdefault(topics, []).extend(ids)
            continue
        for topic, entry_id in zip(topics, ids, strict=True):
            by_topic.setdefault(topic, []).append(entry_id)
    return by_topic


def _order(entry_id: bytes) -> tuple[int, int]:
    moment, _, number = entry_id.partition(b"-")
    return int(moment), int(number)
