"""The form of messages and of their attempts in streams.

An entry has the fields ``id`` (of the event), ``key`` (the ordering key), ``headers`` (a JSON object, absent
when empty) and ``body``. The body is a CloudEvents 1.0 document in JSON, unless another serializer is
configured. Only ``body`` is required, so that any program can add an event with XADD.

An entry that came back to one group also has ``published`` (its time in milliseconds) and ``state``. A state
is text. Its first line has the number of the next attempt and the number of owners that died. If not zero,
the milliseconds follow for which it has waited for an instance that can decode it. Each further line is a
failed attempt: a JSON array of its number, its time in microseconds, the error, its place, and its traceback
if one is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import attrs

from bus_core import Attempt, DeadLetter, FrozenMapping, Message
from bus_core.events import NO_HEADERS
from promenade_bus_redis.server.document import LARGEST, look_inside, parse

__all__ = [
    "FRESH",
    "Content",
    "EntryState",
    "from_microseconds",
    "letter_fields",
    "message_fields",
    "read_entry",
    "read_fields",
    "read_letter",
    "returning_fields",
    "time_of_entry",
    "to_microseconds",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_MOST_ATTEMPTS: Final = 1_000_000
"""The maximum number of an attempt: the bus writes no greater one, and retry policies calculate with it."""


def to_microseconds(moment: datetime) -> int:
    """Converts exactly, unlike ``timestamp()``."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """Returns the moment in UTC."""
    return _EPOCH + timedelta(microseconds=count)


def time_of_entry(entry_id: bytes) -> datetime:
    """Returns the time at which the server stored an entry; a foreign id may not be a time."""
    return _moment(entry_id.partition(b"-")[0])


@lru_cache(maxsize=16)  # under load many entries have the same millisecond
def _moment(milliseconds: bytes) -> datetime:
    try:
        return from_microseconds(int(milliseconds) * 1000)
    except OverflowError:
        return _EPOCH


# --- attempts ---------------------------------------------------------------------------------------------


@attrs.frozen
class EntryState:
    """The state of a message that was attempted before.

    ``attempt`` is the number of the next attempt. ``deaths`` is the number of owners that died with it since
    an owner last survived handling it. ``waited`` is the time in seconds for which it has waited for an
    instance that can decode it.
    """

    attempt: int = 1
    deaths: int = 0
    history: tuple[Attempt, ...] = ()
    waited: float = 0.0

    def encode(self) -> bytes:
        """Returns the state as text."""
        waited = f" {round(self.waited * 1000)}" if self.waited else ""
        lines = [f"{self.attempt} {self.deaths}{waited}", *map(_encode_attempt, self.history)]
        return "\n".join(lines).encode()

    @classmethod
    def decode(cls, text: bytes) -> EntryState:
        """Parses a state; raises ``ValueError`` for any other text."""
        if len(text) > LARGEST:
            raise ValueError("too large for a state")
        try:
            first, *lines = text.decode().split("\n")
            attempt, deaths, *more = map(int, first.split(" "))
            if not (1 <= attempt <= _MOST_ATTEMPTS and 0 <= deaths <= _MOST_ATTEMPTS and len(more) < 2):
                raise ValueError("no numbers of attempts")
            waited = sum(more) / 1000
            if waited < 0:
                raise ValueError("no time of waiting")
            return cls(attempt, deaths, tuple(map(_decode_attempt, lines)), waited)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError("not a state") from error

    @property
    def owner_died(self) -> bool:
        """True if the last attempt ended with the death of its owner."""
        return self.deaths > 0


FRESH: Final = EntryState()


def _encode_attempt(attempt: Attempt) -> str:
    told = [attempt.number, to_microseconds(attempt.at), attempt.error, attempt.place]
    return json.dumps([*told, attempt.traceback] if attempt.traceback else told)


def _decode_attempt(line: str) -> Attempt:
    number, at, error, *more = json.loads(line)  # the death of an owner has no place in the code
    return Attempt(int(number), from_microseconds(int(at)), str(error), *map(str, more))


# --- entries ----------------------------------------------------------------------------------------------


@attrs.define
class Content:
    """The contents of an entry. ``fault`` is the reason why it is invalid, if it is."""

    message: Message
    published_at: datetime
    state: EntryState = FRESH
    fault: str | None = None


def message_fields(message: Message) -> list[Any]:
    """Returns the fields of an entry for a message, flat for XADD."""
    if message.headers:
        headers = json.dumps(dict(message.headers), ensure_ascii=False, separators=(",", ":"))
        return ["id", message.id, "key", message.key, "headers", headers, "body", message.body]
    return ["id", message.id, "key", message.key, "body", message.body]


def returning_fields(message: Message, published_at: datetime, state: EntryState) -> list[Any]:
    """Returns the fields of an entry that goes back to one group."""
    published = to_microseconds(published_at) // 1000
    return [*message_fields(message), "published", published, "state", state.encode()]


def read_entry(topic: str, entry_id: bytes, fields: Sequence[bytes]) -> Content:
    """Reads an entry; never raises, whatever it contains."""
    if len(fields) == 6 and fields[0] == b"id" and fields[2] == b"key" and fields[4] == b"body" and fields[1]:
        try:
            message = Message(fields[1].decode(), topic, fields[3].decode(), fields[5], NO_HEADERS)
        except UnicodeDecodeError:
            pass  # the slow path finds the fault
        else:
            return Content(message, time_of_entry(entry_id))
    return _read_any(topic, entry_id, read_fields(fields))


def read_fields(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """Returns flat fields as a mapping; the first of two equal names counts."""
    found: dict[bytes, bytes] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        found.setdefault(name, value)
    return found


def _read_any(topic: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Content:
    faults: list[str] = []
    body = fields.get(b"body")
    if body is None:
        faults.append("the entry has no field 'body'")
        body = b"\n".join(name + b": " + value for name, value in fields.items())
    headers = _read_headers(fields.get(b"headers"), faults)
    inside = {} if b"id" in fields else look_inside(body)
    event_id = _text(fields, b"id", faults) or inside.get("id") or entry_id.decode()
    key = _text(fields, b"key", faults) or inside.get("subject", "")
    state, published_at = FRESH, time_of_entry(entry_id)
    try:
        if b"published" in fields:
            published_at = from_microseconds(int(fields[b"published"]) * 1000)
        if b"state" in fields:
            state = EntryState.decode(fields[b"state"])
    except (ValueError, OverflowError):
        faults.append("its field 'published' or 'state' cannot be read")
    message = Message(event_id, topic, key, body, headers)
    return Content(message, published_at, state, "; ".join(faults) or None)


def _text(fields: Mapping[bytes, bytes], name: bytes, faults: list[str]) -> str:
    value = fields.get(name, b"")
    try:
        return value.decode()
    except UnicodeDecodeError:
        faults.append(f"its field {name.decode()!r} is not UTF-8")
        return value.decode(errors="backslashreplace")


def _read_headers(text: bytes | None, faults: list[str]) -> FrozenMapping[str, str]:
    if text is None:
        return NO_HEADERS
    if len(text) > LARGEST:
        faults.append(f"its field 'headers' has {len(text):,} bytes, more than the {LARGEST:,} that are read")
        return NO_HEADERS
    found = parse(text)
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return FrozenMapping(found)
    faults.append("its field 'headers' is not a JSON object of texts")
    return NO_HEADERS


# --- dead letters -----------------------------------------------------------------------------------------


def letter_fields(letter: DeadLetter, message: Message, published_at: datetime, group: str) -> list[Any]:
    """Returns the fields of a dead letter: those of the message, and its failure."""
    return [
        *message_fields(message),
        "published",
        to_microseconds(published_at) // 1000,
        "group",
        group,
        "subscription",
        letter.subscription,
        "reason",
        _clean(letter.reason),
        "event_id",
        "" if letter.event_id is None else str(letter.event_id),
        "dead_at",
        to_microseconds(letter.dead_at),
        "history",
        "\n".join(map(_encode_attempt, letter.attempts)),
    ]


def read_letter(topic: str, letter_id: str, fields: Sequence[bytes]) -> DeadLetter:
    """Reads a dead letter; omits unreadable fields, so that the body is never lost."""
    from uuid import UUID

    found = read_fields(fields)
    content = _read_any(topic, letter_id.rpartition("/")[2].encode(), found)
    try:
        event_id = UUID(found[b"event_id"].decode()) if found.get(b"event_id") else None
    except ValueError:
        event_id = None
    try:
        lines = found.get(b"history", b"")[:LARGEST].decode().split("\n")
        history = tuple(_decode_attempt(line) for line in lines if line)
        dead_at = from_microseconds(int(found[b"dead_at"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        history, dead_at = (), content.published_at
    return DeadLetter(
        letter_id,
        topic,
        found.get(b"subscription", b"").decode(errors="backslashreplace"),
        event_id,
        content.message.key,
        found.get(b"reason", b"").decode(errors="backslashreplace"),
        history,
        content.message.body,
        content.message.headers,
        dead_at=dead_at,
    )


def _clean(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def texts(items: Iterable[bytes]) -> list[str]:
    """Decodes names from a reply."""
    return [item.decode(errors="backslashreplace") for item in items]
