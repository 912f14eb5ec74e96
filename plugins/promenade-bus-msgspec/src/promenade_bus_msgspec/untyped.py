"""The encoding and decoding of events without a class, whose data is any JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from bus_core import BaseEvent, Event, FrozenMapping
from bus_core.events import NO_METADATA, Constrained, assembler_of, model_of
from promenade_bus_msgspec.documents import (
    Unlike,
    bounded_int,
    document_class,
    encode,
    in_utc,
    read_metadata,
    write_metadata,
)

__all__ = ["UntypedPlan"]


class UntypedPlan:
    """Encodes and decodes a ``BaseEvent``, like a ``Plan`` for an event class."""

    def __init__(self, max_depth: int) -> None:
        model = model_of(BaseEvent)
        type_name = model.own.fields[0].shape
        assert isinstance(type_name, Constrained)
        (rule,) = type_name.rules
        self._is_type_name = rule.check
        self._read_id = model.id.read
        self._make: Any = assembler_of(BaseEvent)
        self._document = document_class(str, str, dict[str, Any], untyped=True)
        self._decode = msgspec.json.Decoder(self._document).decode
        self._room = max_depth - 1  # the document itself is the first level

    def write(self, event: Any, topic: str, source: str) -> bytes:
        """Returns the bytes of an event; raises ``Unlike``, or an exception of msgspec."""
        _check(event.data, self._room)
        return encode(
            self._document(
                specversion="1.0",
                type=event.type,
                source=source,
                topic=topic,
                datacontenttype="application/json",
                id=event.event_id,
                subject=str(event.aggregate_id),
                time=in_utc(event.occurred_at),
                metadata=write_metadata(event.metadata) if event.metadata else UNSET,
                data=event.data,
            )
        )

    def read(self, body: bytes) -> Event[Any] | None:
        """Returns the event of exactly such bytes; returns None or raises for any others."""
        document = self._decode(body)
        if encode(document) != body or not self._is_type_name(document.type):
            return None
        event: Event[Any] = self._make(
            self._read_id(document.subject),
            document.id,
            in_utc(document.time),
            NO_METADATA if document.metadata is UNSET else read_metadata(document.metadata),
            document.type,
            _frozen(document.data, self._room),
        )
        return event


def _check(value: Any, room: int) -> None:
    """Raises ``Unlike`` for a mapping or tuple that the built-in serializer has to handle."""
    if not room:
        raise Unlike("a value that nests too deeply")
    for item in value.values() if value.__class__ is FrozenMapping else value:
        kind = item.__class__
        if kind is int:
            bounded_int(item)
        elif kind is FrozenMapping or kind is tuple:
            _check(item, room - 1)


def _frozen(value: Any, room: int) -> Any:
    """Freezes a dict or list decoded by msgspec; raises ``Unlike``."""
    if not room:
        raise Unlike("a value that nests too deeply")
    is_mapping = value.__class__ is dict
    for key, item in value.items() if is_mapping else enumerate(value):
        kind = item.__class__
        if kind is int:
            bounded_int(item)
        elif kind is dict or kind is list:
            value[key] = _frozen(item, room - 1)  # not shared, and its keys do not change
    return FrozenMapping(value) if is_mapping else tuple(value)
