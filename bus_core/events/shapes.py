"""The types of fields as a tree of shapes: ``ShapeBuilder`` reads it from annotations, once per class.

A shape defines the valid values of a field, and their form in JSON. Functions over shapes check, freeze,
hide, write, read and describe values. No other code reads annotations.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import attrs

from bus_core.events.marks import Constraint, JsonForm

__all__ = [
    "AnyJson",
    "Collection",
    "Constrained",
    "EnumMember",
    "Field",
    "FixedTuple",
    "Hidden",
    "LiteralValue",
    "MappingOf",
    "OneOf",
    "RecordShape",
    "Recursive",
    "Scalar",
    "Shape",
    "UnsupportedType",
    "WithJsonForm",
    "has_personal_part",
    "is_none",
    "is_personal",
    "is_tolerant",
    "json_kinds",
    "made_once",
    "parts_of",
    "plain",
    "plain_json",
]


T = TypeVar("T")


class UnsupportedType(TypeError):
    """A type whose values could not travel. The text is the reason."""


# --- the shapes -------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Scalar:
    """A single value. ``cls`` is ``base``, or a class derived from it, such as ``class Email(str)``."""

    base: type[Any]
    cls: type[Any]


@attrs.frozen(eq=False)
class AnyJson:
    """Any JSON value."""


@attrs.frozen(eq=False)
class EnumMember:
    """A member of an enum, which travels as its value."""

    cls: type[enum.Enum]


@attrs.frozen(eq=False)
class LiteralValue:
    """One of a few values."""

    values: tuple[Any, ...]


@attrs.frozen(eq=False)
class Collection:
    """Items of one shape, kept in a ``tuple`` or ``frozenset``; ``noun`` is the word of the annotation."""

    kind: type[tuple[Any, ...]] | type[frozenset[Any]]
    item: Shape
    noun: str


@attrs.frozen(eq=False)
class FixedTuple:
    """A tuple of fixed length, with a shape for each item."""

    items: tuple[Shape, ...]


@attrs.frozen(eq=False)
class MappingOf:
    """A mapping with keys that are text in JSON, or ints."""

    key: Shape
    item: Shape
    noun: str

    @property
    def is_json_object(self) -> bool:
        """True for a mapping from texts to any JSON values."""
        return isinstance(self.item, AnyJson) and isinstance(self.key, Scalar) and self.key.cls is str


@attrs.frozen(eq=False)
class Field:
    """A field of a class: its attribute, its key in JSON and in the constructor, its shape and its default.

    The default is one of attrs: a value, a ``Factory``, or ``NOTHING`` for a required field.
    ``deprecated`` is the advice of the mark ``Deprecated``, or None.
    """

    name: str
    key: str
    shape: Shape
    default: Any
    deprecated: str | None = None


@attrs.define(eq=False)
class RecordShape:
    """A frozen class with named fields. ``fields`` are set late, for classes that contain themselves."""

    cls: type[Any]
    fields: tuple[Field, ...] = ()


@attrs.define(eq=False)
class Recursive:
    """A type alias that names itself. ``shape`` is set late."""

    name: str
    shape: Shape | None = None


@attrs.frozen(eq=False)
class OneOf:
    """A union whose alternatives the JSON value alone can tell apart; ints come before floats."""

    alternatives: tuple[Shape, ...]


@attrs.frozen(eq=False)
class Constrained:
    """Values with rules beyond their type."""

    inner: Shape
    rules: tuple[Constraint, ...]


@attrs.frozen(eq=False)
class Hidden:
    """Personal data."""

    inner: Shape


@attrs.frozen(eq=False)
class WithJsonForm:
    """Values of a class that travel in a user-defined form."""

    cls: type[Any]
    form: JsonForm
    inner: Shape


Shape = (
    Scalar
    | AnyJson
    | EnumMember
    | LiteralValue
    | Collection
    | FixedTuple
    | MappingOf
    | RecordShape
    | Recursive
    | OneOf
    | Constrained
    | Hidden
    | WithJsonForm
)


# --- what there is to say about shapes --------------------------------------------------------------------

_KINDS: Final[Mapping[Any, frozenset[str]]] = {
    bool: frozenset({"bool"}),
    int: frozenset({"int"}),
    float: frozenset({"int", "float"}),
    type(None): frozenset({"null"}),
}
_TEXT: Final = frozenset({"text"})
_KIND_OF: Final = {str: "text", bool: "bool", int: "int", float: "float", type(None): "null"}


def plain(shape: Shape) -> Shape:
    """The shape inside marks and rules."""
    while isinstance(shape, Constrained | Hidden):
        shape = shape.inner
    return shape


def is_tolerant(cls: type[enum.Enum]) -> bool:
    """True when an enum reads an unknown value as one of its members, by a ``_missing_`` of its own."""
    return not issubclass(cls, enum.Flag) and any("_missing_" in vars(base) for base in _own_bases(cls))


def _own_bases(cls: type[Any]) -> Iterator[type[Any]]:
    return (base for base in cls.__mro__ if base.__module__ != enum.__name__)


def is_none(shape: Shape) -> bool:
    """True when the only value is None."""
    return isinstance(shape, Scalar) and shape.cls is type(None)


def parts_of(shape: Shape) -> Iterator[Shape]:
    """The shapes directly inside one, without those of a record's fields."""
    if isinstance(shape, Constrained | Hidden | WithJsonForm):
        yield shape.inner
    elif isinstance(shape, Collection):
        yield shape.item
    elif isinstance(shape, FixedTuple):
        yield from shape.items
    elif isinstance(shape, MappingOf):
        yield shape.key
        yield shape.item
    elif isinstance(shape, OneOf):
        yield from shape.alternatives


def json_kinds(shape: Shape) -> frozenset[str]:
    """The kinds of JSON values that represent the values of a shape."""
    shape = plain(shape)
    if isinstance(shape, Scalar):
        return _KINDS.get(shape.base, _TEXT)
    if isinstance(shape, EnumMember | LiteralValue):
        values: Iterable[Any] = shape.cls if isinstance(shape, EnumMember) else shape.values
        kinds = frozenset(_KIND_OF[type(plain_json(value))] for value in values)
        flags = isinstance(shape, EnumMember) and issubclass(shape.cls, enum.Flag)
        return kinds | {"int"} if flags else kinds
    if isinstance(shape, Collection | FixedTuple):
        return frozenset({"array"})
    if isinstance(shape, MappingOf | RecordShape):
        return frozenset({"object"})
    if isinstance(shape, OneOf):
        return frozenset().union(*map(json_kinds, shape.alternatives))
    if isinstance(shape, WithJsonForm):
        return json_kinds(shape.inner)
    if isinstance(shape, Recursive):
        if shape.shape is None:
            raise UnsupportedType(f"{shape.name} is an alternative of itself")
        return json_kinds(shape.shape)
    return frozenset({"text", "bool", "int", "float", "array", "object", "null"})


def is_personal(shape: Shape) -> bool:
    """True when a value is marked as personal data, also inside an optional or a container."""
    return isinstance(shape, Hidden) or any(map(is_personal, parts_of(shape)))


def has_personal_part(shape: Shape) -> bool:
    """True when a value is personal, or has a personal part at any depth."""
    met: set[int] = set()

    def search(shape: Shape) -> bool:
        if id(shape) in met:
            return False
        if isinstance(shape, Hidden):
            return True
        if isinstance(shape, RecordShape):
            met.add(id(shape))
            return any(search(field.shape) for field in shape.fields)
        if isinstance(shape, Recursive):
            met.add(id(shape))
            return shape.shape is not None and search(shape.shape)
        return any(map(search, parts_of(shape)))

    return search(shape)


def made_once(
    shape: RecordShape | Recursive,
    known: dict[int, Callable[[Any], T]],
    of_record: Callable[[RecordShape], Callable[[Any], T]],
    of_inner: Callable[[Shape], Callable[[Any], T]],
) -> Callable[[Any], T]:
    """The function for a shape that may contain itself: it is ``known`` before it is complete."""
    if id(shape) not in known:
        made: list[Callable[[Any], T]] = []
        known[id(shape)] = lambda value: made[0](value)
        if isinstance(shape, RecordShape):
            made.append(of_record(shape))
        else:
            assert shape.shape is not None, "an alias is complete when its values are handled"
            made.append(of_inner(shape.shape))
        known[id(shape)] = made[0]
    return known[id(shape)]


def plain_json(value: Any) -> Any:
    """The JSON value of an enum member's or a literal's value; raises ``UnsupportedType``."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UnsupportedType("a text with a lone surrogate has no form in JSON") from None
        return text
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float) and math.isfinite(value):
        return float.__float__(value)
    raise UnsupportedType("only values that are str, int, finite float, bool or None have a JSON form")
