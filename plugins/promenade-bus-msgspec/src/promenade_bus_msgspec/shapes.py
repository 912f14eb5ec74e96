"""Which types of fields msgspec writes and reads exactly as the built-in serializer does."""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import attrs
import msgspec

from bus_core import Constraint
from bus_core.serialization import bare, is_record

__all__ = ["Build", "Guard", "Shape", "Unlike", "shape_of"]

Build = Callable[[Any], Any]
"""Makes the value of a field of what msgspec has read."""

Guard = Callable[[Any], bool]
"""Whether a value is one that both write, or read, alike."""

_DECIMAL_RANGE: Final = 6144
"""As in ``bus_core.serialization.json_values``."""

_SIMPLE: Final[Mapping[Any, Any]] = {
    str: str,
    bool: bool,
    # Larger ones are bounded by max_digits, of which msgspec does not know.
    int: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    # msgspec would write null for what is no number.
    float: Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)],
    type(None): None,
    UUID: UUID,
}


class Unlike(TypeError):
    """Values of a type may differ."""


@attrs.frozen
class Shape:
    """A type as msgspec is told it; what makes values of it of what was read, where that is not the same."""

    type: Any
    build: Build | None = None
    guard: Guard | None = None


def shape_of(hint: Any) -> Shape:
    """The shape of an event's field; raises ``Unlike``."""
    plain = bare(hint)
    guard = _GUARDS.get(_optional(plain))
    return _shape(hint, ()) if guard is None else Shape(plain, guard=guard)


def _shape(hint: Any, records: tuple[type[Any], ...]) -> Shape:
    """``records`` are those around it, the outermost first: the event has not checked what is inside."""
    if records and any(isinstance(rule, Constraint) for rule in getattr(hint, "__metadata__", ())):
        raise Unlike("a rule for values")
    plain = bare(hint)
    if isinstance(plain, type) and plain in _SIMPLE:
        return Shape(_SIMPLE[plain])
    origin, arguments = get_origin(plain), get_args(plain)
    if origin is Literal and all(type(item) is str for item in arguments):
        return Shape(plain)
    if origin is list:
        item = _shape(arguments[0], records)
        return Shape(_generic(list, item.type), _of_each(item, list))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        item = _shape(arguments[0], records)
        return Shape(_generic(tuple, item.type, ...), _of_each(item, tuple))
    if origin is dict and bare(arguments[0]) is str:
        item = _shape(arguments[1], records)
        return Shape(_generic(dict, str, item.type), _of_values(item))
    if (other := _optional(plain)) is not plain:
        shape = _shape(other, records)
        return Shape(Union[shape.type, None], _unless_none(shape))  # noqa: UP007
    if isinstance(plain, type):
        if issubclass(plain, enum.Enum) and all(type(member.value) is str for member in plain):
            return Shape(plain)
        if is_record(plain):
            return _record(plain, records)
    raise Unlike(repr(plain))


def _generic(kind: Any, *arguments: Any) -> Any:
    return kind[arguments]


def _optional(plain: Any) -> Any:
    """What ``T | None`` may be beside None; anything else as it is."""
    if get_origin(plain) in (Union, types.UnionType):
        others = [argument for argument in get_args(plain) if argument is not type(None)]
        if len(others) == 1 and len(get_args(plain)) == 2:
            return bare(others[0])
    return plain


def _record(cls: type[Any], records: tuple[type[Any], ...]) -> Shape:
    """An attrs class or a dataclass: msgspec fills something alike, and its constructor is called."""
    if cls in records:
        raise Unlike("a record inside of itself")
    hints = get_type_hints(cls, include_extras=True)
    names: list[str] = []
    shapes: list[Shape] = []
    positional = True
    for field in attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls):
        if not field.init or field.name not in hints or getattr(field, "alias", field.name) != field.name:
            raise Unlike(f"the field {field.name}")
        positional = positional and not field.kw_only
        names.append(field.name)
        shapes.append(_shape(hints[field.name], (*records, cls)))
    struct = msgspec.defstruct(
        cls.__name__, [(name, shape.type) for name, shape in zip(names, shapes, strict=True)], gc=False
    )
    return Shape(struct, _of_record(cls, names, shapes, positional=positional))


# --- making values ----------------------------------------------------------------------------------------


def _of_each(item: Shape, kind: type[Any]) -> Build | None:
    build = item.build
    return None if build is None else lambda values: kind([build(value) for value in values])


def _of_values(item: Shape) -> Build | None:
    build = item.build
    return None if build is None else lambda values: {key: build(value) for key, value in values.items()}


def _unless_none(shape: Shape) -> Build | None:
    build = shape.build
    return None if build is None else lambda value: None if value is None else build(value)


def _of_record(cls: Any, names: list[str], shapes: list[Shape], *, positional: bool) -> Build:
    values_of = msgspec.structs.astuple
    builds = [(place, shape.build) for place, shape in enumerate(shapes) if shape.build is not None]

    def build(struct: Any) -> Any:
        values: Any = values_of(struct)
        if builds:
            values = [*values]
            for place, build_value in builds:
                values[place] = build_value(values[place])
        return cls(*values) if positional else cls(**dict(zip(names, values, strict=True)))

    return build


# --- values that may differ -------------------------------------------------------------------------------


def _is_in_utc(value: datetime | None) -> bool:
    return value is None or value.tzinfo is UTC


def _is_in_range(value: Decimal | None) -> bool:
    return value is None or (value.is_finite() and abs(value.adjusted()) <= _DECIMAL_RANGE)


_GUARDS: Final[Mapping[Any, Guard]] = {datetime: _is_in_utc, Decimal: _is_in_range}
