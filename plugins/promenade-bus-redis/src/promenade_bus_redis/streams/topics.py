"""The stored topics, for patterns and for work on all topics.

The topics are in a set, which any program may extend. A log has the latest topics, and an instance that knows
the others reads only the log. If the set then has another size, it is read again, in parts, so that neither
the loop nor the server is blocked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bus_core import TopicPattern
from bus_core.errors import InvalidTopic
from bus_core.events import TopicTree, is_pattern
from bus_core.runtime import counted, plain_logger
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import ENTER
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.wire import texts

__all__ = ["StoredTopics"]

logger = plain_logger("promenade.bus.redis")

_AT_ONCE: Final = 1000
"""The number of topics that one command enters or reads, and that are processed without a pause."""

_PICKED: Final = 3

_LOGGED: Final = 10_000
"""The approximate number of topics in the log."""


class StoredTopics:
    """The existing topics, and those that this instance has entered.

    It enters its own topics again when the server has lost them, and calls ``found`` with each new topic.
    ``order`` has all topics, new ones at the end; it is replaced by another list when some are gone.
    """

    def __init__(self, pipe: Pipe, keys: Keys) -> None:
        self.found: Callable[[str], None] = lambda _: None
        self.order: list[str] = []
        self._tree = TopicTree()  # the same
        self._pipe = pipe
        self._key = keys.topics
        self._log = keys.latest_topics
        self._entered: dict[str, None] = {}
        self._known: set[str] = set()  # those in order, and foreign names
        self._position: bytes | None = None  # the read position in the log
        self._was_doubtful = False
        self._refreshing = asyncio.Lock()

    @property
    def has_own(self) -> bool:
        """True if this instance has entered a topic."""
        return bool(self._entered)

    async def know(self, topics: Sequence[str]) -> Mapping[str, RedisFailure]:
        """Enters topics before their first event is stored; returns the failures by topic."""
        new = [topic for topic in topics if topic not in self._entered]
        if not new:
            return {}
        try:
            await self._enter(new)
        except RedisFailure as failure:
            if failure.is_uncertain:  # the event itself was not sent
                failure = RedisFailure(
                    failure.kind, failure.place, command="SADD", detail=failure.detail, uncertain=False
                )
            return dict.fromkeys(new, failure)
        self._entered.update(dict.fromkeys(new))
        return {}

    async def _enter(self, topics: Sequence[str]) -> None:
        for first in range(0, len(topics), _AT_ONCE):
            part = topics[first : first + _AT_ONCE]
            if await self._pipe.run(ENTER, [self._key], *part):
                # Instances that miss them in the log find them in the set later.
                log = ("XADD", self._log, "MAXLEN", "~", _LOGGED, "*", "topic")
                await self._pipe.call_many([(self._log, (*log, topic)) for topic in part])
            self._add(part)

    def _add(self, topics: Iterable[str]) -> None:
        new = [topic for topic in dict.fromkeys(topics) if topic not in self._known]
        self._known.update(new)
        sound = [topic for topic in new if topic in self._entered or _is_topic(topic)]
        self.order += sound
        for topic in sound:
            self._tree.add(topic)
            self.found(topic)
        if len(sound) < len(new):
            strange = len(new) - len(sound)
            logger.warning("ignoring %s among the topics", counted(strange, "invalid name"))

    async def matching(self, pattern: TopicPattern) -> list[str]:
        """Returns the topics that match a pattern. Raises ``RedisFailure``."""
        await self.update(at_once=True)
        return self.known(pattern)

    def known(self, pattern: TopicPattern) -> list[str]:
        """Returns the known topics that match a pattern, sorted."""
        return sorted(self._tree.overlapping(pattern.text))

    async def refresh(self) -> frozenset[str]:
        """Returns every topic; see ``update``. Raises ``RedisFailure``."""
        await self.update(at_once=True)
        return frozenset(self.order)

    async def update(self, *, at_once: bool) -> None:
        """Learns the topics, and enters its own missing ones again. Raises ``RedisFailure``.

        Topics in the set that are not in the log are found ``at_once``, or in the second update.
        """
        async with self._refreshing:
            more = await self._read_log()
            if more == 0:
                self._was_doubtful = False
            elif at_once or self._was_doubtful or more < 0:
                self._was_doubtful = False
                await self._read_set()
            else:
                self._was_doubtful = True

    async def _read_log(self) -> int:
        """Adds the latest topics; returns the number still missing, negative if some are gone."""
        position = self._position
        if position is None:
            last = await self._pipe.call("XREVRANGE", self._log, "+", "-", "COUNT", 1, key=self._log)
            self._position = last[0][0] if last else b"0-0"
            return -1
        while True:
            # After a loss another set may have the same size, but hardly the same randomly chosen topics.
            some = random.choices(self.order, k=_PICKED) if self.order else [""]
            commands: list[Routed] = [
                (self._key, ("SCARD", self._key)),
                (self._key, ("SMISMEMBER", self._key, *some)),
                (self._log, ("XRANGE", self._log, b"(" + position, "+", "COUNT", _AT_ONCE)),
            ]
            size, picked, entries = _raise_first(await self._pipe.call_many(commands))
            for entry_id, fields in entries:
                self._position = position = entry_id
                self._add(texts(fields[1:2]))
            if len(entries) < _AT_ONCE:
                return int(size) - len(self._known) if all(picked) or not self.order else -1

    async def _read_set(self) -> None:
        """Reads all topics, and enters its own missing ones again."""
        found: set[str] = set()
        cursor: bytes | int = 0
        while True:
            command = ("SSCAN", self._key, cursor, "COUNT", _AT_ONCE)
            cursor, topics = await self._pipe.call(*command, key=self._key)
            found.update(texts(topics))
            if cursor == b"0":
                break
        if not self._known <= found:
            self._known = set()
            self.order = []
            self._tree = TopicTree()
            self._position = None  # the log may be gone, too
        names = [*found]
        for first in range(0, len(names), _AT_ONCE):
            self._add(names[first : first + _AT_ONCE])
            await asyncio.sleep(0)
        if gone := [topic for topic in self._entered if topic not in found]:
            await self._enter(gone)


def _is_topic(name: str) -> bool:
    try:
        return not is_pattern(TopicPattern(name).text)
    except InvalidTopic:
        return False


def _raise_first(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, RedisFailure):
            raise reply
    return replies
