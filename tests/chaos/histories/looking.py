"""The data on a server, read without the adapter, so that its mistakes are not repeated here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs
import redis

from chaos.histories.steps import TOPICS
from promenade_bus_redis.streams.keys import Keys
from redis_support.servers import Server

__all__ = ["GONE", "Due", "Kept", "look"]

_ID: Final = re.compile(rb"\xa2id.{1,3}?([0-9a-f]{8}-[0-9a-f-]{27})", re.DOTALL)

GONE: Final = "gone "
"""Begins the name of what is pending, and not in the stream any more."""

Due = tuple[str, str]
"""A group, and the topic of an event that is due to it."""


@attrs.frozen(kw_only=True)
class Kept:
    """The data on a server. ``waiting`` has ids of events, or of entries without an event.
    ``marked`` is the part of it that is there for the group whether or not it is owed anything.

    ``letters``, with their reasons, and ``lost`` are by group and topic; the group of a loss is ``*`` where
    nobody knows. ``stored`` is what the stream of a topic has, ``made`` are the groups that are there.
    """

    waiting: Mapping[Due, Collection[str]]
    marked: Mapping[Due, Collection[str]]
    letters: Mapping[Due, Mapping[str, str]]
    lost: Mapping[Due, int]
    stored: Mapping[str, Collection[str]]
    made: Mapping[str, Collection[str]]


def look(server: Server, keys: Keys, groups: Collection[str]) -> Kept:
    """Looks at all topics, for these groups."""
    waiting: dict[Due, set[str]] = {}
    letters: dict[Due, dict[str, str]] = {}
    marked: dict[Due, set[str]] = {}
    stored: dict[str, set[str]] = {}
    made: dict[str, set[str]] = {}
    with server.client(decode_responses=False) as client:
        client.response_callbacks.clear()
        for topic in TOPICS:
            entries = _entries(client, keys.stream(topic))
            stored[topic] = {*entries.values()}
            read = _groups(client, keys.stream(topic))
            made[topic] = {name.decode() for name in read}
            for group in groups:
                found = _unsettled(client, keys.stream(topic), group, entries, read)
                own = found.copy() if group in made[topic] else set[str]()
                inbox = keys.inbox(topic, group)
                own |= _unsettled(client, inbox, group, _entries(client, inbox), _groups(client, inbox))
                for member in _ask(client, "ZRANGE", keys.parked(topic, group), 0, -1):
                    own.add(_id_within(member))
                if found | own:
                    waiting[group, topic] = found | own
                if own:
                    marked[group, topic] = own
            for entry in _range(client, keys.dead(topic)):
                fields = dict(zip(entry[1][::2], entry[1][1::2], strict=False))
                of_group = letters.setdefault((fields.get(b"group", b"").decode(), topic), {})
                of_group[_name(entry)] = fields.get(b"reason", b"").decode()
        lost: dict[Due, int] = {}
        told = _ask(client, "HGETALL", keys.losses)
        for about, count in zip(told[::2], told[1::2], strict=True):
            topic, _, group = about.decode().partition(" ")
            lost[group, topic] = int(count)
    return Kept(waiting=waiting, marked=marked, letters=letters, lost=lost, stored=stored, made=made)


def _ask(client: redis.Redis, *command: Any) -> Any:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


def _range(client: redis.Redis, key: str) -> list[Any]:
    try:
        return [*_ask(client, "XRANGE", key, "-", "+")]
    except redis.ResponseError:  # somebody else's key
        return []


def _entries(client: redis.Redis, key: str) -> dict[bytes, str]:
    return {entry[0]: _name(entry) for entry in _range(client, key)}


def _name(entry: Any) -> str:
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=False))
    return str(fields.get(b"id", entry[0]).decode(errors="replace"))


def _groups(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    """The last entry that each group has read."""
    try:
        replies = _ask(client, "XINFO", "GROUPS", key)
    except redis.ResponseError:
        return {}
    told = [dict(zip(reply[::2], reply[1::2], strict=True)) for reply in replies]
    return {each[b"name"]: each[b"last-delivered-id"] for each in told}


def _unsettled(
    client: redis.Redis, key: str, group: str, entries: Mapping[bytes, str], read: Mapping[bytes, bytes]
) -> set[str]:
    if (last := read.get(group.encode())) is None:
        return {*entries.values()}
    found = {name for entry_id, name in entries.items() if _order(entry_id) > _order(last)}
    pending = _ask(client, "XPENDING", key, group, "-", "+", 100_000)
    # What is pending and gone has to be found out, and counted, by whoever serves the group.
    return found | {entries.get(each[0], f"{GONE}{each[0].decode()}") for each in pending}


def _order(entry_id: bytes) -> tuple[int, int]:
    time, _, number = entry_id.partition(b"-")
    return int(time), int(number)


def _id_within(member: bytes) -> str:
    """The id of the event in what is parked."""
    found = _ID.search(member)
    return found[1].decode() if found else repr(member[:40])
