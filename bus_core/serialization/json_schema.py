"""The JSON Schema of an event's ``data``, made from the shapes of fields."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import attrs

from bus_core.events import shapes
from bus_core.events.base import BaseEvent, Event, model_of
from bus_core.events.shapes import Shape, is_tolerant, plain, plain_json

__all__ = ["schema_of"]

_SCALARS: Final[Mapping[Any, Mapping[str, Any]]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    UUID: {"type": "string", "format": "uuid"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time_of_day: {"type": "string", "format": "time"},
    timedelta: {"type": "string", "format": "duration"},
    Decimal: {"type": "string", "pattern": r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,5})?$"},
    bytes: {"type": "string", "contentEncoding": "base64"},
}


def schema_of(cls: type[Event[Any]]) -> dict[str, Any]:
    """The schema (draft 2020-12) of the ``data`` of a class's events.

    It allows further fields, which a newer version of the class may add. It describes a ``Constraint`` in
    words, and marks personal data with ``x-personal``. A deprecated field has ``deprecated`` and
    ``x-deprecated``. An enum that reads unknown values as a member of its own has ``x-tolerant``.
    """
    if issubclass(cls, BaseEvent) or cls is Event:
        return {"type": "object"}
    schemas = _Schemas()
    schema = schemas.of_fields(model_of(cls).own)
    return schema if not schemas.definitions else {**schema, "$defs": schemas.definitions}


class _Schemas:
    """Makes the schemas of one event class. Nested classes, and recursive aliases, are definitions."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def of_fields(self, record: shapes.RecordShape) -> dict[str, Any]:
        """The schema of an object with the fields of a class."""
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {field.key: self._of_field(field) for field in record.fields},
        }
        required = [field.key for field in record.fields if field.default is attrs.NOTHING]
        return {**schema, "required": required} if required else schema

    def _of_field(self, field: shapes.Field) -> dict[str, Any]:
        schema = self.of(field.shape)
        if field.deprecated is None:
            return schema
        return {**schema, "deprecated": True, "x-deprecated": field.deprecated}

    def of(self, shape: Shape) -> dict[str, Any]:
        """The schema of a value."""
        if isinstance(shape, shapes.Scalar):
            return dict(_SCALARS[shape.base])
        if isinstance(shape, shapes.AnyJson):
            return {}
        if isinstance(shape, shapes.EnumMember):
            values = [plain_json(member.value) for member in shape.cls]
            return {"enum": values, "x-tolerant": True} if is_tolerant(shape.cls) else {"enum": values}
        if isinstance(shape, shapes.LiteralValue):
            return {"enum": [plain_json(value) for value in shape.values]}
        if isinstance(shape, shapes.Collection):
            unique = {"uniqueItems": True} if shape.kind is frozenset else {}
            return {"type": "array", "items": self.of(shape.item), **unique}
        if isinstance(shape, shapes.FixedTuple):
            size = len(shape.items)
            items = {"prefixItems": [self.of(item) for item in shape.items]} if size else {}
            return {"type": "array", **items, "minItems": size, "maxItems": size}
        if isinstance(shape, shapes.MappingOf):
            return self._of_mapping(shape)
        if isinstance(shape, shapes.OneOf):
            return {"anyOf": [self.of(alternative) for alternative in shape.alternatives]}
        if isinstance(shape, shapes.Constrained):
            rules = "; ".join(rule.description for rule in shape.rules)
            return {**self.of(shape.inner), "description": f"must be {rules}"}
        if isinstance(shape, shapes.Hidden):
            return {**self.of(shape.inner), "x-personal": True}
        if isinstance(shape, shapes.WithJsonForm):
            return self.of(shape.inner)
        return self._reference_to(shape)

    def _of_mapping(self, shape: shapes.MappingOf) -> dict[str, Any]:
        key = plain(shape.key)
        if isinstance(key, shapes.Scalar) and key.base is int:
            names: dict[str, Any] = {"pattern": "^(0|-?[1-9][0-9]*)$"}
        else:
            names = self.of(shape.key)
            names = {} if names == {"type": "string"} else names
        keys = {"propertyNames": names} if names else {}
        return {"type": "object", **keys, "additionalProperties": self.of(shape.item)}

    def _reference_to(self, shape: shapes.RecordShape | shapes.Recursive) -> dict[str, Any]:
        known = self._names.get(id(shape))
        if known is None:
            name = shape.cls.__name__ if isinstance(shape, shapes.RecordShape) else shape.name
            alike = sum(other.partition(".")[0] == name for other in self.definitions)
            known = self._names[id(shape)] = f"{name}.{alike + 1}" if alike else name
            self.definitions[known] = {}  # its place, for one that contains itself
            if isinstance(shape, shapes.RecordShape):
                self.definitions[known] = self.of_fields(shape)
            elif shape.shape is not None:
                self.definitions[known] = self.of(shape.shape)
        return {"$ref": f"#/$defs/{known}"}
