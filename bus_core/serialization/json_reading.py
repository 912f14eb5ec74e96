"""Thorough readers of JSON values, made from the shapes of fields.

They raise ``Unfit`` with every fault. ``json_quick`` has the readers of usual values.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from bus_core.events import shapes
from bus_core.events.checks import words_of
from bus_core.events.faults import Fault, Unfit, unfit, within
from bus_core.events.marks import Constraint
from bus_core.events.primitives import FrozenMapping
from bus_core.events.shapes import Shape, is_none, is_tolerant, json_kinds, made_once, plain, plain_json
from bus_core.events.values import frozen_json
from bus_core.serialization.json_values import READERS

__all__ = ["KIND_OF", "Read", "fields_reader_of", "reader_of"]

Read = Callable[[Any], Any]
"""Makes a value of a JSON value; raises ``Unfit``."""

KIND_OF: Final = {str: "text", bool: "bool", int: "int", float: "float", list: "array", dict: "object"}


def reader_of(shape: Shape, known: dict[int, Read] | None = None) -> Read:
    """The thorough reader of a shape. ``known`` has the readers of the enclosing shapes."""
    known = {} if known is None else known
    if isinstance(shape, shapes.Scalar):
        return _reader_of_scalar(shape)
    if isinstance(shape, shapes.AnyJson):
        return frozen_json
    if isinstance(shape, shapes.EnumMember):
        return _reader_of_enum(shape)
    if isinstance(shape, shapes.LiteralValue):
        return _reader_of_literal(shape)
    if isinstance(shape, shapes.Constrained):
        return _reader_of_rules(shape.rules, reader_of(shape.inner, known))
    if isinstance(shape, shapes.Hidden):
        return reader_of(shape.inner, known)
    if isinstance(shape, shapes.Collection):
        return _reader_of_collection(shape, reader_of(shape.item, known))
    if isinstance(shape, shapes.FixedTuple):
        return _reader_of_fixed_tuple([reader_of(item, known) for item in shape.items])
    if isinstance(shape, shapes.MappingOf):
        return _reader_of_mapping(_reader_of_keys(shape, known), reader_of(shape.item, known))
    if isinstance(shape, shapes.OneOf):
        return _reader_of_union(shape, [reader_of(item, known) for item in shape.alternatives])
    if isinstance(shape, shapes.WithJsonForm):
        return _reader_of_form(shape, reader_of(shape.inner, known))
    return made_once(
        shape, known, lambda record: _reader_of_record(record, known), lambda inner: reader_of(inner, known)
    )


def fields_reader_of(
    fields: Sequence[shapes.Field], known: dict[int, Read] | None = None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A reader of a JSON object that returns the arguments of a constructor. Unknown keys are ignored."""
    known = {} if known is None else known
    parts = [(field.key, reader_of(field.shape, known), field.default) for field in fields]

    def read(data: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        faults: list[Fault] = []
        for key, read_field, default in parts:
            if key in data:
                try:
                    values[key] = read_field(data[key])
                except Unfit as error:
                    faults += within(f".{key}", error).faults
            elif default is attrs.NOTHING:
                faults.append((f".{key}", "is missing"))
        if faults:
            raise Unfit(faults)
        return values

    return read


def _reader_of_record(shape: shapes.RecordShape, known: dict[int, Read]) -> Read:
    read_fields = fields_reader_of(shape.fields, known)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise unfit("an object")
        arguments = read_fields(value)
        try:
            return shape.cls(**arguments)
        except Exception:
            raise unfit(f"a valid {shape.cls.__name__}") from None

    return read


def _reader_of_scalar(shape: shapes.Scalar) -> Read:
    read_base = READERS[shape.base]
    if shape.cls is shape.base:
        return read_base

    def read(value: Any) -> Any:  # class Email(str)
        made = read_base(value)
        try:
            return shape.cls(made)
        except Exception:
            raise unfit(f"a valid {shape.cls.__name__}") from None

    return read


def _reader_of_enum(shape: shapes.EnumMember) -> Read:
    """Reads members by value and by the value's type, because True is not 1.

    An enum with a ``_missing_`` of its own names the member for a value of a newer version.
    """
    by_value = {
        (type(written), written): member
        for member, written in ((member, plain_json(member.value)) for member in shape.cls)
    }
    words = f"one of the values of {shape.cls.__name__}"
    tolerated = {type(plain_json(member.value)) for member in shape.cls} if is_tolerant(shape.cls) else set()

    def read(value: Any) -> enum.Enum:
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):
            pass
        if type(value) in tolerated:
            try:
                return shape.cls(value)
            except Exception:  # it is code of the application
                raise unfit(words) from None
        if issubclass(shape.cls, enum.Flag) and type(value) is int:
            try:
                combined = shape.cls(value)
            except ValueError:
                combined = None
            # Flags read a negative number as its complement, and CPython 3.11.2 drops bits it does not know.
            if combined is not None and combined.value == value:
                return combined
        raise unfit(words)

    return read


def _reader_of_literal(shape: shapes.LiteralValue) -> Read:
    by_value = {(type(plain_json(item)), plain_json(item)): item for item in shape.values}
    words = "one of " + ", ".join(repr(plain_json(item)) for item in shape.values)

    def read(value: Any) -> Any:
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):
            raise unfit(words) from None

    return read


def _reader_of_rules(rules: Sequence[Constraint], read_inner: Read) -> Read:
    def read(value: Any) -> Any:
        made = read_inner(value)
        for rule in rules:
            try:
                keeps = rule.check(made)
            except Exception:  # a rule that cannot judge a value rejects it
                keeps = False
            if not keeps:
                raise unfit(rule.description)
        return made

    return read


def _reader_of_form(shape: shapes.WithJsonForm, read_inner: Read) -> Read:
    words = words_of(shape)

    def read(value: Any) -> Any:
        try:
            made = shape.form.read(read_inner(value))
        except Unfit:
            raise
        except Exception:
            made = None
        if not isinstance(made, shape.cls):
            raise unfit(words)
        return made

    return read


def _reader_of_collection(shape: shapes.Collection, read_item: Read) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise unfit("an array")
        items: list[Any] = []
        try:
            for item in value:
                items.append(read_item(item))
        except Unfit as error:
            raise within(f"[{len(items)}]", error) from None
        return shape.kind(items)

    return read


def _reader_of_fixed_tuple(readers: Sequence[Read]) -> Read:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(readers):
            raise unfit(f"an array of {len(readers)}")
        items: list[Any] = []
        try:
            for read_item, item in zip(readers, value, strict=True):
                items.append(read_item(item))
        except Unfit as error:
            raise within(f"[{len(items)}]", error) from None
        return tuple(items)

    return read


def _reader_of_keys(shape: shapes.MappingOf, known: dict[int, Read]) -> Read:
    key = plain(shape.key)
    if not (isinstance(key, shapes.Scalar) and key.base is int):
        return reader_of(shape.key, known)
    if isinstance(shape.key, shapes.Constrained):
        return _reader_of_rules(shape.key.rules, _int_of)
    return _int_of


def _int_of(key: str) -> int:
    try:
        number = int(key)
    except ValueError:
        raise unfit("an int as text") from None
    if str(number) != key:
        raise unfit("an int as text")
    return number


def _reader_of_mapping(read_key: Read, read_item: Read) -> Read:
    """A key may be personal: no fault quotes one."""

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise unfit("an object")
        made: dict[Any, Any] = {}
        for name, item in value.items():
            try:
                key = read_key(name)
            except Unfit as error:
                raise within(" (a key of it)", error) from None
            if key in made:
                raise unfit("an object whose keys differ")
            try:
                made[key] = read_item(item)
            except Unfit as error:
                raise within("[...]", error) from None
        return FrozenMapping(made)

    return read


def _reader_of_union(shape: shapes.OneOf, readers: Sequence[Read]) -> Read:
    """Reads a union: the JSON value alone tells the alternative."""
    by_kind: dict[str, list[Read]] = {}
    for alternative, read_alternative in zip(shape.alternatives, readers, strict=True):
        for kind in json_kinds(alternative):
            by_kind.setdefault(kind, []).append(read_alternative)
    words = _words_in_json(shape)

    def read(value: Any) -> Any:
        candidates = by_kind.get("null" if value is None else KIND_OF[type(value)], ())
        if len(candidates) == 1:
            return candidates[0](value)
        for read_alternative in candidates:
            try:
                return read_alternative(value)
            except Unfit:
                continue
        raise unfit(words)

    return read


def _words_in_json(shape: shapes.OneOf) -> str:
    others = [item for item in shape.alternatives if not is_none(item)]
    words = " or ".join(map(words_of, others))
    return words if len(others) == len(shape.alternatives) else f"null or {words}"
