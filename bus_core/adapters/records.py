"""The records of a ``bus_core.adapters.storage.StorageAdapter``, and their text."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import attrs
from cattrs.preconf.json import JsonConverter, make_converter

from bus_core.errors import ConsumerDied
from bus_core.events.messages import NO_HEADERS, Attempt, DeadLetter, Message, with_attempt
from bus_core.events.primitives import FrozenMapping
from bus_core.events.topics import TopicPattern

__all__ = [
    "DEAD",
    "NOBODY",
    "Claim",
    "Pending",
    "Record",
    "RecordState",
    "attempts_of",
    "headers_of",
    "letter_of",
    "matches",
    "replayed_at",
    "text_fault_of",
    "text_of_attempts",
    "text_of_headers",
    "text_of_letter",
    "with_death",
]

NOBODY = ""
"""The owner of a record that may be claimed when it is due."""

DEAD = "dead"
"""The owner of a record that is a dead letter; it is never due."""

Claim = tuple[Any, str, bool]
"""A claimed record: its key, of any type; its text; and True if it had an owner before."""

Pending = tuple[str, str, int, float]
"""The records of one owner: subscription, owner, their number, and the earliest due time."""

_pattern = cache(TopicPattern)


def matches(pattern: str, topic: str) -> bool:
    """True when a topic belongs to a subscription, given as the name of a topic or as a pattern."""
    return pattern == topic or _pattern(pattern).matches(topic)


@attrs.frozen
class Record:
    """A message on its way to one subscription, as a storage keeps it.

    ``due`` is the end of a delay, in seconds since the epoch; nobody claims the record before. It has no
    meaning while somebody owns the record.
    """

    text: str
    owner: str = NOBODY
    due: float = 0.0


@attrs.frozen
class RecordState:
    """Reads the text of a record."""

    message: Message
    published_at: datetime
    attempt: int = 1
    redelivered: bool = False
    history: tuple[Attempt, ...] = ()
    letter: DeadLetter | None = None
    waited: float = 0.0

    def text(self) -> str:
        """Writes the text of the record."""
        return _converter().dumps(self)

    @classmethod
    def of(cls, text: str) -> RecordState:
        """Reads the text of a dead letter record."""
        return _converter().loads(text, cls)


def with_death(history: tuple[Attempt, ...], attempt: int) -> tuple[Attempt, ...]:
    """A history with the death of the last owner, which may have been handling the message."""
    died = Attempt(attempt, datetime.now(UTC), f"{ConsumerDied.__name__}: its lease ended")
    return with_attempt(history, died)


def replayed_at(moment: datetime) -> Attempt:
    """The first entry in the history of a replayed message. With it, ``Delivery.redriven`` is true."""
    return Attempt(1, moment, "Replayed: it is handed out again on request")


def text_of_attempts(attempts: Sequence[Attempt]) -> str:
    """A history as a text, which ``attempts_of`` reads."""
    return _converter().dumps(list(attempts), list[Attempt])


def attempts_of(text: str) -> tuple[Attempt, ...]:
    """The history of a text."""
    return tuple(_converter().loads(text, list[Attempt]))


def text_of_letter(letter: DeadLetter) -> str:
    """A dead letter as a text, which ``letter_of`` reads."""
    return _converter().dumps(letter)


def letter_of(text: str) -> DeadLetter:
    """The dead letter of a text."""
    return _converter().loads(text, DeadLetter)


def text_of_headers(headers: Mapping[str, str]) -> str | None:
    """Headers as a text, which ``headers_of`` reads; None where there are none."""
    return json.dumps(dict(headers)) if headers else None


def headers_of(text: str | None) -> Mapping[str, str]:
    """The headers of a text. Raises ``ValueError`` or ``TypeError`` for what is no text of headers."""
    return NO_HEADERS if text is None else FrozenMapping(json.loads(text))


def text_fault_of(message: Message) -> str | None:
    """The reason that a database cannot store the key and the headers of a message; None where it can."""
    texts: list[str] = [message.key]
    if message.headers:
        texts += [*message.headers.keys(), *message.headers.values()]
    for text in texts:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return "a key or a header has a lone surrogate, which UTF-8 cannot encode"
    return None


@cache
def _converter() -> JsonConverter:
    converter = make_converter()
    converter.register_unstructure_hook(bytes, lambda body: b64encode(body).decode())
    converter.register_structure_hook(bytes, lambda text, _: b64decode(text))
    converter.register_unstructure_hook(UUID, str)
    converter.register_structure_hook(UUID, lambda text, _: UUID(text))
    return converter
