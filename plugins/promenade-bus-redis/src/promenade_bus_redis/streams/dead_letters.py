"""Dead letters: a stream for each topic, so that letters have an order and ids of their own.

The id of a letter is its topic and the id of its entry, ``topic/1700000000000-0``.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from bus_core import DeadLetter, DeadLetterFilter, DeadLetterNotFound, UnknownSubscription
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import REDRIVE
from promenade_bus_redis.streams.broadcast_consumer import instance_of
from promenade_bus_redis.streams.keys import Keys
from promenade_bus_redis.streams.topics import Registry
from promenade_bus_redis.streams.wire import read_fields, read_letter

__all__ = ["RedisDeadLetters"]

_AT_ONCE: Final = 100
_EXPIRY: Final = 86_400_000
"""Milliseconds for which what goes back to one instance is kept; it is read at once."""

_ID: Final = re.compile(r"([A-Za-z0-9_.-]{1,200})/(\d{1,20}-\d{1,20})")


class RedisDeadLetters:
    """Implements ``bus_core.DeadLetterStore``; raises ``RedisFailure`` when the server fails."""

    def __init__(self, pipe: Pipe, keys: Keys, registry: Registry) -> None:
        self._pipe = pipe
        self._keys = keys
        self._registry = registry

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters that the filter selects, at most ``limit``."""
        found: list[DeadLetter] = []
        topics = await self._topics(where)
        for topic in topics:
            taken = 0
            async for letter, _fields in self._scan(topic):
                if where.selects(letter):
                    found.append(letter)
                    taken += 1
                    if taken == limit:
                        break
        if len(topics) > 1:
            found.sort(key=lambda letter: letter.dead_at)
        return found[:limit]

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        found = await self._get_many([letter_id])
        if not found:
            raise DeadLetterNotFound(letter_id)
        return found[0][1]

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Moves letters to the inboxes of the groups that failed; all or, when one has no group, none."""
        letters = await self._get_many([*dict.fromkeys(letter_ids)])
        groups = {(letter.topic, group): letter.subscription for group, letter in letters}
        await self._check_groups(groups)
        commands: list[Routed] = []
        for group, letter in letters:
            dead = self._keys.dead(letter.topic)
            entry_id = letter.id.rpartition("/")[2]
            expiry = _EXPIRY if instance_of(group) else ""
            script = REDRIVE.command([dead, self._keys.inbox(letter.topic, group)], [entry_id, group, expiry])
            commands.append((dead, script))
        moved = 0
        for first in range(0, len(commands), _AT_ONCE):
            replies = await self._pipe.call_many(commands[first : first + _AT_ONCE])
            for (group, letter), reply in zip(letters[first : first + _AT_ONCE], replies, strict=True):
                if isinstance(reply, RedisFailure):
                    raise reply
                if reply == -1:
                    raise _unknown(letter.subscription, group, letter.topic)
                moved += reply
        return moved

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects."""
        purged = 0
        for topic in await self._topics(where):
            dead = self._keys.dead(topic)
            doomed: list[str] = []
            async for letter, _fields in self._scan(topic):
                if where.selects(letter):
                    doomed.append(letter.id.rpartition("/")[2])
                if len(doomed) == _AT_ONCE:
                    purged += await self._pipe.call("XDEL", dead, *doomed, key=dead)
                    doomed = []
            if doomed:
                purged += await self._pipe.call("XDEL", dead, *doomed, key=dead)
        return purged

    # --- looking ------------------------------------------------------------------------------------------

    async def _topics(self, where: DeadLetterFilter) -> builtins.list[str]:
        if where.topic is not None:
            return [where.topic]
        return sorted(await self._registry.refresh())

    async def _scan(self, topic: str) -> AsyncIterator[tuple[DeadLetter, Sequence[bytes]]]:
        """Every letter of a topic, the oldest first, some at once."""
        dead = self._keys.dead(topic)
        begin = "-"
        while True:
            entries = await self._pipe.call("XRANGE", dead, begin, "+", "COUNT", _AT_ONCE, key=dead)
            for entry_id, fields in entries:
                yield read_letter(topic, f"{topic}/{entry_id.decode()}", fields), fields
            if len(entries) < _AT_ONCE:
                return
            begin = f"({entries[-1][0].decode()}"

    async def _get_many(self, letter_ids: Sequence[str]) -> builtins.list[tuple[str, DeadLetter]]:
        """The letters that there are, each with the group that failed."""
        wanted = [(letter_id, found) for letter_id in letter_ids if (found := _ID.fullmatch(letter_id))]
        letters: list[tuple[str, DeadLetter]] = []
        for first in range(0, len(wanted), _AT_ONCE):
            part = wanted[first : first + _AT_ONCE]
            commands: list[Routed] = []
            for _, match in part:
                dead = self._keys.dead(match[1])
                commands.append((dead, ("XRANGE", dead, match[2], match[2])))
            for (letter_id, match), reply in zip(part, await self._pipe.call_many(commands), strict=True):
                if isinstance(reply, RedisFailure):
                    raise reply
                for _entry_id, fields in reply:
                    group = read_fields(fields).get(b"group", b"").decode(errors="replace")
                    letters.append((group, read_letter(match[1], letter_id, fields)))
        return letters

    async def _check_groups(self, groups: dict[tuple[str, str], str]) -> None:
        """Raises ``UnknownSubscription`` unless each group is there."""
        instances = self._keys.instances
        time = await self._pipe.call("TIME") if any(instance_of(group) for _, group in groups) else (0, 0)
        now = int(time[0]) * 1000
        commands: list[Routed] = []
        for topic, group in groups:
            inbox = self._keys.inbox(topic, group)
            if name := instance_of(group):
                commands.append((instances, ("ZSCORE", instances, name)))
            else:
                commands.append((inbox, ("XINFO", "GROUPS", inbox)))
        replies = await self._pipe.call_many(commands)
        for ((topic, group), subscription), reply in zip(groups.items(), replies, strict=True):
            if isinstance(reply, RedisFailure):
                if reply.ends_connection or reply.is_transient:
                    raise reply
                known = False  # there is no such key
            elif instance_of(group):
                known = reply is not None and float(reply) > now
            else:
                known = any(group.encode() in info for info in reply)
            if not known:
                raise _unknown(subscription, group, topic)


def _unknown(subscription: str, group: str, topic: str) -> UnknownSubscription:
    return UnknownSubscription(
        f"cannot redrive: the subscription {subscription!r} (group {group!r}) has never been open on "
        f"{topic!r}, or was removed there; nothing was moved"
    )
