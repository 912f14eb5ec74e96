"""Dead letters: a stream for each topic, so that letters have an order and ids of their own.

The id of a letter is its topic and the id of its entry, ``topic/1700000000000-0``.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from bus_core import DeadLetter, DeadLetterFilter, DeadLetterNotFound, UnknownSubscription
from promenade_bus_redis.server.failures import RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import REDRIVE
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.streams.wire import read_fields, read_letter

__all__ = ["RedisDeadLetters"]

_AT_ONCE: Final = 100
_EXPIRY: Final = 86_400_000
"""Milliseconds for which what goes back to one instance is kept; it is read at once."""

_ID: Final = re.compile(r"([A-Za-z0-9_.-]{1,200})/(\d{1,20}-\d{1,20})")


class RedisDeadLetters:
    """Implements ``bus_core.DeadLetterStore``; raises ``RedisFailure`` when the server fails."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pipe = services.pipe
        self._keys = services.keys
        self._registry = services.registry

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
        await self._check_owed(letters)
        commands: list[Routed] = []
        for owner, letter in letters:
            dead, inbox = self._keys.dead(letter.topic), self._keys.inbox(letter.topic, *owner)
            expiry = _EXPIRY if owner.instance else ""
            arguments = [letter.id.rpartition("/")[2], owner.group, expiry]
            commands.append((dead, REDRIVE.command([dead, inbox], arguments)))
        moved = 0
        for first in range(0, len(commands), _AT_ONCE):
            replies = await self._pipe.call_many(commands[first : first + _AT_ONCE])
            for reply in replies:
                if isinstance(reply, RedisFailure):
                    raise reply
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

    async def _get_many(self, letter_ids: Sequence[str]) -> builtins.list[tuple[_Owner, DeadLetter]]:
        """The letters that there are, each with the group that failed."""
        wanted = [(letter_id, found) for letter_id in letter_ids if (found := _ID.fullmatch(letter_id))]
        letters: list[tuple[_Owner, DeadLetter]] = []
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
                    letters.append((_owner_of(fields), read_letter(match[1], letter_id, fields)))
        return letters

    async def _check_owed(self, letters: Sequence[tuple[_Owner, DeadLetter]]) -> None:
        """Raises ``UnknownSubscription`` unless somebody is owed each of these letters."""
        if not letters:
            return
        alive = await self._services.alive()
        record = await self._services.census.read(alive)
        known: dict[tuple[_Owner, str], bool] = {}
        for owner, letter in letters:
            place = (owner, letter.topic)
            if place not in known:
                is_owed = record.knows(owner.group, letter.topic)
                known[place] = owner.instance in alive if owner.instance else is_owed
            if not known[place]:
                raise _unknown(owner, letter)


class _Owner(NamedTuple):
    """A letter goes back to a group, or to one instance of a broadcast subscription."""

    group: str
    instance: str


def _owner_of(fields: Sequence[bytes]) -> _Owner:
    found = read_fields(fields)
    group, instance = (found.get(name, b"").decode(errors="replace") for name in (b"group", b"instance"))
    return _Owner(group, instance)


def _unknown(owner: _Owner, letter: DeadLetter) -> UnknownSubscription:
    if owner.instance:
        why = f"was broadcast to the instance {owner.instance!r}, which has ended"
    else:
        why = (
            f"(group {owner.group!r}) has never been open on {letter.topic!r}, or was forgotten there; start "
            "its service first, or republish the events"
        )
    return UnknownSubscription(
        f"cannot redrive: the subscription {letter.subscription!r} {why}; nothing was moved"
    )
