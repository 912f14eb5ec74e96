"""What a ``bus_core.adapters.storage.StorageAdapter`` keeps: records, and what their text says."""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import attrs
from cattrs.preconf.json import JsonConverter, make_converter

from bus_core.events.messages import Attempt, DeadLetter, Message
from bus_core.events.topics import TopicPattern

__all__ = ["DEAD", "NOBODY", "Claim", "Pending", "Record", "RecordState", "matches"]

NOBODY = ""
"""The owner of a record that may be claimed when it is due."""

DEAD = "dead"
"""The owner of a record that is a dead letter; it is never due."""

Claim = tuple[Any, str, bool]
"""A record that was claimed: its key, of any type; its text; whether it belonged to somebody before."""

Pending = tuple[str, str, int, float, float]
"""What one owner has of a subscription: both names, how many records, and when the first and last are due."""

_pattern = cache(TopicPattern)


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic belongs to what was subscribed: the name of a topic, or a pattern."""
    return pattern == topic or _pattern(pattern).matches(topic)


@attrs.frozen
class Record:
    """What a storage keeps of a message on its way to one subscription.

    ``due`` is a time in seconds since the epoch: where nobody owns it, the end of a delay, before which it is
    not claimed. Where somebody does, it grows as long as the ``owner`` lives.
    """

    text: str
    owner: str = NOBODY
    due: float = 0.0


@attrs.frozen
class RecordState:
    """What the text of a record says."""

    message: Message
    published_at: datetime
    attempt: int = 1
    redelivered: bool = False
    history: tuple[Attempt, ...] = ()
    letter: DeadLetter | None = None
    waited: float = 0.0

    def text(self) -> str:
        """Itself as the text of a record."""
        return _converter().dumps(self)

    @classmethod
    def of(cls, text: str) -> RecordState:
        """What the text of a record says."""
        return _converter().loads(text, cls)


@cache
def _converter() -> JsonConverter:
    converter = make_converter()
    converter.register_unstructure_hook(bytes, lambda body: b64encode(body).decode())
    converter.register_structure_hook(bytes, lambda text, _: b64decode(text))
    converter.register_unstructure_hook(UUID, str)
    converter.register_structure_hook(UUID, lambda text, _: UUID(text))
    return converter
