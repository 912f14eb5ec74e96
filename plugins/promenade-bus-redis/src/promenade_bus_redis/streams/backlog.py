"""The backlog of groups on all of their topics, and the number of entries after a position in a stream.

Commands for many groups go together: a drain of a thousand subscriptions is a batch or two for each server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Final

from bus_core import SubscriptionSpec, TopicPattern
from bus_core.events import is_pattern
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import AHEAD, BACKLOG
from promenade_bus_redis.streams.services import Services

__all__ = ["Position", "count_ahead", "count_backlogs", "count_groups"]

_COUNTED_AT_ONCE: Final = 1000
"""The maximum number of entries that one script counts, because a script blocks the server."""

_ASKED_AT_ONCE: Final = 1000
"""The maximum number of groups or positions in one batch of commands, which others have to wait for."""

Position = tuple[str, bytes]
"""A stream, and the id of a current or former entry."""


async def count_backlogs(services: Services, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
    """Counts the unsettled entries of each subscription: unread, pending, parked and returned ones.

    Raises ``RedisFailure``.
    """
    topics: dict[str, Sequence[str]] = {spec.topic: (spec.topic,) for spec in specs}
    if patterns := [text for text in topics if is_pattern(text)]:
        await services.registry.update(at_once=True)
        topics.update((text, services.registry.known(TopicPattern(text))) for text in patterns)
    wanted: dict[str, dict[str, None]] = {}
    for spec in specs:
        for topic in topics[spec.topic]:
            wanted.setdefault(topic, {})[spec.group] = None
    counts = await count_groups(services, wanted)
    return [sum(counts[topic, spec.group] for topic in topics[spec.topic]) for spec in specs]


async def count_groups(
    services: Services, wanted: Mapping[str, Iterable[str]]
) -> Mapping[tuple[str, str], int]:
    """Counts the unsettled entries of the ``wanted`` groups of each topic, by topic and group.

    Raises ``RedisFailure``.
    """
    keys, counts = services.keys, dict[tuple[str, str], int]()
    going_on: dict[tuple[str, str], Position] = {}
    pairs = iter([(topic, group) for topic, groups in wanted.items() for group in groups])
    while some := [*islice(pairs, _ASKED_AT_ONCE)]:
        asked = {topic: [group for _, group in part] for topic, part in groupby(some, itemgetter(0))}
        commands: list[Routed] = []
        for topic, groups in asked.items():
            names = [keys.stream(topic)]
            for group in groups:
                names += [keys.inbox(topic, group), keys.parked(topic, group)]
            commands.append((names[0], BACKLOG.command(names, [_COUNTED_AT_ONCE, *groups])))
        replies = await services.pipe.call_many(commands)
        for (topic, groups), reply in zip(asked.items(), replies, strict=True):
            if isinstance(reply, RedisFailure):
                if reply.kind is Kind.WRONG_TYPE:
                    # The key of the topic has foreign data, which are not events.
                    counts.update(((topic, group), 0) for group in groups)
                    continue
                raise reply
            for group, number, following in zip(groups, reply[::2], reply[1::2], strict=True):
                counts[topic, group] = number
                if following:
                    going_on[topic, group] = keys.stream(topic), following
    ahead = await count_ahead(services.pipe, going_on.values())
    for pair, position in going_on.items():
        counts[pair] += ahead[position]
    return counts


async def count_ahead(pipe: Pipe, positions: Iterable[Position]) -> Mapping[Position, int]:
    """Counts the entries after each of these positions; equal positions are counted once.

    Raises ``RedisFailure``.
    """
    counts = dict.fromkeys(positions, 0)
    begins = {position: position[1] for position in counts}
    while begins:
        some = [*islice(begins, _ASKED_AT_ONCE)]
        replies = await pipe.call_many(
            [(at[0], AHEAD.command([at[0]], [begins[at], _COUNTED_AT_ONCE])) for at in some]
        )
        for at, reply in zip(some, replies, strict=True):
            if isinstance(reply, RedisFailure):
                if reply.kind is not Kind.WRONG_TYPE:
                    raise reply
                reply = (0, b"")  # as above
            counts[at] += reply[0]
            if reply[1]:
                begins[at] = reply[1]
            else:
                del begins[at]
    return counts
