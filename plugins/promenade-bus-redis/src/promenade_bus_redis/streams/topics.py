"""Which topics there are. Patterns look here; so does everything that goes over all topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bus_core import TopicPattern
from bus_core.errors import InvalidTopic
from bus_core.events import is_pattern
from bus_core.runtime import plain_logger
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import ENTER
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.wire import texts

__all__ = ["Registry"]

logger = plain_logger("promenade.bus.redis")

_AT_ONCE: Final = 1000
"""Topics that one script enters."""


class Registry:
    """The set of topics, and those that this instance has entered.

    What it has entered it enters again from time to time (``refresh``): the server may lose it. ``entered``
    is told of each topic.
    """

    def __init__(self, pipe: Pipe, keys: Keys) -> None:
        self.entered: Callable[[str], None] | None = None
        self._pipe = pipe
        self._key = keys.topics
        self._entered: dict[str, None] = {}
        self.seen: frozenset[str] = frozenset()
        self._strange: set[str] = set()  # what somebody else has put there

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
            for first in range(0, len(new), _AT_ONCE):
                await self._pipe.run(ENTER, [self._key], *new[first : first + _AT_ONCE])
        except RedisFailure as failure:
            if failure.is_uncertain:  # nothing of the event itself was sent
                failure = RedisFailure(
                    failure.kind, failure.place, command="SADD", detail=failure.detail, uncertain=False
                )
            return dict.fromkeys(new, failure)
        self._entered.update(dict.fromkeys(new))
        if self.entered is not None:
            for topic in new:
                self.entered(topic)
        return {}

    async def refresh(self) -> frozenset[str]:
        """Every topic that there is; enters its own ones again. Raises ``RedisFailure``."""
        own = [*self._entered]
        commands: list[Routed] = [
            (self._key, ENTER.command([self._key], own[first : first + _AT_ONCE]))
            for first in range(0, len(own), _AT_ONCE)
        ]
        commands.append((self._key, ("SMEMBERS", self._key)))
        for reply in (replies := await self._pipe.call_many(commands)):
            if isinstance(reply, RedisFailure):
                raise reply
        names = frozenset(texts(replies[-1])) - self._strange
        if strange := {name for name in names - self.seen if not _is_topic(name)}:
            self._strange |= strange
            logger.warning("%d names among the topics are none; they are left alone", len(strange))
            names -= strange
        self.seen = names
        return self.seen


def _is_topic(name: str) -> bool:
    try:
        return not is_pattern(TopicPattern(name).text)
    except InvalidTopic:
        return False
