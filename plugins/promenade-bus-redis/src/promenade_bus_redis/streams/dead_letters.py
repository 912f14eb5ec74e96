"""Dead letters: a stream for each topic, which gives letters an order and ids.

The id of a letter is its topic and the id of its entry, ``topic/1700000000000-0``.
"""

from __future__ import annotations

import builtins
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bus_core import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterNotFound,
    DeadLetterPage,
    DeadLetterTally,
    UnknownSubscription,
)
from bus_core.adapters import first_letters
from bus_core.events import is_pattern, merge_tallies, tally_of
from promenade_bus_redis.server.failures import Kind, RedisFailure
from promenade_bus_redis.server.pipe import Routed
from promenade_bus_redis.server.scripts import LETTERS, PICK, REDRIVE, TALLY, WHOSE
from promenade_bus_redis.streams.letter_rows import LetterPosition, TopicLetters
from promenade_bus_redis.streams.services import Services
from promenade_bus_redis.streams.wire import from_microseconds, read_fields, read_letter, to_microseconds

__all__ = ["RedisDeadLetters"]

_AT_ONCE: Final = 100
_IDS_AT_ONCE: Final = 1000
_MOST_BYTES: Final = 1_000_000
"""The size in bytes at which a page of letters ends."""

_EXPIRY: Final = 86_400_000
"""Milliseconds for which events redriven to one instance are kept; they are read at once."""

_ID: Final = re.compile(r"([A-Za-z0-9_.-]{1,200})/(([0-9]{1,20})-([0-9]{1,20}))")
_GREATEST: Final = 2**64 - 1


class RedisDeadLetters:
    """Implements ``bus_core.DeadLetterStore``; raises ``RedisFailure`` when the server fails."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pipe = services.pipe
        self._keys = services.keys
        self._registry = services.registry

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """Returns the oldest letters that the filter selects, at most ``limit``."""
        return await first_letters(self, where, limit)

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        """Returns the selected letters after a cursor; see ``bus_core.DeadLetterStore``.

        It first selects letters, then fetches up to a megabyte of them, but at least one.
        """
        behind = None if after is None else LetterPosition.of_cursor(after)
        if where.ids is not None:
            named = [each for each in await self._named(where) if behind is None or each[0] > behind]
            cursor = str(named[limit - 1][0]) if len(named) > limit else None
            return DeadLetterPage([letter for _, letter in named[:limit]], cursor)
        rows = [TopicLetters(topic, behind) for topic in await self._topics(where)]
        chosen: list[LetterPosition] = []
        size = 0
        while len(chosen) < limit and size < _MOST_BYTES:
            await self._look_further(rows, where, limit - len(chosen) + 1)
            rows = [row for row in rows if row.found]
            if not rows:
                break
            first = min(rows, key=lambda row: row.found[0])
            place, bytes_of_it = first.found.popleft()
            chosen.append(place)
            size += bytes_of_it
        await self._look_further(rows, where, 1)
        letters = [letter for _, letter in await self._fetch(chosen)]
        more = any(row.found for row in rows)
        return DeadLetterPage(letters, str(chosen[-1]) if more else None)

    async def count(self, where: DeadLetterFilter) -> int:
        """Returns the number of letters that the filter selects."""
        if where.ids is not None:
            return len(await self._named(where))
        topics = await self._topics(where)
        if where == DeadLetterFilter(topic=where.topic):
            places = [self._keys.dead(topic) for topic in topics]
            replies = await self._pipe.call_many([(place, ("XLEN", place)) for place in places])
            return sum(_sound(reply, where) or 0 for reply in replies)
        count = 0
        rows = [TopicLetters(topic, None) for topic in topics]
        while rows := [row for row in rows if not row.is_over]:
            await self._look_further(rows, where, _IDS_AT_ONCE)
            for row in rows:
                count += len(row.found)
                row.found.clear()
        return count

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        """Counts the letters that the filter selects, in groups, on the server."""
        if where.ids is not None:
            return tally_of(letter for _, letter in await self._named(where))
        return merge_tallies(await self._tallies(where, "subscription"))

    async def by_group(self) -> Mapping[tuple[str, str], int]:
        """The number of letters that each group has left on each topic."""
        counts: Counter[tuple[str, str]] = Counter()
        for tally in await self._tallies(DeadLetterFilter(), "group"):
            counts[tally.subscription, tally.topic] += tally.count
        return counts

    async def _tallies(self, where: DeadLetterFilter, name: str) -> builtins.list[DeadLetterTally]:
        """The tallies of parts; ``name`` is the field of a letter that is told as its subscription."""
        found: builtins.list[DeadLetterTally] = []
        begins = dict.fromkeys(await self._topics(where), b"-")
        while begins:
            looking = dict([*begins.items()][:_AT_ONCE])
            places = {topic: self._keys.dead(topic) for topic in looking}
            criteria = _criteria(where)
            commands: builtins.list[Routed] = [
                (place, TALLY.command([place], [looking[topic], name, *criteria]))
                for topic, place in places.items()
            ]
            for topic, reply in zip(looking, await self._pipe.call_many(commands), strict=True):
                groups, following = _sound(reply, where) or ((), b"")
                found += [_tally(topic, *group) for group in groups]
                if following:
                    begins[topic] = following
                else:
                    del begins[topic]
        return found

    async def get(self, letter_id: str) -> DeadLetter:
        """Returns a letter; raises ``DeadLetterNotFound``."""
        match = _match(letter_id)
        found = await self._fetch([LetterPosition.at(match[2], match[1])]) if match else []
        if not found:
            raise DeadLetterNotFound(letter_id)
        return found[0][1]

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Moves letters to the inboxes of the failed groups; moves none if one has no group."""
        letters = await self._get_many([*dict.fromkeys(letter_ids)])
        await self._check_owed(letters)
        commands: list[Routed] = []
        for (owner, topic), ids in _in_batches(letters):
            dead, inbox = self._keys.dead(topic), self._keys.inbox(topic, *owner)
            expiry = _EXPIRY if owner.instance else ""
            commands.append((dead, REDRIVE.command([dead, inbox], [owner.group, expiry, *ids])))
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
        if where.ids is not None:
            by_topic: dict[str, list[str]] = {}
            for place, _ in await self._named(where):
                by_topic.setdefault(place.topic, []).append(place.entry_id)
            for topic, selected in by_topic.items():
                dead = self._keys.dead(topic)
                for first in range(0, len(selected), _IDS_AT_ONCE):
                    part = selected[first : first + _IDS_AT_ONCE]
                    purged += await self._pipe.call("XDEL", dead, *part, key=dead)
            return purged
        for topic in await self._topics(where):
            dead, row = self._keys.dead(topic), TopicLetters(topic, None)
            while not row.is_over:
                await self._look_further([row], where, _IDS_AT_ONCE)
                selected = [place.entry_id for place, _ in row.found]
                row.found.clear()
                if selected:
                    purged += await self._pipe.call("XDEL", dead, *selected, key=dead)
        return purged

    # --- looking ------------------------------------------------------------------------------------------

    async def _topics(self, where: DeadLetterFilter) -> builtins.list[str]:
        if where.topic is not None and not is_pattern(where.topic):
            return [where.topic]
        return sorted(filter(where.selects_topic, await self._registry.refresh()))

    async def _named(self, where: DeadLetterFilter) -> builtins.list[tuple[LetterPosition, DeadLetter]]:
        """Returns the letters that the filter names by id and selects, in order."""
        matches = filter(None, map(_match, where.ids or ()))
        places = sorted(
            LetterPosition.at(each[2], each[1]) for each in matches if where.selects_topic(each[1])
        )
        found: list[tuple[LetterPosition, DeadLetter]] = []
        for first in range(0, len(places), _AT_ONCE):
            letters = await self._fetch(places[first : first + _AT_ONCE])
            found += [(place, letter) for place, letter in letters if where.selects(letter)]
        return found

    async def _look_further(self, rows: Sequence[TopicLetters], where: DeadLetterFilter, most: int) -> None:
        """Searches topics without a known next letter until one is found or the end is reached."""
        most = min(most, _IDS_AT_ONCE)
        while looking := [row for row in rows if not row.found and not row.is_over]:
            for first in range(0, len(looking), _AT_ONCE):
                part = looking[first : first + _AT_ONCE]
                places = [self._keys.dead(row.topic) for row in part]
                arguments = [most, *_criteria(where)]
                commands = [
                    (place, LETTERS.command([place], [row.begin, *arguments]))
                    for place, row in zip(places, part, strict=True)
                ]
                for row, reply in zip(part, await self._pipe.call_many(commands), strict=True):
                    row.learn(_sound(reply, where) or ((), b""))

    async def _fetch(
        self, places: Sequence[LetterPosition]
    ) -> builtins.list[tuple[LetterPosition, DeadLetter]]:
        """Returns the letters at these positions that still exist."""
        by_topic: dict[str, builtins.list[LetterPosition]] = {}
        for place in places:
            by_topic.setdefault(place.topic, []).append(place)
        parts = [
            (topic, of_topic[first : first + _AT_ONCE])
            for topic, of_topic in by_topic.items()
            for first in range(0, len(of_topic), _AT_ONCE)
        ]
        commands: list[Routed] = []
        for topic, part in parts:
            dead = self._keys.dead(topic)
            commands.append((dead, PICK.command([dead], [place.entry_id for place in part])))
        found: dict[LetterPosition, DeadLetter] = {}
        for (topic, part), reply in zip(parts, await self._pipe.call_many(commands), strict=True):
            if isinstance(reply, RedisFailure):
                raise reply
            for place, fields in zip(part, reply, strict=True):
                if fields:
                    found[place] = read_letter(topic, place.letter_id, fields)
        return [(place, found[place]) for place in places if place in found]

    async def _get_many(self, letter_ids: Sequence[str]) -> builtins.list[tuple[_Owner, _Known]]:
        """Returns the existing letters without bodies, each with the group that failed."""
        wanted = [found for letter_id in letter_ids if (found := _match(letter_id))]
        letters: list[tuple[_Owner, _Known]] = []
        for first in range(0, len(wanted), _AT_ONCE):
            by_topic: dict[str, list[str]] = {}
            for match in wanted[first : first + _AT_ONCE]:
                by_topic.setdefault(match[1], []).append(match[2])
            commands: list[Routed] = []
            for topic, ids in by_topic.items():
                dead = self._keys.dead(topic)
                commands.append((dead, WHOSE.command([dead], ids)))
            replies = await self._pipe.call_many(commands)
            for (topic, ids), reply in zip(by_topic.items(), replies, strict=True):
                if isinstance(reply, RedisFailure):
                    raise reply
                for entry_id, answer in zip(ids, reply, strict=True):
                    if answer:
                        facts = read_fields(answer[1])
                        group, subscription, instance = (
                            facts.get(name, b"").decode(errors="replace")
                            for name in (b"group", b"subscription", b"instance")
                        )
                        known = _Known(entry_id, topic, subscription, answer[0])
                        letters.append((_Owner(group, instance), known))
        return letters

    async def _check_owed(self, letters: Sequence[tuple[_Owner, _Known]]) -> None:
        """Raises ``UnknownSubscription`` unless each letter's topic is in a subscription's record."""
        if not letters:
            return
        alive = await self._services.alive()
        record = await self._services.records.read(alive)
        known: dict[tuple[_Owner, str], bool] = {}
        for owner, letter in letters:
            place = (owner, letter.topic)
            if place not in known:
                is_owed = record.knows(owner.group, letter.topic)
                known[place] = owner.instance in alive if owner.instance else is_owed
            if not known[place]:
                raise _unknown(owner, letter)


class _Owner(NamedTuple):
    """The destination of a letter: a group, or one instance of a broadcast subscription."""

    group: str
    instance: str


class _Known(NamedTuple):
    """A letter without its body, but with its bytes."""

    entry_id: str
    topic: str
    subscription: str
    size: int


def _in_batches(
    letters: Iterable[tuple[_Owner, _Known]],
) -> Iterator[tuple[tuple[_Owner, str], builtins.list[str]]]:
    """The entries of each owner on each topic, as many as one script may move at once."""
    open_batches: dict[tuple[_Owner, str], tuple[int, builtins.list[str]]] = {}
    for owner, letter in letters:
        to = (owner, letter.topic)
        size, ids = open_batches.get(to, (0, []))
        ids.append(letter.entry_id)
        size += letter.size
        if size < _MOST_BYTES and len(ids) < _AT_ONCE:
            open_batches[to] = size, ids
        else:
            open_batches.pop(to, None)
            yield to, ids
    for to, (_, ids) in open_batches.items():
        yield to, ids


def _tally(
    topic: str, subscription: bytes, error_type: bytes, place: bytes, count: int, oldest: bytes, newest: bytes
) -> DeadLetterTally:
    return DeadLetterTally(
        topic,
        subscription.decode(errors="backslashreplace"),
        error_type.decode(errors="backslashreplace"),
        place.decode(errors="backslashreplace"),
        count,
        from_microseconds(int(oldest)),
        from_microseconds(int(newest)),
    )


def _criteria(where: DeadLetterFilter) -> builtins.list[str | int]:
    """Returns a filter for the script ``letters``, without topics and ids, which are handled before."""
    return [
        where.subscription or "",
        where.error or "",
        "" if where.dead_before is None else to_microseconds(where.dead_before),
        "" if where.dead_after is None else to_microseconds(where.dead_after),
        "" if where.event_id is None else str(where.event_id),
    ]


def _sound(reply: Any, where: DeadLetterFilter) -> Any:
    """Returns the reply, or None if a foreign key replaces one of many topics."""
    if isinstance(reply, RedisFailure):
        if reply.kind is Kind.WRONG_TYPE and (where.topic is None or is_pattern(where.topic)):
            return None
        raise reply
    return reply


def _unknown(owner: _Owner, letter: _Known) -> UnknownSubscription:
    if owner.instance:
        why = f"belonged to the broadcast instance {owner.instance!r}, which has ended"
    else:
        why = (
            f"(group {owner.group!r}) was never open on {letter.topic!r}, or was forgotten there; start "
            "its service first, or republish the events"
        )
    return UnknownSubscription(
        f"cannot redrive: the subscription {letter.subscription!r} {why}; nothing was moved"
    )


def _match(letter_id: str) -> re.Match[str] | None:
    """Parses topic and entry of a letter id; returns None for an invalid id."""
    match = _ID.fullmatch(letter_id)
    return match if match and max(int(match[3]), int(match[4])) <= _GREATEST else None
