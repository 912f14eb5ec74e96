"""Values made of other values in JSON: collections, mappings, enums, literals and unions.

Each shape is a predicate over types and two hook factories for a cattrs converter, listed in ``SHAPES``.
What reads raises ``Unfit``; a type that could not be read back raises ``UnsupportedType`` when compiled.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

import attrs
import cattrs

from bus_core.events.base import Event
from bus_core.events.field_checks import check_for
from bus_core.events.primitives import FrozenMapping
from bus_core.serialization.json_quick import Around, Load, Odd, Quick, offer_quick, quick_of
from bus_core.serialization.json_values import READERS, Unfit, unfit

__all__ = ["SHAPES", "Dump", "UnsupportedType", "bare", "is_record", "member_of", "name_of"]

Dump = Callable[[Any], Any]


class UnsupportedType(TypeError):
    """A type has no form in JSON that could be read back."""


def name_of(hint: Any) -> str:
    """How a type is called in a sentence."""
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )


def bare(hint: Any) -> Any:
    """The type inside ``Annotated`` and ``NewType``."""
    while _is_named(hint):
        hint = _named(hint)
    return hint


_COLLECTIONS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    MutableSequence: list,
    Sequence: tuple,
    set: set,
    MutableSet: set,
    frozenset: frozenset,
    AbstractSet: frozenset,
    deque: deque,
}
_MAPPINGS: dict[Any, Callable[[dict[Any, Any]], Any]] = {
    dict: dict,
    MutableMapping: dict,
    Mapping: FrozenMapping,
    FrozenMapping: FrozenMapping,
}
_SETS = (set, frozenset, MutableSet, AbstractSet)


def is_record(hint: Any) -> bool:
    """Whether values of the type are objects with named fields: an attrs class or a dataclass."""
    known = isinstance(hint, type) and (attrs.has(hint) or dataclasses.is_dataclass(hint))
    return known and not issubclass(hint, Event)


# A type by another name, and with more to it.


def _is_named(hint: Any) -> bool:
    return get_origin(hint) is Annotated or isinstance(hint, NewType)


def _named(hint: Any) -> Any:
    return hint.__supertype__ if isinstance(hint, NewType) else get_args(hint)[0]


def _load_named(hint: Any, converter: cattrs.Converter) -> Load:
    inner = _named(hint)
    hook: Load = converter.get_structure_hook(inner)

    def load(value: Any, _hint: Any) -> Any:
        return hook(value, inner)

    return offer_quick(load, lambda _hint, around: quick_of(hook, inner, around))


def _dump_named(hint: Any, converter: cattrs.Converter) -> Dump:
    hook: Dump = converter.get_unstructure_hook(_named(hint))
    return hook


# Collections.


def _is_collection(hint: Any) -> bool:
    arguments = get_args(hint)
    return get_origin(hint) in _COLLECTIONS or (
        get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis
    )


def _load_collection(hint: Any, converter: cattrs.Converter) -> Load:
    build = _COLLECTIONS.get(get_origin(hint), tuple)
    item_hint = get_args(hint)[0]
    hook = converter.get_structure_hook(item_hint)

    def load(value: Any, _hint: Any) -> Any:
        if type(value) is not list:
            raise unfit("an array")
        items: list[Any] = []
        try:
            for item in value:
                items.append(hook(item, item_hint))
        except Unfit as error:
            raise Unfit([(f"[{len(items)}]{path}", words) for path, words in error.faults]) from None
        return build(items)

    def quick(_hint: Any, around: Around) -> Quick:
        read_item = quick_of(hook, item_hint, around)

        def read(value: Any) -> Any:
            if value.__class__ is not list:
                raise Odd
            return build([read_item(item) for item in value])

        return read

    return offer_quick(load, quick)


def _dump_collection(hint: Any, converter: cattrs.Converter) -> Dump:
    item_hint = get_args(hint)[0]
    hook = converter.get_unstructure_hook(item_hint)
    unordered = get_origin(hint) in _SETS

    def dump(value: Any) -> list[Any]:
        items = [hook(item) for item in value]
        if unordered:
            try:
                items.sort()
            except TypeError:  # values of several types have no order
                pass
        return items

    return dump


def _is_fixed_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple and Ellipsis not in get_args(hint)


def _load_fixed_tuple(hint: Any, converter: cattrs.Converter) -> Load:
    hooks = [(converter.get_structure_hook(item), item) for item in get_args(hint)]

    def load(value: Any, _hint: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(hooks):
            raise unfit(f"an array of {len(hooks)}")
        items: list[Any] = []
        try:
            for (hook, item_hint), item in zip(hooks, value, strict=True):
                items.append(hook(item, item_hint))
        except Unfit as error:
            raise Unfit([(f"[{len(items)}]{path}", words) for path, words in error.faults]) from None
        return tuple(items)

    return load


def _dump_fixed_tuple(hint: Any, converter: cattrs.Converter) -> Dump:
    hooks = [converter.get_unstructure_hook(item) for item in get_args(hint)]
    return lambda value: [hook(item) for hook, item in zip(hooks, value, strict=True)]


# Mappings. A key may be personal: no fault quotes one.


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) in _MAPPINGS


def _key_kind(hint: Any) -> str:
    kinds = json_kinds(get_args(hint)[0])
    if kinds == frozenset({"text"}):
        return "text"
    if bare(get_args(hint)[0]) is int:
        return "int"
    raise UnsupportedType("the keys of a mapping must be int, or a type that is text in JSON")


def _load_mapping(hint: Any, converter: cattrs.Converter) -> Load:
    build = _MAPPINGS[get_origin(hint)]
    key_hint, item_hint = get_args(hint)
    int_keys = _key_kind(hint) == "int"
    key_hook, item_hook = converter.get_structure_hook(key_hint), converter.get_structure_hook(item_hint)

    def load(value: Any, _hint: Any) -> Any:
        if type(value) is not dict:
            raise unfit("an object")
        made: dict[Any, Any] = {}
        for key, item in value.items():
            try:
                loaded = _int_of(key) if int_keys else key_hook(key, key_hint)
            except Unfit as error:
                raise Unfit([(f" (a key of it){path}", words) for path, words in error.faults]) from None
            if loaded in made:
                raise unfit("an object whose keys differ")
            try:
                made[loaded] = item_hook(item, item_hint)
            except Unfit as error:
                raise Unfit([(f"[...]{path}", words) for path, words in error.faults]) from None
        return build(made)

    return load


def _int_of(key: str) -> int:
    try:
        number = int(key)
    except ValueError:
        raise unfit("an int as text") from None
    if str(number) != key:
        raise unfit("an int as text")
    return number


def _dump_mapping(hint: Any, converter: cattrs.Converter) -> Dump:
    key_hint, item_hint = get_args(hint)
    key_hook: Dump = converter.get_unstructure_hook(key_hint)
    item_hook = converter.get_unstructure_hook(item_hint)
    if _key_kind(hint) == "int":
        number_hook = key_hook
        key_hook = lambda key: str(number_hook(key))  # noqa: E731
    return lambda value: {key_hook(key): item_hook(item) for key, item in value.items()}


# Enums and literals, by value and by the value's type: True is not 1.


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def member_of(hint: type[enum.Enum], value: Any) -> enum.Enum:
    """The member with that value of that very type; raises ``Unfit``."""
    for member in hint:
        if member.value == value and type(_plain(member.value)) is type(value):
            return member
    if issubclass(hint, enum.Flag) and type(value) is int:
        try:
            combined = hint(value)
        except ValueError:
            combined = None
        # Flags read a negative number as its complement, and CPython 3.11.2 drops bits that it does not know.
        if combined is not None and combined.value == value:
            return combined
    raise unfit(f"one of the values of {hint.__name__}")


def _plain(value: Any) -> Any:
    """The JSON value of an enum member's or literal's value, which may be of a subclass."""
    if isinstance(value, enum.Enum):
        value = value.value
    for simple in (bool, int, float, str):
        if isinstance(value, simple):
            return simple(value)
    if value is None:
        return None
    raise UnsupportedType("only values that are str, int, float, bool or None have a JSON form")


def _load_enum(hint: Any, _converter: cattrs.Converter) -> Load:
    _dump_enum(hint, _converter)
    return lambda value, _hint: member_of(hint, value)


def _dump_enum(hint: Any, _converter: cattrs.Converter) -> Dump:
    for member in hint:
        _plain(member.value)
    return lambda value: _plain(value.value)


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _load_literal(hint: Any, _converter: cattrs.Converter) -> Load:
    by_value = {(type(_plain(item)), _plain(item)): item for item in get_args(hint)}
    words = "one of " + ", ".join(repr(_plain(item)) for item in get_args(hint))

    def load(value: Any, _hint: Any) -> Any:
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):
            raise unfit(words) from None

    return load


def _dump_literal(_hint: Any, _converter: cattrs.Converter) -> Dump:
    return _plain


# Unions: the JSON value alone has to tell which alternative it is.

_EVERY_KIND = frozenset({"text", "bool", "int", "float", "array", "object"})
_KIND_OF = {str: "text", bool: "bool", int: "int", float: "float", list: "array", dict: "object"}


def _is_union(hint: Any) -> bool:
    return get_origin(hint) is Union or isinstance(hint, types.UnionType)


def json_kinds(hint: Any) -> frozenset[str]:
    """Which kinds of JSON values the values of a type become."""
    plain = bare(hint)
    if plain is float:
        return frozenset({"int", "float"})
    if plain in READERS:
        return frozenset({READERS[plain][0]})
    if _is_enum(plain):
        return frozenset(_KIND_OF.get(type(_plain(member)), "null") for member in plain)
    if _is_literal(plain):
        return frozenset(_KIND_OF.get(type(_plain(item)), "null") for item in get_args(plain))
    if _is_union(plain):
        return frozenset().union(*map(json_kinds, get_args(plain)))
    if _is_collection(plain) or _is_fixed_tuple(plain):
        return frozenset({"array"})
    if _is_mapping(plain) or is_record(plain):
        return frozenset({"object"})
    if isinstance(plain, type):
        for simple, (kind, _) in READERS.items():
            if issubclass(plain, simple):
                return frozenset({kind})
    return _EVERY_KIND


def _is_kept(hint: Any) -> bool:
    """Whether values of the type are the same in JSON, so that it does not matter which alternative reads."""
    return bare(hint) in (str, int, float, bool) or _is_literal(bare(hint))


def _load_union(hint: Any, converter: cattrs.Converter) -> Load:
    arguments = sorted(get_args(hint), key=lambda argument: bare(argument) is float)  # 1 is an int first
    hooks: dict[str, list[tuple[Any, Load]]] = {}
    for argument in arguments:
        load = converter.get_structure_hook(argument)
        for kind in json_kinds(argument):
            others = hooks.setdefault(kind, [])
            if others and not (_is_kept(argument) and all(_is_kept(other) for other, _ in others)):
                raise UnsupportedType(
                    f"{name_of(others[0][0])} and {name_of(argument)} cannot be told apart in JSON"
                )
            others.append((argument, load))
    words = "null or " if "null" in hooks else ""
    words += " or ".join(name_of(argument) for argument in arguments if argument is not type(None))

    def load_alternative(value: Any, _hint: Any) -> Any:
        candidates = hooks.get("null" if value is None else _KIND_OF[type(value)], ())
        if len(candidates) == 1:
            argument, load = candidates[0]
            return load(value, argument)
        for argument, load in candidates:
            try:
                return load(value, argument)
            except Unfit:
                continue
        raise unfit(words)

    if len(arguments) != 2 or type(None) not in arguments:
        return load_alternative
    (other,) = (argument for argument in arguments if argument is not type(None))
    load_other = converter.get_structure_hook(other)
    classes = {cls for cls, kind in _KIND_OF.items() if kind in json_kinds(other)}

    def quick(_hint: Any, around: Around) -> Quick:
        read_other = quick_of(load_other, other, around)

        def read(value: Any) -> Any:
            if value is None:
                return None
            if value.__class__ not in classes:
                raise Odd
            return read_other(value)

        return read

    return offer_quick(load_alternative, quick)


def _dump_union(hint: Any, converter: cattrs.Converter) -> Dump:
    alternatives = [
        (check_for(argument), converter.get_unstructure_hook(argument))
        for argument in get_args(hint)
        if argument is not type(None)
    ]

    def dump(value: Any) -> Any:
        if value is None:
            return None
        for check, hook in alternatives:
            if check is None or check(value) is None:
                return hook(value)
        raise unfit(name_of(hint))

    return dump


SHAPES: tuple[tuple[Callable[[Any], bool], Callable[..., Load], Callable[..., Dump]], ...] = (
    (_is_named, _load_named, _dump_named),
    (_is_mapping, _load_mapping, _dump_mapping),
    (_is_collection, _load_collection, _dump_collection),
    (_is_fixed_tuple, _load_fixed_tuple, _dump_fixed_tuple),
    (_is_literal, _load_literal, _dump_literal),
    (_is_enum, _load_enum, _dump_enum),
    (_is_union, _load_union, _dump_union),
)
"""For each shape: whether a type has it, what makes its reader, and what makes its writer."""
