"""How much a group has left to do, on all of its topics."""

from __future__ import annotations

from typing import Final

from bus_core import SubscriptionSpec, TopicPattern
from bus_core.topics import is_pattern
from promenade_bus_redis.pipe import Routed
from promenade_bus_redis.scripts import BACKLOG
from promenade_bus_redis.services import Services
from promenade_bus_redis.translate import RedisFailure

__all__ = ["count_backlog"]

_COUNTED_AT_ONCE: Final = 1000


async def count_backlog(services: Services, spec: SubscriptionSpec) -> int:
    """What nobody has read, what is pending, parked, or came back; raises ``RedisFailure``."""
    if is_pattern(spec.topic):
        pattern = TopicPattern(spec.topic)
        topics = [topic for topic in await services.registry.refresh() if pattern.matches(topic)]
    else:
        topics = [spec.topic]
    total = 0
    counting = [(topic, b"") for topic in topics]
    while counting:
        commands: list[Routed] = []
        for topic, begin in counting:
            keys = services.keys
            names = [keys.stream(topic), keys.inbox(topic, spec.group), keys.parked(topic, spec.group)]
            commands.append((names[0], BACKLOG.command(names, [spec.group, begin, _COUNTED_AT_ONCE])))
        following: list[tuple[str, bytes]] = []
        for (topic, _), reply in zip(counting, await services.pipe.call_many(commands), strict=True):
            if isinstance(reply, RedisFailure):
                raise reply
            total += reply[0]
            if reply[1]:
                following.append((topic, reply[1]))
        counting = following
    return total
