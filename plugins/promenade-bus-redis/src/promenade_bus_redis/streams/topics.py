"""Which topics there are. Patterns look here; so does everything that goes over all topics.

The registry is a set, into which anybody may put topics. Beside it is a log of the latest ones, which is all
that is read by an instance that knows the others. When the set has another size then, it is read anew, in
parts, so that the loop and the server go on meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bus_core import TopicPattern
from bus_core.errors import InvalidTopic
from bus_core.events import TopicTree, is_pattern
from bus_core.runtime import plain_logger
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import ENTER
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.wire import texts

__all__ = ["StoredTopics"]

logger = plain_logger("promenade.bus.redis")

_AT_ONCE: Final = 1000
"""Topics that one command enters, or reads, and that are made known before others have their turn."""

_PICKED: Final = 3

_LOGGED: Final = 10_000
"""The latest topics that the log has, about."""


class StoredTopics:
    """The topics that there are, and those that this instance has entered.

    What it has entered it enters again when the server has lost it. ``found`` is told of each topic that
    becomes known. ``order`` has all of them, new ones at its end; when some are gone it is another list.
    """

    def __init__(self, pipe: Pipe, keys: Keys) -> None:
        self.found: Callable[[str], None] = lambda _: None
        self.order: list[str] = []
        self._tree = TopicTree()  # the same
        self._pipe = pipe
        self._key = keys.topics
        self._log = keys.latest_topics
        self._entered: dict[str, None] = {}
        self._known: set[str] = set()  # those in order, and what somebody else has put there
        self._position: bytes | None = None  # up to where the log was read
        self._was_doubtful = False
        self._refreshing = asyncio.Lock()

    @property
    def has_own(self) -> bool:
        """Whether this instance has entered any."""
        return bool(self._entered)

    async def know(self, topics: Sequence[str]) -> Mapping[str, RedisFailure]:
        """Enters topics before their first event is stored; tells which could not be, and why."""
        new = [topic for topic in topics if topic not in self._entered]
        if not new:
            return {}
        try:
            await self._enter(new)
        except RedisFailure as failure:
            if failure.is_uncertain:  # nothing of the event itself was sent
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
                # Who misses them in the log finds them in the set, only later.
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
            logger.warning("%d names among the topics are none; they are left alone", strange)

    async def matching(self, pattern: TopicPattern) -> list[str]:
        """The topics of a pattern that there are. Raises ``RedisFailure``."""
        await self.update(at_once=True)
        return self.known(pattern)

    def known(self, pattern: TopicPattern) -> list[str]:
        """The topics of a pattern that are known, sorted."""
        return sorted(self._tree.overlapping(pattern.text))

    async def refresh(self) -> frozenset[str]:
        """Every topic that there is; see ``update``. Raises ``RedisFailure``."""
        await self.update(at_once=True)
        return frozenset(self.order)

    async def update(self, *, at_once: bool) -> None:
        """Learns what topics there are, and enters its own ones again that are gone. Raises ``RedisFailure``.

        Those that somebody put into the set without the log are found ``at_once``, or at the second time.
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
        """Adds the latest topics; tells how many more there are, or less than none when some are gone."""
        position = self._position
        if position is None:
            last = await self._pipe.call("XREVRANGE", self._log, "+", "-", "COUNT", 1, key=self._log)
            self._position = last[0][0] if last else b"0-0"
            return -1
        while True:
            # After a loss another set may have the same size: hardly one with some picked at random.
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
        """Reads all of them, and enters own ones again that are gone."""
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
            self._position = None  # the log may be gone as well
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
