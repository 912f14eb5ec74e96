"""The encoding and decoding of events of one class, compiled once per class."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from typing import Any, Literal
from uuid import UUID

import msgspec

from bus_core import BaseEvent, Event
from bus_core.events import (
    BASE_FIELDS,
    NO_METADATA,
    assembler_of,
    event_type_of,
    event_version_of,
    model_of,
    upcasters_of,
)
from promenade_bus_msgspec.documents import (
    Unlike,
    document_class,
    encode,
    generic,
    read_metadata,
    write_metadata,
)
from promenade_bus_msgspec.shapes import Expression, Wires, attribute_of

__all__ = ["Plan", "plan_of"]


def plan_of(cls: type[Any]) -> Plan | None:
    """Returns the plan of an event class, or None if msgspec may differ from the built-in serializer."""
    if not issubclass(cls, Event) or issubclass(cls, BaseEvent) or cls is Event:
        return None
    try:
        return Plan(cls)
    except (Unlike, TypeError, ValueError, NameError, RecursionError):
        return None


class Plan:
    """Encodes and decodes events of one class.

    ``write`` takes an event, the topic and the source, and ``read`` takes the bytes. Both return None, or
    raise, for an event that the built-in serializer has to handle. Both are compiled from text, like the
    methods of attrs, because a function call per field takes twice as long. ``depth`` is the maximum nesting
    of a document.
    """

    def __init__(self, cls: type[Event[Any]]) -> None:
        model = model_of(cls)
        wires = Wires()
        parts = [(field.name, field.key, wires.wire_of(field.shape)) for field in model.own.fields]
        self.depth = 2 + max((wire.depth for _, _, wire in parts), default=0)
        has_uuids = model.id.exact is UUID
        data = msgspec.defstruct(
            "Data",
            [(name, wire.type) for name, _, wire in parts],
            rename={name: key for name, key, _ in parts},
            gc=False,
        )
        document = document_class(generic(Literal, event_type_of(cls)), UUID if has_uuids else str, data)
        make = assembler_of(cls)
        names = wires.names | {
            "Document": document,
            "Data": data,
            "NO_METADATA": NO_METADATA,
            "UNSET": msgspec.UNSET,
            "UTC": UTC,
            "decode": msgspec.json.Decoder(document).decode,
            "encode": encode,
            "event_type": event_type_of(cls),
            "make": make or cls,
            "read_id": model.id.read,
            "read_metadata": read_metadata,
            "upcasters": upcasters_of(cls),
            "version": event_version_of(cls),
            "write_metadata": write_metadata,
        }
        given = [_expression(wire.give, "event", name) for name, _, wire in parts]
        taken = [
            "document.subject" if has_uuids else "read_id(document.subject)",
            "document.id",
            "document.time",
            "NO_METADATA if metadata is UNSET else read_metadata(metadata)",
            *(_expression(wire.take, "data", name) for name, _, wire in parts),
        ]
        if make is None:
            keys = [*BASE_FIELDS, *(key for _, key, _ in parts)]
            taken = [f"{key}={value}" for key, value in zip(keys, taken, strict=True)]
        exec(
            f"""
def write(event, topic, source):
    occurred_at, metadata = event.occurred_at, event.metadata
    if occurred_at.tzinfo is not UTC:
        return None
    return encode(Document(
        "1.0", event_type, source, topic, version, "application/json", event.event_id,
        {"event.aggregate_id" if has_uuids else "str(event.aggregate_id)"},
        occurred_at,
        write_metadata(metadata) if metadata else UNSET,
        Data({", ".join(given)}),
    ))

def read(body):
    document = decode(body)
    if document.time.tzinfo is not UTC or encode(document) != body:
        return None
    if upcasters and document.dataversion != version:
        return None
    metadata, data = document.metadata, document.data
    return make({", ".join(taken)})
""",
            names,
        )
        self.write: Callable[[Event[Any], str, str], bytes | None] = names["write"]
        self.read: Callable[[bytes], Event[Any] | None] = names["read"]


def _expression(expression: Expression | None, value: str, name: str) -> str:
    attribute = attribute_of(value, name)
    return attribute if expression is None else expression(attribute)
