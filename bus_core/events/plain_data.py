"""Values as plain data for Python's JSON encoder, equal to those that a serializer writes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from bus_core.events.checks import normalizer_of
from bus_core.events.faults import Unfit
from bus_core.events.privacy import HIDDEN
from bus_core.events.shapes import (
    AnyJson,
    Collection,
    EnumMember,
    Field,
    FixedTuple,
    LiteralValue,
    MappingOf,
    OneOf,
    RecordShape,
    Recursive,
    Scalar,
    Shape,
    WithJsonForm,
    is_personal,
    plain,
    plain_json,
)
from bus_core.events.values import write_date, write_datetime, write_time, write_timedelta

__all__ = ["plain_fields", "plain_value"]

_TEXTS: Final[Mapping[Any, Callable[[Any], str]]] = {
    UUID: str,
    datetime: write_datetime,
    date: write_date,
    time_of_day: write_time,
    timedelta: write_timedelta,
    Decimal: str,
    bytes: lambda value: base64.b64encode(value).decode(),
}


def plain_fields(fields: tuple[Field, ...], record: object, *, personal: bool = True) -> dict[str, Any]:
    """The fields of an event, or of a nested class, by their keys in JSON.

    Without ``personal`` each personal value is ``<personal>``, at any depth. As in a repr, a container with a
    mark in its type is hidden completely.
    """
    return {
        field.key: plain_value(field.shape, getattr(record, field.name), personal=personal)
        for field in fields
    }


def plain_value(shape: Shape, value: Any, *, personal: bool = True) -> Any:
    """One value of a shape, in normal form; see ``plain_fields``."""
    if not personal and is_personal(shape):
        return HIDDEN
    shape = plain(shape)

    def inside(part: Shape, of: Any) -> Any:
        return plain_value(part, of, personal=personal)

    if isinstance(shape, Scalar):
        write = _TEXTS.get(shape.base)
        return value if write is None else write(value)
    if isinstance(shape, AnyJson):
        return _thawed(value)
    if isinstance(shape, EnumMember | LiteralValue):
        return plain_json(value)
    if isinstance(shape, Collection):
        items = [inside(shape.item, item) for item in value]
        return _in_order(items) if shape.kind is frozenset else items
    if isinstance(shape, FixedTuple):
        return [inside(part, item) for part, item in zip(shape.items, value, strict=True)]
    if isinstance(shape, MappingOf):
        return {str(inside(shape.key, key)): inside(shape.item, item) for key, item in value.items()}
    if isinstance(shape, RecordShape):
        return plain_fields(shape.fields, value, personal=personal)
    if isinstance(shape, WithJsonForm):
        return inside(shape.inner, normalizer_of(shape.inner)(shape.form.write(value)))
    if isinstance(shape, Recursive):
        assert shape.shape is not None, "an alias that was read to its end"
        return inside(shape.shape, value)
    assert isinstance(shape, OneOf), "the last of the shapes"
    return inside(_alternative(shape, value), value)


def _alternative(shape: OneOf, value: Any) -> Shape:
    """The alternative of a union that a value belongs to."""
    for alternative in shape.alternatives:
        try:
            if normalizer_of(alternative)(value) is value:
                return alternative
        except Unfit:
            continue
    return AnyJson()


def _in_order(items: list[Any]) -> list[Any]:
    """The items of a set in the same order in every process."""
    try:
        return sorted(items)
    except TypeError:  # values of several types have no order
        return sorted(items, key=repr)


def _thawed(value: Any) -> Any:
    """A JSON value whose mappings are dicts, and whose tuples are lists."""
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value
