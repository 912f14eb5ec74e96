"""Retry policies and serializers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from bus_core.events.base import Event

__all__ = [
    "RetryPolicy",
    "Seconds",
    "Serializer",
]

Seconds = float | timedelta
"""A duration in Python: seconds, or a timedelta."""


@runtime_checkable
class RetryPolicy(Protocol):
    """Decides after each failed attempt. It must be pure, and may be called from several buses."""

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after attempt number ``attempt`` (from 1) failed; None to give up."""
        ...


class Serializer(Protocol):
    """Turns events into bytes and back; see ``bus_core.serialization.cloudevents.JsonSerializer``."""

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        """The event as bytes; raises ``SerializationError``."""
        ...

    def decode(self, body: bytes, *, event_class: type[Event[Any]]) -> Event[Any]:
        """The event of the bytes; raises ``DeserializationError`` and nothing else, whatever the input.

        ``event_class`` is the class of the topic; ``BaseEvent`` where the topic is not known.
        """
        ...
