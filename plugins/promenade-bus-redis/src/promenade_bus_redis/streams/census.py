"""Which groups are wanted, by whom, and for how long services want events to be kept.

A group is wanted as long as an instance says so, and some time beyond: a service may be stopped for a night.
Nothing is trimmed that such a group has not settled, also on topics of its pattern on which it is not made
yet. One that nobody has wanted for long is an orphan; it holds events back until somebody forgets it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs

from bus_core import SubscriptionSpec, TopicPattern
from bus_core.errors import InvalidTopic
from bus_core.events import is_pattern
from promenade_bus_redis.config import RetentionOptions
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import SEEN, UNSEEN
from promenade_bus_redis.streams.keys import Keys

__all__ = ["Census", "Demand", "KeepFor", "Member"]

_SAID_AGAIN: Final = 60.0
"""Seconds after which an instance says again which groups it wants."""

_AT_ONCE: Final = 1000


@attrs.frozen
class Member:
    """A group that is, or was, wanted: its subscription, and the topic or pattern of it."""

    group: str
    service: str
    subscription: str
    topic: str


class Demand:
    """Which groups get the events of a topic. Made once per reading: there may be thousands of both."""

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._by_name: dict[str, list[str]] = {}
        self._by_pattern: list[tuple[TopicPattern, str]] = []
        for member in members:
            if not is_pattern(member.topic):
                self._by_name.setdefault(member.topic, []).append(member.group)
                continue
            with suppress(InvalidTopic):  # somebody else's
                self._by_pattern.append((TopicPattern(member.topic), member.group))

    def groups_on(self, topic: str) -> tuple[str, ...]:
        """The groups that want a topic."""
        by_pattern = (group for pattern, group in self._by_pattern if pattern.matches(topic))
        return (*self._by_name.get(topic, ()), *by_pattern)


@attrs.frozen
class KeepFor:
    """For how many seconds events stay, those of topics without a group, and dead letters."""

    settled: float
    unsubscribed: float
    letters: float | None


class Census:
    """What this instance wants, and what all of them together do."""

    def __init__(self, pipe: Pipe, keys: Keys, service: str, retention: RetentionOptions) -> None:
        self._pipe = pipe
        self._keys = keys
        self._service = service
        self._retention = retention
        self._own: dict[str, str] = {}  # what is said of each group
        self._said_at = -_SAID_AGAIN

    @property
    def own(self) -> Sequence[str]:
        """The groups that this instance wants."""
        return [*self._own]

    async def enter(self, spec: SubscriptionSpec) -> None:
        """Says that a group is wanted, before it is made. Raises ``RedisFailure``."""
        said = json.dumps({"service": self._service, "subscription": spec.name, "topic": spec.topic})
        await self._say({spec.group: said})
        self._own[spec.group] = said

    def leave(self, group: str) -> None:
        """This instance does not want a group any more; others, and its next start, may."""
        self._own.pop(group, None)

    async def begin(self) -> None:
        """Says for how long this service wants events to be kept. Raises ``RedisFailure``."""
        said = json.dumps(
            {
                "min_age": self._retention.min_age,
                "unsubscribed_max_age": self._retention.unsubscribed_max_age,
                "dead_letters_max_age": self._retention.dead_letters_max_age,
            }
        )
        await self._pipe.call("HSET", self._keys.services, self._service, said, key=self._keys.services)

    async def say_again(self, *, all_of_it: bool = False) -> None:
        """Says from time to time what is wanted, and at once after the server lost it."""
        now = time.monotonic()
        if not all_of_it and now - self._said_at < _SAID_AGAIN:
            return
        if all_of_it:
            await self.begin()
        self._said_at = now
        if self._own:
            await self._say(self._own)

    async def _say(self, groups: Mapping[str, str]) -> None:
        names = [*groups]
        commands: list[Routed] = []
        for first in range(0, len(names), _AT_ONCE):
            part = names[first : first + _AT_ONCE]
            said = [text for name in part for text in (name, groups[name])]
            commands.append((self._keys.groups, ("HSET", self._keys.groups, *said)))
            commands.append((self._keys.seen, SEEN.command([self._keys.seen], ["CH", *part])))
        _raise_first(await self._pipe.call_many(commands))

    # --- all of them --------------------------------------------------------------------------------------

    async def read(self) -> tuple[Mapping[str, Member], KeepFor]:
        """Every group that is wanted, or was, and the longest times that a service wants.

        Raises ``RedisFailure``.
        """
        keys = self._keys
        groups, services = _raise_first(
            await self._pipe.call_many(
                [(keys.groups, ("HGETALL", keys.groups)), (keys.services, ("HGETALL", keys.services))]
            )
        )
        members: dict[str, Member] = {}
        for name, said in _pairs(groups):
            members[name] = Member(
                name, _text(said, "service"), _text(said, "subscription"), _text(said, "topic")
            )
        retention = self._retention
        settled, unsubscribed = retention.min_age, retention.unsubscribed_max_age
        letters = retention.dead_letters_max_age
        for _, said in _pairs(services):
            settled = max(settled, _number(said, "min_age", settled))
            unsubscribed = max(unsubscribed, _number(said, "unsubscribed_max_age", unsubscribed))
            if letters is not None:
                wanted = said.get("dead_letters_max_age")
                letters = None if wanted is None else max(letters, _number(said, "dead_letters_max_age", 0.0))
        return members, KeepFor(settled, max(settled, unsubscribed), letters)

    async def unseen(self, seconds: float) -> Mapping[str, float]:
        """Groups that nobody has wanted for so long, and for how many seconds. Raises ``RedisFailure``."""
        reply = await self._pipe.run(UNSEEN, [self._keys.seen], round(seconds * 1000))
        names = [name.decode(errors="replace") for name in reply[::2]]
        return {name: int(age) / 1000 for name, age in zip(names, reply[1::2], strict=True)}

    async def notice(self, groups: Iterable[str]) -> None:
        """Groups that are there although nobody ever said so: from now on it counts how long that is so."""
        names = [*groups]
        for first in range(0, len(names), _AT_ONCE):
            part = names[first : first + _AT_ONCE]
            await self._pipe.run(SEEN, [self._keys.seen], "NX", *part)

    async def remove(self, group: str) -> None:
        """Forgets a group. Raises ``RedisFailure``."""
        keys = self._keys
        _raise_first(
            await self._pipe.call_many(
                [(keys.groups, ("HDEL", keys.groups, group)), (keys.seen, ("ZREM", keys.seen, group))]
            )
        )


def _raise_first(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, RedisFailure):
            raise reply
    return replies


def _pairs(reply: Sequence[bytes]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The fields of a hash; what somebody else has put there says nothing."""
    for name, text in zip(reply[::2], reply[1::2], strict=True):
        try:
            said = json.loads(text)
        except ValueError:
            continue
        if isinstance(said, dict):
            yield name.decode(errors="replace"), said


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def _number(said: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = said.get(name)
    return float(value) if isinstance(value, int | float) else otherwise
