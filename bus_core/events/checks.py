"""Checking and freezing values by their shapes: made once per class, not per event.

``settle`` functions bring a value into its one form and raise ``Unfit`` for what is no value of the shape:
lists become tuples, dicts read-only mappings, an int in a field of floats a float.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import time as time_of_day
from typing import Any, Final

from bus_core.events.faults import Unfit, unfit, within
from bus_core.events.marks import Constraint
from bus_core.events.primitives import FrozenMapping
from bus_core.events.records import with_values
from bus_core.events.shapes import (
    AnyJson,
    Collection,
    EnumMember,
    FixedTuple,
    Formed,
    Hidden,
    LiteralValue,
    MappingOf,
    OneOf,
    RecordShape,
    Recursive,
    Ruled,
    Scalar,
    Shape,
    is_none,
)
from bus_core.events.values import (
    SETTLERS,
    Settle,
    frozen_json,
)

__all__ = ["Settle", "settler_of", "words_of"]

_USUAL_MAPPINGS: Final = (dict, FrozenMapping)
"""Asking an abstract class is dear."""


# --- what values must be ----------------------------------------------------------------------------------

_WORDS: Final[Mapping[Any, str]] = {
    int: "an int",
    float: "a number",
    bytes: "bytes",
    time_of_day: "a time",
    type(None): "None",
}


def words_of(shape: Shape) -> str:
    """The sentence "must be ..." for a shape, as far as it goes without looking inside."""
    if isinstance(shape, Scalar):
        known = _WORDS.get(shape.cls)
        return known or f"{_article(shape.cls.__name__)} {shape.cls.__name__}"
    if isinstance(shape, EnumMember):
        return "one of " + ", ".join(f"{shape.cls.__name__}.{name}" for name in shape.cls.__members__)
    if isinstance(shape, LiteralValue):
        return "one of " + ", ".join(map(repr, shape.values))
    if isinstance(shape, Collection | MappingOf):
        return f"a {shape.noun}"
    if isinstance(shape, FixedTuple):
        return f"a tuple of {len(shape.items)}"
    if isinstance(shape, RecordShape | Formed):
        return f"{_article(shape.cls.__name__)} {shape.cls.__name__}"
    if isinstance(shape, OneOf):
        return " or ".join(map(words_of, sorted(shape.alternatives, key=is_none)))
    if isinstance(shape, Ruled):
        return shape.rules[0].description
    if isinstance(shape, Hidden):
        return words_of(shape.inner)
    if isinstance(shape, Recursive):
        return f"a {shape.name}"
    return "a JSON value"


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOaeio" else "a"


# --- settling ---------------------------------------------------------------------------------------------


def _settler_of_instances(cls: type[Any], words: str) -> Settle:
    def settle(value: Any) -> Any:
        if not isinstance(value, cls):
            raise unfit(words)
        return value

    return settle


def _settler_of_subclass(shape: Scalar) -> Settle:
    settle_base = SETTLERS.get(shape.base)
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if not isinstance(value, shape.cls):
            raise unfit(words)
        if settle_base is not None:
            settle_base(value)
        return value

    return settle


def settler_of(shape: Shape, known: dict[int, Settle] | None = None) -> Settle:
    """What settles values of a shape. ``known`` are the settlers of what is around it."""
    known = {} if known is None else known
    if isinstance(shape, Scalar):
        if shape.cls is not shape.base:
            return _settler_of_subclass(shape)
        return SETTLERS.get(shape.base) or _settler_of_instances(shape.cls, words_of(shape))
    if isinstance(shape, AnyJson):
        return frozen_json
    if isinstance(shape, EnumMember):
        return _settler_of_instances(shape.cls, words_of(shape))
    if isinstance(shape, LiteralValue):
        return _settler_of_literal(shape)
    if isinstance(shape, Collection):
        return _settler_of_collection(shape, settler_of(shape.item, known))
    if isinstance(shape, FixedTuple):
        return _settler_of_fixed_tuple(shape, [settler_of(item, known) for item in shape.items])
    if isinstance(shape, MappingOf):
        if isinstance(shape.item, AnyJson) and isinstance(shape.key, Scalar) and shape.key.cls is str:
            return _settler_of_json_objects(words_of(shape))
        return _settler_of_mapping(shape, settler_of(shape.key, known), settler_of(shape.item, known))
    if isinstance(shape, OneOf):
        ordered = sorted(shape.alternatives, key=is_none)
        return _settler_of_union([settler_of(item, known) for item in ordered])
    if isinstance(shape, Ruled):
        return _settler_of_rules(shape.rules, settler_of(shape.inner, known))
    if isinstance(shape, Hidden):
        return settler_of(shape.inner, known)
    if isinstance(shape, Formed):
        return _settler_of_formed(shape, settler_of(shape.inner, known))
    return _settler_of_recursive(shape, known)


def _settler_of_recursive(shape: RecordShape | Recursive, known: dict[int, Settle]) -> Settle:
    if id(shape) in known:
        return known[id(shape)]
    inner: list[Settle] = []
    known[id(shape)] = lambda value: inner[0](value)
    if isinstance(shape, RecordShape):
        inner.append(_settler_of_record(shape, known))
    else:
        assert shape.shape is not None
        inner.append(settler_of(shape.shape, known))
    known[id(shape)] = inner[0]
    return inner[0]


def _settler_of_literal(shape: LiteralValue) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        for item in shape.values:
            if value.__class__ is item.__class__ and value == item:
                return item
        raise unfit(words)

    return settle


def _settler_of_collection(shape: Collection, settle_item: Settle) -> Settle:
    words = words_of(shape)
    is_set = shape.kind is frozenset
    kinds: Any = AbstractSet if is_set else (list, tuple) if shape.noun == "tuple" else Sequence

    def settle(value: Any) -> Any:
        if not isinstance(value, kinds) or isinstance(value, str | bytes | bytearray | memoryview):
            raise unfit(words)
        items: list[Any] = []
        same = value.__class__ is shape.kind
        place = 0
        try:
            for item in value:
                settled = settle_item(item)
                same = same and settled is item
                items.append(settled)
                place += 1
        except Unfit as error:
            raise within("[...]" if is_set else f"[{place}]", error) from None
        return value if same else shape.kind(items)

    return settle


def _settler_of_fixed_tuple(shape: FixedTuple, settlers: list[Settle]) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(settlers):
            raise unfit(words)
        items: list[Any] = []
        try:
            for settle_item, item in zip(settlers, value, strict=True):
                items.append(settle_item(item))
        except Unfit as error:
            raise within(f"[{len(items)}]", error) from None
        same = value.__class__ is tuple and all(map(operator.is_, value, items))
        return value if same else tuple(items)

    return settle


def _settler_of_json_objects(words: str) -> Settle:
    def settle(value: Any) -> Any:
        if value.__class__ not in _USUAL_MAPPINGS and not isinstance(value, Mapping):
            raise unfit(words)
        return frozen_json(value)

    return settle


def _settler_of_mapping(shape: MappingOf, settle_key: Settle, settle_item: Settle) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if value.__class__ not in _USUAL_MAPPINGS and not isinstance(value, Mapping):
            raise unfit(words)
        made: dict[Any, Any] = {}
        same = value.__class__ is FrozenMapping
        for key, item in value.items():
            try:
                settled_key = settle_key(key)
            except Unfit as error:
                raise within(" (a key of it)", error) from None
            try:
                settled = settle_item(item)
            except Unfit as error:
                raise within("[...]", error) from None
            same = same and settled_key is key and settled is item
            made[settled_key] = settled
        return value if same else FrozenMapping(made)

    return settle


def _settler_of_union(settlers: list[Settle]) -> Settle:
    def settle(value: Any) -> Any:
        wanted: list[str] = []
        for settle_alternative in settlers:
            try:
                return settle_alternative(value)
            except Unfit as error:
                if any(path for path, _ in error.faults):
                    raise  # the right kind of value, with a fault inside
                wanted += [words.removeprefix("must be ") for _, words in error.faults]
        raise unfit(" or ".join(dict.fromkeys(wanted)))

    return settle


def _settler_of_rules(rules: tuple[Constraint, ...], settle_inner: Settle) -> Settle:
    def settle(value: Any) -> Any:
        settled = settle_inner(value)
        for rule in rules:
            if not _keeps(rule, settled):
                raise unfit(rule.description)
        return settled

    return settle


def _keeps(rule: Constraint, value: Any) -> bool:
    try:
        return bool(rule.check(value))
    except Exception:  # a rule that cannot judge a value does not allow it
        return False


def _settler_of_formed(shape: Formed, settle_inner: Settle) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if not isinstance(value, shape.cls):
            raise unfit(words)
        try:
            settle_inner(shape.form.write(value))
        except Exception:
            raise unfit(f"{words} that can be written in JSON") from None
        return value

    return settle


def _settler_of_record(shape: RecordShape, known: dict[int, Settle]) -> Settle:
    settlers = [(field.name, field.key, settler_of(field.shape, known)) for field in shape.fields]
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if value.__class__ is not shape.cls:
            if isinstance(value, shape.cls):
                raise unfit(f"{words} itself: what a subclass adds would not arrive")
            raise unfit(words)
        changes: dict[str, Any] = {}
        faults: list[tuple[str, str]] = []
        for name, key, settle_field in settlers:
            item = getattr(value, name)
            try:
                settled = settle_field(item)
            except Unfit as error:
                faults += within(f".{key}", error).faults
                continue
            if settled is not item:
                changes[name] = settled
        if faults:
            raise Unfit(faults)
        return with_values(value, changes) if changes else value

    return settle
