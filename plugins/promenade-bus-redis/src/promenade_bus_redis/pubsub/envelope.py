"""The payload of an event on a channel, and the announcements of publishers.

A payload is a line followed by the serialized body. The line is ``promenade/1 {...}``, with a JSON object.
``publisher`` is an instance of the bus, ``number`` counts its events on this topic from 1, ``published`` is a
time in milliseconds. ``id`` belongs to the event, ``key`` is the ordering key, and ``headers`` is absent when
empty. An announcement has ``publisher`` and ``latest``, the number of its latest event.

A payload without this line is a body only, which any program may send with PUBLISH. It has no number.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from bus_core import FrozenMapping, Message
from bus_core.events import NO_HEADERS
from promenade_bus_redis.server.document import LARGEST, look_inside

__all__ = ["Announcement", "Arrival", "encode_announcement", "encode_event", "read_payload"]

_BEGIN: Final = b"promenade/1 "
_LONGEST_LINE: Final = 4 * LARGEST
_NOTED: Final = 512
"""The maximum memory in bytes for an event besides its payload."""


@attrs.define(slots=True)
class Arrival:
    """A received event. ``number`` is 0 if it has none; ``fault`` is the reason if it is unreadable."""

    message: Message
    published_at: datetime
    publisher: str = ""
    number: int = 0
    fault: str | None = None
    size: int = 0


@attrs.frozen
class Announcement:
    """A publisher's announcement of its latest event number on a topic."""

    publisher: str
    latest: int


def encode_event(message: Message, publisher: str, number: int, published: int) -> bytes:
    """Returns the payload of an event; raises ``UnicodeEncodeError``. ``published`` is in milliseconds."""
    facts: dict[str, Any] = {
        "publisher": publisher,
        "number": number,
        "published": published,
        "id": message.id,
        "key": message.key,
    }
    if message.headers:
        facts["headers"] = dict(message.headers)
    return (
        _BEGIN + json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" + message.body
    )


def encode_announcement(publisher: str, latest: int) -> bytes:
    """Returns the payload of an announcement."""
    facts = {"publisher": publisher, "latest": latest}
    return _BEGIN + json.dumps(facts, separators=(",", ":")).encode() + b"\n"


def read_payload(topic: str, payload: bytes, now: datetime) -> Arrival | Announcement:
    """Reads a payload of a topic's channel, received at ``now``; never raises."""
    if not payload.startswith(_BEGIN):
        inside = look_inside(payload)
        message = Message(inside.get("id", ""), topic, inside.get("subject", ""), payload, NO_HEADERS)
        return Arrival(message, now, size=len(payload) + _NOTED)
    line, _, body = payload.partition(b"\n")
    try:
        if len(line) > _LONGEST_LINE:
            raise ValueError("too large")
        return _read(topic, json.loads(line[len(_BEGIN) :]), body, len(payload))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, OSError) as error:
        message = Message("", topic, "", payload, NO_HEADERS)
        fault = f"its first line is invalid ({type(error).__name__})"
        return Arrival(message, now, fault=fault, size=len(payload) + _NOTED)


def _read(topic: str, facts: object, body: bytes, size: int) -> Arrival | Announcement:
    if not isinstance(facts, dict):
        raise TypeError("not an object")
    publisher = _text(facts["publisher"])
    if "latest" in facts:
        return Announcement(publisher, _count(facts["latest"]))
    headers = facts.get("headers")
    found = NO_HEADERS
    if headers is not None:
        if not isinstance(headers, dict):
            raise TypeError("not an object")
        found = FrozenMapping({_text(name): _text(value) for name, value in headers.items()})
    message = Message(_text(facts["id"]), topic, _text(facts["key"]), body, found)
    published_at = datetime.fromtimestamp(_count(facts["published"]) / 1000, UTC)
    return Arrival(message, published_at, publisher, _count(facts["number"]), size=size + _NOTED)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate would fail later, in a worse place
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 < value < 2**63:
        raise TypeError("not a number")
    return value
