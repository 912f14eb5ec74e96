"""How much a group has left to do, on all of its topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from bus_core import SubscriptionSpec, TopicPattern
from bus_core.events import is_pattern
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import BACKLOG
from promenade_bus_redis.streams.services import Services

__all__ = ["COUNTED_AT_ONCE", "count_backlog", "count_in_steps"]

COUNTED_AT_ONCE: Final = 1000
"""How many entries a script counts at most: no one waits for the server meanwhile."""

K = TypeVar("K")


async def count_backlog(services: Services, spec: SubscriptionSpec) -> int:
    """What nobody has read, what is pending, parked, or came back; raises ``RedisFailure``."""
    if is_pattern(spec.topic):
        pattern = TopicPattern(spec.topic)
        topics = [topic for topic in await services.registry.refresh() if pattern.matches(topic)]
    else:
        topics = [spec.topic]
    keys = services.keys

    def counting(topic: str, begin: bytes) -> Routed:
        names = [keys.stream(topic), keys.inbox(topic, spec.group), keys.parked(topic, spec.group)]
        return names[0], BACKLOG.command(names, [spec.group, begin, COUNTED_AT_ONCE])

    return await count_in_steps(services.pipe, dict.fromkeys(topics, b""), counting)


async def count_in_steps(
    pipe: Pipe, begins: Mapping[K, bytes], counting: Callable[[K, bytes], Routed]
) -> int:
    """The sum of what scripts count, from the ``begins`` on, for as long as they say where to go on.

    Raises ``RedisFailure``.
    """
    total = 0
    while begins:
        replies = await pipe.call_many([counting(key, begin) for key, begin in begins.items()])
        following: dict[K, bytes] = {}
        for key, reply in zip(begins, replies, strict=True):
            if isinstance(reply, RedisFailure):
                if reply.kind is Kind.WRONG_TYPE:
                    continue  # somebody uses the key of a topic for something else: nothing of it is an event
                raise reply
            total += reply[0]
            if reply[1]:
                following[key] = reply[1]
        begins = following
    return total
