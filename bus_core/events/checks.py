"""Checks and freezes values by their shapes: functions made once per class, not per event.

``normalize`` functions bring a value into its normal form: lists become tuples, dicts read-only mappings, an
int in a float field a float. They raise ``Unfit`` for a value that does not fit the shape.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import time as time_of_day
from typing import Any, Final

from bus_core.events import shapes
from bus_core.events.faults import Unfit, unfit, within
from bus_core.events.marks import Constraint
from bus_core.events.primitives import FrozenMapping
from bus_core.events.records import with_values
from bus_core.events.shapes import Shape, is_none, made_once
from bus_core.events.values import (
    NORMALIZERS,
    Normalize,
    frozen_json,
)

__all__ = ["normalizer_of", "words_of"]

_USUAL_MAPPINGS: Final = (dict, FrozenMapping)
"""The usual mappings, tested first, because ``isinstance`` with an abstract class is slow."""


# --- what values must be ----------------------------------------------------------------------------------

_WORDS: Final[Mapping[Any, str]] = {
    int: "an int",
    float: "a number",
    bytes: "bytes",
    time_of_day: "a time",
    type(None): "None",
}


def words_of(shape: Shape) -> str:
    """The sentence "must be ..." for a shape, without looking inside values."""
    if isinstance(shape, shapes.Scalar):
        known = _WORDS.get(shape.cls)
        return known or f"{_article(shape.cls.__name__)} {shape.cls.__name__}"
    if isinstance(shape, shapes.EnumMember):
        return "one of " + ", ".join(f"{shape.cls.__name__}.{name}" for name in shape.cls.__members__)
    if isinstance(shape, shapes.LiteralValue):
        return "one of " + ", ".join(map(repr, shape.values))
    if isinstance(shape, shapes.Collection | shapes.MappingOf):
        return f"a {shape.noun}"
    if isinstance(shape, shapes.FixedTuple):
        return f"a tuple of {len(shape.items)}"
    if isinstance(shape, shapes.RecordShape | shapes.WithJsonForm):
        return f"{_article(shape.cls.__name__)} {shape.cls.__name__}"
    if isinstance(shape, shapes.OneOf):
        return " or ".join(map(words_of, sorted(shape.alternatives, key=is_none)))
    if isinstance(shape, shapes.Constrained):
        return shape.rules[0].description
    if isinstance(shape, shapes.Hidden):
        return words_of(shape.inner)
    if isinstance(shape, shapes.Recursive):
        return f"a {shape.name}"
    return "a JSON value"


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOaeio" else "a"


# --- settling ---------------------------------------------------------------------------------------------


def _normalizer_of_instances(cls: type[Any], words: str) -> Normalize:
    def normalize(value: Any) -> Any:
        if not isinstance(value, cls):
            raise unfit(words)
        return value

    return normalize


def _normalizer_of_subclass(shape: shapes.Scalar) -> Normalize:
    normalize_base = NORMALIZERS.get(shape.base)
    words = words_of(shape)

    def normalize(value: Any) -> Any:
        if not isinstance(value, shape.cls):
            raise unfit(words)
        if normalize_base is not None:
            normalize_base(value)
        return value

    return normalize


def normalizer_of(shape: Shape, known: dict[int, Normalize] | None = None) -> Normalize:
    """The normalizer of a shape. ``known`` has the normalizers of the enclosing shapes."""
    known = {} if known is None else known
    if isinstance(shape, shapes.Scalar):
        if shape.cls is not shape.base:
            return _normalizer_of_subclass(shape)
        return NORMALIZERS.get(shape.base) or _normalizer_of_instances(shape.cls, words_of(shape))
    if isinstance(shape, shapes.AnyJson):
        return frozen_json
    if isinstance(shape, shapes.EnumMember):
        return _normalizer_of_instances(shape.cls, words_of(shape))
    if isinstance(shape, shapes.LiteralValue):
        return _normalizer_of_literal(shape)
    if isinstance(shape, shapes.Collection):
        return _normalizer_of_collection(shape, normalizer_of(shape.item, known))
    if isinstance(shape, shapes.FixedTuple):
        return _normalizer_of_fixed_tuple(shape, [normalizer_of(item, known) for item in shape.items])
    if isinstance(shape, shapes.MappingOf):
        if shape.is_json_object:
            return _normalizer_of_json_objects(words_of(shape))
        return _normalizer_of_mapping(
            shape, normalizer_of(shape.key, known), normalizer_of(shape.item, known)
        )
    if isinstance(shape, shapes.OneOf):
        ordered = sorted(shape.alternatives, key=is_none)
        return _normalizer_of_union([normalizer_of(item, known) for item in ordered])
    if isinstance(shape, shapes.Constrained):
        return _normalizer_of_rules(shape.rules, normalizer_of(shape.inner, known))
    if isinstance(shape, shapes.Hidden):
        return normalizer_of(shape.inner, known)
    if isinstance(shape, shapes.WithJsonForm):
        return _normalizer_of_formed(shape, normalizer_of(shape.inner, known))
    return made_once(
        shape,
        known,
        lambda record: _normalizer_of_record(record, known),
        lambda inner: normalizer_of(inner, known),
    )


def _normalizer_of_literal(shape: shapes.LiteralValue) -> Normalize:
    words = words_of(shape)

    def normalize(value: Any) -> Any:
        for item in shape.values:
            if value.__class__ is item.__class__ and value == item:
                return item
        raise unfit(words)

    return normalize


def _normalizer_of_collection(shape: shapes.Collection, normalize_item: Normalize) -> Normalize:
    words = words_of(shape)
    is_set = shape.kind is frozenset
    kinds: Any = AbstractSet if is_set else (list, tuple) if shape.noun == "tuple" else Sequence

    def normalize(value: Any) -> Any:
        if not isinstance(value, kinds) or isinstance(value, str | bytes | bytearray | memoryview):
            raise unfit(words)
        items: list[Any] = []
        same = value.__class__ is shape.kind
        place = 0
        try:
            for item in value:
                normalized = normalize_item(item)
                same = same and normalized is item
                items.append(normalized)
                place += 1
        except Unfit as error:
            raise within("[...]" if is_set else f"[{place}]", error) from None
        return value if same else shape.kind(items)

    return normalize


def _normalizer_of_fixed_tuple(shape: shapes.FixedTuple, normalizers: list[Normalize]) -> Normalize:
    words = words_of(shape)

    def normalize(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(normalizers):
            raise unfit(words)
        items: list[Any] = []
        try:
            for normalize_item, item in zip(normalizers, value, strict=True):
                items.append(normalize_item(item))
        except Unfit as error:
            raise within(f"[{len(items)}]", error) from None
        same = value.__class__ is tuple and all(map(operator.is_, value, items))
        return value if same else tuple(items)

    return normalize


def _normalizer_of_json_objects(words: str) -> Normalize:
    def normalize(value: Any) -> Any:
        if value.__class__ not in _USUAL_MAPPINGS and not isinstance(value, Mapping):
            raise unfit(words)
        return frozen_json(value)

    return normalize


def _normalizer_of_mapping(
    shape: shapes.MappingOf, normalize_key: Normalize, normalize_item: Normalize
) -> Normalize:
    words = words_of(shape)

    def normalize(value: Any) -> Any:
        if value.__class__ not in _USUAL_MAPPINGS and not isinstance(value, Mapping):
            raise unfit(words)
        made: dict[Any, Any] = {}
        same = value.__class__ is FrozenMapping
        for key, item in value.items():
            try:
                normalized_key = normalize_key(key)
            except Unfit as error:
                raise within(" (a key of it)", error) from None
            try:
                normalized = normalize_item(item)
            except Unfit as error:
                raise within("[...]", error) from None
            same = same and normalized_key is key and normalized is item
            made[normalized_key] = normalized
        return value if same else FrozenMapping(made)

    return normalize


def _normalizer_of_union(normalizers: list[Normalize]) -> Normalize:
    def normalize(value: Any) -> Any:
        wanted: list[str] = []
        for normalize_alternative in normalizers:
            try:
                return normalize_alternative(value)
            except Unfit as error:
                if any(path for path, _ in error.faults):
                    raise  # the right kind of value, with a fault inside
                wanted += [words.removeprefix("must be ") for _, words in error.faults]
        raise unfit(" or ".join(dict.fromkeys(wanted)))

    return normalize


def _normalizer_of_rules(rules: tuple[Constraint, ...], normalize_inner: Normalize) -> Normalize:
    def normalize(value: Any) -> Any:
        normalized = normalize_inner(value)
        for rule in rules:
            if not _keeps(rule, normalized):
                raise unfit(rule.description)
        return normalized

    return normalize


def _keeps(rule: Constraint, value: Any) -> bool:
    try:
        return bool(rule.check(value))
    except Exception:  # a rule that cannot judge a value rejects it
        return False


def _normalizer_of_formed(shape: shapes.WithJsonForm, normalize_inner: Normalize) -> Normalize:
    words = words_of(shape)

    def normalize(value: Any) -> Any:
        if not isinstance(value, shape.cls):
            raise unfit(words)
        try:
            normalize_inner(shape.form.write(value))
        except Exception:
            raise unfit(f"{words} that can be written in JSON") from None
        return value

    return normalize


def _normalizer_of_record(shape: shapes.RecordShape, known: dict[int, Normalize]) -> Normalize:
    normalizers = [(field.name, field.key, normalizer_of(field.shape, known)) for field in shape.fields]
    words = words_of(shape)

    def normalize(value: Any) -> Any:
        if value.__class__ is not shape.cls:
            if isinstance(value, shape.cls):
                raise unfit(f"{words} itself: what a subclass adds would not arrive")
            raise unfit(words)
        changes: dict[str, Any] = {}
        faults: list[tuple[str, str]] = []
        for name, key, normalize_field in normalizers:
            item = getattr(value, name)
            try:
                normalized = normalize_field(item)
            except Unfit as error:
                faults += within(f".{key}", error).faults
                continue
            if normalized is not item:
                changes[name] = normalized
        if faults:
            raise Unfit(faults)
        return with_values(value, changes) if changes else value

    return normalize
