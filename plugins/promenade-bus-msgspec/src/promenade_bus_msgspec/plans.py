"""How events of one class are written and read: compiled once per class."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from bus_core import BaseEvent, Event, FrozenMapping
from bus_core.events import event_type_of, event_version_of, model_of
from promenade_bus_msgspec.shapes import Unlike, wire_of

__all__ = ["Plan", "plan_of"]


def _envelope(subject: Any) -> tuple[Any, ...]:
    """The attributes in the order in which the built-in serializer writes them."""
    return (
        ("specversion", str),
        ("type", str),
        ("source", str),
        ("topic", str),
        ("dataversion", int),
        ("datacontenttype", str),
        ("id", UUID),
        ("subject", subject),
        ("time", datetime),
        ("metadata", str | UnsetType, UNSET),
    )


_encode: Final = msgspec.json.Encoder().encode
_decode_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode
_convert: Final = msgspec.convert
_values_of: Final = msgspec.structs.astuple


def plan_of(cls: type[Any]) -> Plan | None:
    """The plan of a class of events; None when msgspec may differ from the built-in serializer for it."""
    if not issubclass(cls, Event) or issubclass(cls, BaseEvent) or cls is Event:
        return None
    try:
        return Plan(cls)
    except (Unlike, TypeError, ValueError, NameError, RecursionError):
        return None


class Plan:
    """Writes and reads events of one class. Both return None for what the built-in serializer has to do."""

    def __init__(self, cls: type[Event[Any]]) -> None:
        model = model_of(cls)
        own = model.own.fields
        wires = [wire_of(field.shape) for field in own]
        has_uuid = model.id.exact is UUID
        self._cls: Any = cls
        self._type = event_type_of(cls)
        self._version = event_version_of(cls)
        self._subject = None if has_uuid else str
        self._aggregate_id = None if has_uuid else model.id.read
        self._keys = tuple(field.key for field in own)
        self._guards = [
            (field.name, field.key, wire.guard)
            for field, wire in zip(own, wires, strict=True)
            if wire.guard is not None
        ]
        self._builds = [
            (key, wire.build) for key, wire in zip(self._keys, wires, strict=True) if wire.build is not None
        ]
        self._data: Any = msgspec.defstruct(
            "Data",
            [(field.name, wire.type) for field, wire in zip(own, wires, strict=True)],
            rename={field.name: key for field, key in zip(own, self._keys, strict=True)},
            gc=False,
        )
        envelope = _envelope(UUID if has_uuid else str)
        self._document: Any = msgspec.defstruct(
            "Document", [*envelope, ("data", self._data | UnsetType, UNSET)], gc=False
        )
        self._decode = msgspec.json.Decoder(self._document).decode

    def write(self, event: Any, topic: str, source: str) -> bytes | None:
        """The bytes of an event; raises whatever msgspec does."""
        occurred_at = event.occurred_at
        if occurred_at.tzinfo is not UTC:
            return None
        for name, _, is_alike in self._guards:
            if not is_alike(getattr(event, name)):
                return None
        metadata = event.metadata
        return _encode(
            self._document(
                "1.0",
                self._type,
                source,
                topic,
                self._version,
                "application/json",
                event.event_id,
                event.aggregate_id if self._subject is None else self._subject(event.aggregate_id),
                occurred_at,
                _encode(dict(metadata)).decode() if metadata else UNSET,
                _convert(event, self._data, from_attributes=True),
            )
        )

    def read(self, body: bytes) -> Event[Any] | None:
        """The event of exactly such bytes; raises whatever msgspec and the class do."""
        document: Any = self._decode(body)
        if (
            document.specversion != "1.0"
            or document.type != self._type
            or not document.source
            or document.data is UNSET
            or document.time.tzinfo is not UTC
            or _encode(document) != body
        ):
            return None
        values: dict[str, Any] = dict(zip(self._keys, _values_of(document.data), strict=True))
        for _, key, is_alike in self._guards:
            if not is_alike(values[key]):
                return None
        for key, build in self._builds:
            values[key] = build(values[key])
        if document.metadata is not UNSET:
            metadata = _read_metadata(document.metadata)
            if metadata is None:
                return None
            values["metadata"] = metadata
        subject = document.subject
        event: Event[Any] = self._cls(
            aggregate_id=subject if self._aggregate_id is None else self._aggregate_id(subject),
            event_id=document.id,
            occurred_at=document.time,
            **values,
        )
        return event


def _read_metadata(text: str) -> Mapping[str, str] | None:
    """The metadata, where the text is exactly what would be written for it."""
    metadata = _decode_metadata(text)
    return FrozenMapping(metadata) if _encode(metadata).decode() == text else None
