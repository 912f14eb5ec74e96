"""The shapes that msgspec encodes and decodes exactly like the built-in serializer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from keyword import iskeyword
from typing import Annotated, Any, Final, Literal, Union
from uuid import UUID

import attrs
import msgspec

from bus_core import Constraint, FrozenMapping
from bus_core.events import (
    Collection,
    Constrained,
    EnumMember,
    Hidden,
    LiteralValue,
    MappingOf,
    OneOf,
    RecordShape,
    Scalar,
    Shape,
    is_none,
    plain,
    takes_by_place,
)
from promenade_bus_msgspec.documents import LARGEST_INT, Unlike, bounded_int, generic, in_utc

__all__ = ["Expression", "Wire", "Wires", "attribute_of"]

Expression = Callable[[str], str]
"""Takes the source of an expression for a value, and returns that of the converted value."""

_SIMPLE: Final[Mapping[Any, Any]] = {
    str: str,
    bool: bool,
    int: Annotated[int, msgspec.Meta(ge=-LARGEST_INT - 1, le=LARGEST_INT)],
    # msgspec would write null for NaN and infinity.
    float: Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)],
    type(None): None,
    UUID: UUID,
    Decimal: Decimal,
}


@attrs.frozen
class Wire:
    """A shape in terms of msgspec.

    ``give`` converts a value for msgspec to encode, and ``take`` converts a decoded value back; None means no
    conversion. Both raise ``Unlike`` for a value that the built-in serializer has to handle. ``same`` is true
    for values that msgspec encodes unchanged. ``depth`` is their maximum nesting of arrays and objects.
    """

    type: Any
    give: Expression | None = None
    take: Expression | None = None
    same: bool = True
    depth: int = 0


class Wires:
    """Makes wires from shapes. All their expressions share ``names``."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}

    def name(self, value: Any) -> str:
        """Returns a name for a value in the expressions."""
        name = f"given{len(self.names)}"
        self.names[name] = value
        return name

    def wire_of(self, shape: Shape, around: tuple[Shape, ...] = ()) -> Wire:
        """Returns the wire of a shape; raises ``Unlike``. ``around`` has the enclosing classes in order."""
        if isinstance(shape, Hidden):
            return self.wire_of(shape.inner, around)
        if isinstance(shape, Constrained):
            return self._ruled(self.wire_of(shape.inner, around), shape.rules)
        if isinstance(shape, OneOf):
            return _optional(self.wire_of(_other_than_none(shape), around))
        if isinstance(shape, LiteralValue) and all(type(item) is str for item in shape.values):
            return Wire(generic(Literal, *shape.values))
        if isinstance(shape, EnumMember) and all(type(member.value) is str for member in shape.cls):
            return Wire(shape.cls)
        if isinstance(shape, Scalar):
            return self._scalar(shape, around)
        if shape in around:
            raise Unlike("a class inside itself")
        if isinstance(shape, Collection) and shape.kind is tuple:
            return self._tuple(self.wire_of(shape.item, (*around, shape)), len(around))
        if isinstance(shape, MappingOf) and _is_text(plain(shape.key)):
            key, item = self.wire_of(shape.key), self.wire_of(shape.item, (*around, shape))
            return self._mapping(key, item, len(around))
        if isinstance(shape, RecordShape):
            return self._record(shape, around)
        raise Unlike(type(shape).__name__)

    def _ruled(self, inner: Wire, rules: tuple[Constraint, ...]) -> Wire:
        keep, take = self.name(partial(_keeping, rules)), inner.take or _as_it_is
        return attrs.evolve(inner, take=lambda value: f"{keep}({take(value)})")

    def _scalar(self, shape: Scalar, around: tuple[Shape, ...]) -> Wire:
        if shape.cls is datetime and not (around and isinstance(around[-1], Collection | MappingOf)):
            check = self.name(in_utc)
            return Wire(datetime, lambda value: f"{check}({value})", lambda value: f"{check}({value})")
        if shape.cls is int:
            check_int = self.name(bounded_int)
            return Wire(_SIMPLE[int], lambda value: f"{check_int}({value})")
        if shape.cls in _SIMPLE:
            return Wire(_SIMPLE[shape.cls])
        raise Unlike(shape.cls.__name__)

    def _tuple(self, item: Wire, level: int) -> Wire:
        kind = generic(tuple, item.type, ...)
        name = f"item{level}"

        def each(expression: Expression) -> Expression:
            return lambda value: f"tuple([{expression(name)} for {name} in {value}])"

        take = None if item.take is None else each(item.take)
        return Wire(kind, self._giver(item, kind, each), take, item.same, 1 + item.depth)

    def _mapping(self, key: Wire, item: Wire, level: int) -> Wire:
        kind = generic(dict, str, item.type)
        name, part, frozen = f"key{level}", f"item{level}", self.name(FrozenMapping)
        take_key, take_item = key.take or _as_it_is, item.take or _as_it_is

        def each(expression: Expression) -> Expression:
            return lambda value: f"{{{name}: {expression(part)} for {name}, {part} in {value}.items()}}"

        def take(value: str) -> str:
            if key.take is item.take is None:
                return f"{frozen}({value})"
            items = f"{take_key(name)}: {take_item(part)} for {name}, {part} in {value}.items()"
            return f"{frozen}({{{items}}})"

        return Wire(kind, self._giver(item, kind, each), take, item.same, 1 + item.depth)

    def _giver(self, item: Wire, kind: Any, each: Callable[[Expression], Expression]) -> Expression | None:
        """Returns the conversion of a collection; msgspec checks unchanged items faster than a loop."""
        if item.give is None:
            return None
        if not item.same:
            return each(item.give)
        check = self.name(partial(msgspec.convert, type=kind))
        return lambda value: f"{check}({value})"

    def _record(self, shape: RecordShape, around: tuple[Shape, ...]) -> Wire:
        """Returns the wire of an attrs class or a dataclass, which msgspec supports."""
        if any(field.key != field.name for field in shape.fields):
            raise Unlike("a field whose argument has another name")
        names = [field.name for field in shape.fields]
        wires = [self.wire_of(field.shape, (*around, shape)) for field in shape.fields]
        parts = [*zip(names, wires, strict=True)]
        struct = msgspec.defstruct(shape.cls.__name__, [(name, wire.type) for name, wire in parts], gc=False)
        give, take = self.name(struct), self.name(shape.cls)
        by_place = takes_by_place(shape.cls, names)

        def given(value: str) -> str:
            arguments = [(wire.give or _as_it_is)(attribute_of(value, name)) for name, wire in parts]
            return f"{give}({', '.join(arguments)})"

        def taken(value: str) -> str:
            arguments = [(wire.take or _as_it_is)(attribute_of(value, name)) for name, wire in parts]
            if not by_place:
                arguments = [f"{name}={argument}" for name, argument in zip(names, arguments, strict=True)]
            return f"{take}({', '.join(arguments)})"

        depth = max((wire.depth for wire in wires), default=0)
        return Wire(struct, given, taken, same=False, depth=1 + depth)


def attribute_of(value: str, name: str) -> str:
    """Returns the expression for an attribute; raises ``Unlike`` for an invalid identifier."""
    if not name.isidentifier() or iskeyword(name):
        raise Unlike("a field name that is not an identifier")
    return f"{value}.{name}"


def _as_it_is(value: str) -> str:
    return value


def _optional(wire: Wire) -> Wire:
    def unless_none(expression: Expression | None) -> Expression | None:
        if expression is None:
            return None
        return lambda value: f"(None if {value} is None else {expression(value)})"

    kind: Any = Union[wire.type, None]  # noqa: UP007
    return attrs.evolve(wire, type=kind, give=unless_none(wire.give), take=unless_none(wire.take))


def _other_than_none(shape: OneOf) -> Shape:
    others = [item for item in shape.alternatives if not is_none(item)]
    if len(others) != 1:
        raise Unlike("a union")
    return others[0]


def _is_text(shape: Shape) -> bool:
    return isinstance(shape, Scalar) and shape.cls is str


def _keeping(rules: tuple[Constraint, ...], value: Any) -> Any:
    for rule in rules:
        if not rule.check(value):
            raise Unlike("a value that a constraint refuses")
    return value
