"""Which shapes of fields msgspec writes and reads exactly as the built-in serializer does."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Union
from uuid import UUID

import attrs
import msgspec

from bus_core import FrozenMapping
from bus_core.events import (
    Collection,
    EnumMember,
    LiteralValue,
    MappingOf,
    OneOf,
    Record,
    Scalar,
    Shape,
    plain,
)

__all__ = ["Build", "Guard", "Unlike", "Wire", "wire_of"]

Build = Callable[[Any], Any]
"""Makes the value of a field of what msgspec has read."""

Guard = Callable[[Any], bool]
"""Whether a value is one that both write, or read, alike."""

_SIMPLE: Final[Mapping[Any, Any]] = {
    str: str,
    bool: bool,
    # Larger ones are bounded by max_digits, of which msgspec does not know.
    int: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    # msgspec would write null for what is no number.
    float: Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)],
    type(None): None,
    UUID: UUID,
    Decimal: Decimal,
}


class Unlike(TypeError):
    """Values of a shape may differ."""


@attrs.frozen
class Wire:
    """A shape as msgspec is told it; what makes values of it of what was read, where that is not the same."""

    type: Any
    build: Build | None = None
    guard: Guard | None = None


def wire_of(shape: Shape) -> Wire:
    """How msgspec is told of an event's field; raises ``Unlike``."""
    inner = plain(shape)
    if _is_scalar(_optional(inner), datetime):
        return Wire(datetime if inner is _optional(inner) else datetime | None, guard=_is_in_utc)
    return _wire(inner, ())


def _wire(shape: Shape, records: tuple[Shape, ...]) -> Wire:
    """``records`` are those around it, the outermost first."""
    inner = plain(shape)
    if isinstance(inner, Scalar) and inner.cls in _SIMPLE:
        return Wire(_SIMPLE[inner.cls])
    if isinstance(inner, LiteralValue) and all(type(item) is str for item in inner.values):
        return Wire(_generic(Literal, *inner.values))
    if isinstance(inner, Collection) and inner.kind is tuple:
        item = _wire(inner.item, records)
        return Wire(_generic(tuple, item.type, ...), _of_each(item))
    if isinstance(inner, MappingOf) and _is_scalar(plain(inner.key), str):
        item = _wire(inner.item, records)
        return Wire(_generic(dict, str, item.type), _of_values(item))
    if (other := _optional(inner)) is not inner:
        wire = _wire(other, records)
        return Wire(Union[wire.type, None], _unless_none(wire))  # noqa: UP007
    if isinstance(inner, EnumMember) and all(type(member.value) is str for member in inner.cls):
        return Wire(inner.cls)
    if isinstance(inner, Record):
        return _record(inner, records)
    raise Unlike(type(inner).__name__)


def _generic(kind: Any, *arguments: Any) -> Any:
    return kind[arguments]


def _is_scalar(shape: Shape, cls: type[Any]) -> bool:
    return isinstance(shape, Scalar) and shape.cls is cls


def _optional(shape: Shape) -> Shape:
    """What ``T | None`` may be beside None; anything else as it is."""
    if isinstance(shape, OneOf) and len(shape.alternatives) == 2:
        others = [item for item in shape.alternatives if not _is_scalar(item, type(None))]
        if len(others) == 1:
            return plain(others[0])
    return shape


def _record(shape: Record, records: tuple[Shape, ...]) -> Wire:
    """An attrs class or a dataclass: msgspec fills something alike, and its constructor is called."""
    if shape in records:
        raise Unlike("a record inside of itself")
    if any(field.key != field.name for field in shape.fields):
        raise Unlike("a field whose argument has another name")
    names = [field.name for field in shape.fields]
    wires = [_wire(field.shape, (*records, shape)) for field in shape.fields]
    struct = msgspec.defstruct(
        shape.cls.__name__, [(name, wire.type) for name, wire in zip(names, wires, strict=True)], gc=False
    )
    return Wire(struct, _of_record(shape.cls, names, wires))


# --- making values ----------------------------------------------------------------------------------------


def _of_each(item: Wire) -> Build | None:
    build = item.build
    return None if build is None else lambda values: tuple([build(value) for value in values])


def _of_values(item: Wire) -> Build:
    build = item.build
    if build is None:
        return FrozenMapping
    return lambda values: FrozenMapping({key: build(value) for key, value in values.items()})


def _unless_none(wire: Wire) -> Build | None:
    build = wire.build
    return None if build is None else lambda value: None if value is None else build(value)


def _of_record(cls: Any, names: list[str], wires: list[Wire]) -> Build:
    values_of = msgspec.structs.astuple
    builds = [(place, wire.build) for place, wire in enumerate(wires) if wire.build is not None]
    positional = _takes_by_place(cls, names)

    def build(struct: Any) -> Any:
        values: Any = values_of(struct)
        if builds:
            values = [*values]
            for place, build_value in builds:
                values[place] = build_value(values[place])
        return cls(*values) if positional else cls(**dict(zip(names, values, strict=True)))

    return build


def _takes_by_place(cls: Any, names: list[str]) -> bool:
    parameters = inspect.signature(cls).parameters.values()
    by_place = [item.name for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD]
    return by_place[: len(names)] == names


# --- values that may differ -------------------------------------------------------------------------------


def _is_in_utc(value: datetime | None) -> bool:
    return value is None or value.tzinfo is UTC
