"""Reads annotations into shapes. No other code looks at annotations, or explains why one has no shape."""

from __future__ import annotations

import enum
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence, MutableSet
from collections.abc import Sequence as AbstractSequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Final,
    ForwardRef,
    Literal,
    LiteralString,
    NewType,
    TypeVar,
    Union,
    get_args,
    get_origin,
    is_typeddict,
)
from uuid import UUID

from bus_core.events import shapes
from bus_core.events.marks import PERSONAL, Constraint, JsonForm, Personal
from bus_core.events.primitives import FrozenMapping
from bus_core.events.shapes import Shape, UnsupportedType, json_kinds, parts_of, plain, plain_json

__all__ = ["ShapeBuilder", "name_of"]


_SCALARS: Final = (str, bool, int, float, UUID, datetime, date, time_of_day, timedelta, Decimal, bytes)
_MADE_OF_ONE_VALUE: Final = (str, int, float, Decimal, bytes)
"""Types whose subclasses are made by a call with such a value."""

_COLLECTIONS: Final[Mapping[Any, type[Any]]] = {
    AbstractSequence: tuple,
    frozenset: frozenset,
    AbstractSet: frozenset,
}
_MAPPINGS: Final = (Mapping, FrozenMapping)
_REMEDIES: Final[Mapping[Any, str]] = {
    list: "tuple[T, ...] or Sequence[T]; a list that is given becomes a tuple",
    MutableSequence: "tuple[T, ...] or Sequence[T]; a list that is given becomes a tuple",
    deque: "tuple[T, ...] or Sequence[T]",
    set: "frozenset[T]; a set that is given becomes one",
    MutableSet: "frozenset[T]; a set that is given becomes one",
    dict: "Mapping[K, V]; a dict that is given becomes a read-only one",
    MutableMapping: "Mapping[K, V]; a dict that is given becomes a read-only one",
    bytearray: "bytes",
}
"""Immutable replacements for types whose values can change."""

_FORM_REMEDY: Final = (
    "use a type that has one, or say how it travels: Annotated[{name}, JsonForm(str, write=..., read=...)]"
)


def name_of(hint: Any) -> str:
    """The name of a type in a sentence."""
    plain_class = isinstance(hint, type) and not get_args(hint)
    return hint.__name__ if plain_class else str(hint).replace("typing.", "")


class ShapeBuilder:
    """Reads annotations, and remembers classes and aliases.

    ``fields_of`` returns the fields of a nested class, and ``is_record`` decides which classes have some.
    """

    def __init__(
        self,
        is_record: Callable[[type[Any]], bool],
        fields_of: Callable[[type[Any], ShapeBuilder], tuple[shapes.Field, ...]],
    ) -> None:
        self._is_record = is_record
        self._fields_of = fields_of
        self._records: dict[type[Any], shapes.RecordShape] = {}
        self._open_aliases: dict[Any, shapes.Recursive] = {}

    def shape(self, hint: Any, bound: Mapping[Any, Any] | None = None) -> Shape:
        """The shape of an annotation; raises ``UnsupportedType``, and ``NameError`` of lazy aliases.

        ``bound`` maps type variables to types.
        """
        bound = bound or {}
        if hint is None or hint is type(None):
            return shapes.Scalar(type(None), type(None))
        if hint in (Any, object):
            return shapes.AnyJson()
        if hint is LiteralString:
            return shapes.Scalar(str, str)
        if isinstance(hint, TypeVar):
            return self._variable(hint, bound)
        if isinstance(hint, NewType):
            return self.shape(hint.__supertype__, bound)
        if isinstance(hint, str | ForwardRef):
            raise UnsupportedType(f"{name_of(hint)} names a type in quotes inside of another one")
        origin, arguments = get_origin(hint), get_args(hint)
        alias = hint if origin is None else origin
        if type(alias).__name__ == "TypeAliasType":
            return self._alias(alias, arguments, bound)
        if origin is Annotated:
            return self._annotated(hint, arguments[0], bound)
        if origin is Final:
            return self.shape(arguments[0], bound)
        if origin is Literal:
            return _literal(arguments)
        if origin is Union or isinstance(hint, types.UnionType):
            return self._union(hint, arguments, bound)
        if origin is not None:
            return self._generic(hint, origin, arguments, bound)
        if isinstance(hint, type):
            return self._class(hint)
        raise UnsupportedType(f"{name_of(hint)} is no type of values that have a form in JSON")

    def _variable(self, variable: TypeVar, bound: Mapping[Any, Any]) -> Shape:
        if variable not in bound:
            raise UnsupportedType(
                f"{variable.__name__} stands for any type, so that nobody could read a value of it back: "
                "name the type"
            )
        hint, around = bound[variable]
        return self.shape(hint, around)

    def _alias(self, alias: Any, arguments: tuple[Any, ...], bound: Mapping[Any, Any]) -> Shape:
        known = (alias, arguments)
        met = self._open_aliases.get(known)
        if met is not None:
            return met
        self._open_aliases[known] = recursive = shapes.Recursive(alias.__name__)
        try:
            parameters = zip(alias.__type_params__, arguments, strict=False)
            shape = self.shape(
                alias.__value__, {**bound, **{name: (hint, bound) for name, hint in parameters}}
            )
        finally:
            del self._open_aliases[known]
        recursive.shape = shape
        return shape

    def _annotated(self, hint: Any, inner: Any, bound: Mapping[Any, Any]) -> Shape:
        marks = hint.__metadata__
        forms = [mark for mark in marks if isinstance(mark, JsonForm)]
        if len(forms) > 1:
            raise UnsupportedType(f"{name_of(inner)} has {len(forms)} forms in JSON; one is enough")
        shape: Shape
        if forms:
            if not isinstance(inner, type):
                raise UnsupportedType(f"a JsonForm is for values of a class, and {name_of(inner)} is none")
            shape = shapes.WithJsonForm(inner, forms[0], self.shape(forms[0].type, bound))
        else:
            shape = self.shape(inner, bound)
        rules = tuple(mark for mark in marks if isinstance(mark, Constraint))
        if rules:
            shape = shapes.Constrained(shape, rules)
        # A mark by the name of its alias, Annotated[str, Personal], means the same.
        return shapes.Hidden(shape) if any(mark is PERSONAL or mark is Personal for mark in marks) else shape

    def _union(self, hint: Any, arguments: tuple[Any, ...], bound: Mapping[Any, Any]) -> Shape:
        named = [(self.shape(argument, bound), argument) for argument in arguments]
        named.sort(key=lambda alternative: _is_float(alternative[0]))  # 1 is an int first
        taken: dict[str, list[tuple[Shape, Any]]] = {}
        for shape, argument in named:
            for kind in json_kinds(shape):
                others = taken.setdefault(kind, [])
                if others and not (_is_kept(shape) and all(_is_kept(other) for other, _ in others)):
                    raise UnsupportedType(
                        f"{name_of(others[0][1])} and {name_of(argument)} cannot be told apart in JSON"
                    )
                others.append((shape, argument))
        return shapes.OneOf(tuple(shape for shape, _ in named))

    def _generic(self, hint: Any, origin: Any, arguments: tuple[Any, ...], bound: Mapping[Any, Any]) -> Shape:
        if origin in _REMEDIES:
            raise _mutable(hint, origin)
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return shapes.Collection(tuple, self.shape(arguments[0], bound), "tuple")
            return shapes.FixedTuple(tuple(self.shape(argument, bound) for argument in arguments))
        if origin in _COLLECTIONS:
            item = self.shape(arguments[0], bound)
            kind = _COLLECTIONS[origin]
            if kind is frozenset and not _is_hashable(item):
                raise UnsupportedType(f"the items of {name_of(hint)} have no hash, which those of a set need")
            return shapes.Collection(kind, item, origin.__name__)
        if origin in _MAPPINGS:
            key = self.shape(arguments[0], bound)
            if not _is_key(key):
                raise UnsupportedType("the keys of a mapping must be int, or a type that is text in JSON")
            return shapes.MappingOf(key, self.shape(arguments[1], bound), origin.__name__)
        raise UnsupportedType(f"{name_of(hint)} has no form in JSON that could be read back")

    def _class(self, cls: type[Any]) -> Shape:
        if cls in _REMEDIES:
            raise _mutable(cls, cls)
        if cls is tuple or cls in _COLLECTIONS or cls in _MAPPINGS:
            raise UnsupportedType(f"{cls.__name__} does not say of what, as in {_OF_WHAT[cls]}")
        if issubclass(cls, enum.Enum):
            return _enum(cls)
        if cls in _SCALARS:
            return shapes.Scalar(cls, cls)
        if self._is_record(cls):
            return self._record(cls)
        for base in _SCALARS:
            if issubclass(cls, base) and base in _MADE_OF_ONE_VALUE:
                return shapes.Scalar(base, cls)
        raise UnsupportedType(_why_not(cls))

    def _record(self, cls: type[Any]) -> shapes.RecordShape:
        known = self._records.get(cls)
        if known is None:
            self._records[cls] = known = shapes.RecordShape(cls)  # known before it is filled
            try:
                known.fields = self._fields_of(cls, self)
            except BaseException:
                del self._records[cls]
                raise
        return known


_OF_WHAT: Final[Mapping[Any, str]] = {
    tuple: "tuple[str, ...]",
    AbstractSequence: "Sequence[str]",
    frozenset: "frozenset[str]",
    AbstractSet: "Set[str]",
    Mapping: "Mapping[str, int]",
    FrozenMapping: "FrozenMapping[str, int]",
}


def _mutable(hint: Any, origin: Any) -> UnsupportedType:
    return UnsupportedType(
        f"{name_of(hint)} can be changed, also by one handler while others use it; "
        f"annotate the field with {_REMEDIES[origin]}"
    )


def _why_not(cls: type[Any]) -> str:
    name = cls.__name__
    if is_typeddict(cls):
        return f"{name} is a TypedDict, whose values can be changed; make it a class with @attrs.frozen"
    if getattr(cls, "_is_protocol", False):
        return f"{name} is a Protocol: nobody could tell which class to make when a value is read"
    if issubclass(cls, tuple):
        return f"{name} is a named tuple, which has no form in JSON; make it a class with @attrs.frozen"
    return f"{name} has no form in JSON; {_FORM_REMEDY.format(name=name)}"


def _enum(cls: type[enum.Enum]) -> shapes.EnumMember:
    if not cls.__members__:
        raise UnsupportedType(f"{cls.__name__} has no members")
    for member in cls:
        plain_json(member.value)
    return shapes.EnumMember(cls)


def _literal(values: tuple[Any, ...]) -> shapes.LiteralValue:
    seen: set[tuple[type, Any]] = set()
    for value in values:
        written = plain_json(value)
        if (type(written), written) in seen:
            raise UnsupportedType(f"two values of the literal are {written!r} in JSON")
        seen.add((type(written), written))
    return shapes.LiteralValue(values)


# --- what unions, keys and sets ask -----------------------------------------------------------------------


def _is_float(shape: Shape) -> bool:
    inner = plain(shape)
    return isinstance(inner, shapes.Scalar) and inner.base is float


def _is_kept(shape: Shape) -> bool:
    """True when the alternatives have the same value in JSON, so that either may read it."""
    if isinstance(shape, shapes.Constrained | shapes.Hidden):
        return _is_kept(shape.inner)
    if isinstance(shape, shapes.LiteralValue):
        return not any(isinstance(value, enum.Enum) for value in shape.values)
    if isinstance(shape, shapes.AnyJson):
        return True
    if isinstance(shape, shapes.OneOf):
        return all(map(_is_kept, shape.alternatives))
    return isinstance(shape, shapes.Scalar) and shape.cls in (str, int, float, bool, type(None))


def _is_key(shape: Shape) -> bool:
    inner = plain(shape)
    return json_kinds(shape) == frozenset({"text"}) or (isinstance(inner, shapes.Scalar) and inner.cls is int)


def _is_hashable(shape: Shape, inside: tuple[Shape, ...] = ()) -> bool:
    if isinstance(shape, shapes.AnyJson | shapes.MappingOf | shapes.Recursive):
        return False
    if isinstance(shape, shapes.WithJsonForm):
        return shape.cls.__hash__ is not None
    if isinstance(shape, shapes.RecordShape):
        if shape in inside:
            return True
        parts: Iterable[Shape] = [field.shape for field in shape.fields]
        return shape.cls.__hash__ is not None and all(_is_hashable(part, (*inside, shape)) for part in parts)
    return all(_is_hashable(part, inside) for part in parts_of(shape))
