"""Events as Avro containers: each has the schema of its writer, and is read by that schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

import attrs
from fastavro import schemaless_writer

from bus_core import BaseEvent, DeserializationError, Event, SerializationError
from bus_core.serialization import from_data, to_data
from promenade_bus_avro.containers import NotAContainer, header_of, join, split
from promenade_bus_avro.json_text import JsonText
from promenade_bus_avro.options import AvroOptions
from promenade_bus_avro.reading import Unreadable, WriterSchema
from promenade_bus_avro.schemas import Give, Unwritable, envelope_of

__all__ = ["AvroSerializer"]

_KNOWN_SCHEMAS: Final = 200
_LARGEST_KNOWN: Final = 1 << 16
"""The bytes of a schema that is kept: those of others may be large, and always new."""


@attrs.frozen
class _Plan:
    """The encoding of the events of one class, made once."""

    header: bytes
    schema: WriterSchema
    give: Give | None
    has_version: bool


class AvroSerializer:
    """Writes events as Avro containers, and reads them. Threads may share it.

    The container has the schema of its writer. So a reader needs no registry of schemas, nor the class.
    """

    def __init__(self, options: AvroOptions | None = None) -> None:
        self.options = options or AvroOptions()
        self._text = JsonText(self.options)
        self._plans: dict[type[Event[Any]], _Plan] = {}
        self._known_schema: Callable[[bytes], WriterSchema] = lru_cache(_KNOWN_SCHEMAS)(self._new_schema)

    def schema_of(self, event_class: type[Event[Any]]) -> dict[str, Any]:
        """Returns the Avro schema of the events of a class, for tools; raises ``SerializationError``."""
        if event_class not in self._plans:
            self._plan(event_class)
        return envelope_of(event_class, self._text)[0]

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        """Returns the event as bytes; raises ``SerializationError`` with the class and the field."""
        cls = type(event)
        plan = self._plans.get(cls) or self._plan(cls)
        try:
            body = _written(plan, to_data(event), topic, source)
        except Unwritable as error:
            raise SerializationError(f"{_name(cls)} cannot be encoded: {error}") from None
        except Exception as error:  # those of fastavro quote values
            raise SerializationError(
                f"{_name(cls)} cannot be encoded: a field holds a value that does not fit its type "
                f"({type(error).__name__})"
            ) from None
        if len(body) > self.options.max_bytes:
            raise SerializationError(
                f"{_name(cls)} cannot be encoded: it has more than {self.options.max_bytes} bytes (max_bytes)"
            )
        return body

    def decode(self, body: bytes, *, event_class: type[Event[Any]]) -> Event[Any]:
        """Returns the event of the bytes; raises only ``DeserializationError``, whatever the bytes are.

        Fields are matched by name, as in JSON. Unknown ones are ignored, and missing ones get the default of
        the class. Data of an older version passes the upcasters of the class.
        """
        try:
            return from_data(event_class, self._read(body))
        except (NotAContainer, Unreadable) as error:
            reason = str(error)
        except (RecursionError, MemoryError) as error:
            reason = f"it cannot be read ({type(error).__name__})"
        raise DeserializationError(f"not a valid {_name(event_class)}: {reason}")

    def _read(self, body: bytes) -> dict[str, Any]:
        if len(body) > self.options.max_bytes:
            raise Unreadable(f"it has more than {self.options.max_bytes} bytes (max_bytes)")
        text, written = split(bytes(body))
        schema = (self._known_schema if len(text) <= _LARGEST_KNOWN else self._new_schema)(text)
        found = schema.read(written)
        source = found.get("source")
        if found.get("specversion") != "1.0" or type(source) is not str or not source:
            raise Unreadable("it is no event of CloudEvents 1.0 with a source")
        return {
            "event_id": found.get("id"),
            "type": found.get("type"),
            "version": found.get("dataversion"),
            "aggregate_id": found.get("subject"),
            "occurred_at": found.get("time"),
            "metadata": found.get("metadata"),
            "data": found.get("data"),
        }

    def _new_schema(self, text: bytes) -> WriterSchema:
        return WriterSchema(text, self.options)

    def _plan(self, cls: type[Event[Any]]) -> _Plan:
        try:
            schema, give = envelope_of(cls, self._text)
            text = json.dumps(schema, separators=(",", ":")).encode()
            plan = _Plan(header_of(text), self._new_schema(text), give, not issubclass(cls, BaseEvent))
        except (TypeError, ValueError, NameError, RecursionError) as error:
            raise SerializationError(f"{_name(cls)} has no schema in Avro: {error}") from error
        self._plans[cls] = plan
        return plan


def _written(plan: _Plan, data: dict[str, Any], topic: str, source: str) -> bytes:
    fields = data["data"]
    record = {
        "specversion": "1.0",
        "id": data["event_id"],
        "source": source,
        "type": data["type"],
        "subject": str(data["aggregate_id"]),
        "time": data["occurred_at"],
        "topic": topic,
        "dataversion": data["version"] if plan.has_version else None,
        "metadata": data["metadata"],
        "data": fields if plan.give is None else plan.give(fields),
    }
    out = BytesIO()
    schemaless_writer(out, plan.schema.parsed, record)
    return join(plan.header, out.getvalue())


def _name(cls: type[Event[Any]]) -> str:
    return cls.__qualname__.rpartition("<locals>.")[2]
