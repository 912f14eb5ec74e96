"""The Avro schema of an event class, made from the shapes of its fields, and the values to write with it.

A value has the form of ``to_data`` before it is given to Avro. Each shape becomes one or more branches, which
the Python type of a value tells apart.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import attrs

from bus_core import BaseEvent, Event
from bus_core.events import (
    AnyJson,
    Collection,
    Constrained,
    EnumMember,
    FixedTuple,
    Hidden,
    LiteralValue,
    MappingOf,
    OneOf,
    RecordShape,
    Recursive,
    Scalar,
    Shape,
    WithJsonForm,
    json_kinds,
    model_of,
)
from bus_core.serialization import JsonTextError
from promenade_bus_avro.json_text import JsonText

__all__ = ["ENVELOPE", "IS_TUPLE", "JSON_TEXT", "KEY", "NAME", "Give", "Unwritable", "envelope_of"]

Give = Callable[[Any], Any]
"""Turns a value of ``to_data`` into one that fastavro writes."""

ENVELOPE: Final = "CloudEvent"
"""The name of the record around every event."""

JSON_TEXT: Final = "json"
"""The logical type of a string that holds a JSON value."""

KEY: Final = "key"
"""The property of a record's field whose key is not a name in Avro."""

IS_TUPLE: Final = "tuple"
"""The property of a record that is a list of its fields' values elsewhere."""

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A valid name in Avro, when all of the text matches."""

_LARGEST: Final = 2**63 - 1
_UUID: Final = {"type": "string", "logicalType": "uuid"}


class Unwritable(ValueError):
    """A value without a form in Avro: ``path`` names the field, and ``words`` quote no value."""

    def __init__(self, words: str, path: str = "") -> None:
        self.words, self.path = words, path
        super().__init__(f"{path or 'the value'} {words}")

    def inside(self, key: str) -> Unwritable:
        """Returns the same fault of the value around it."""
        return Unwritable(self.words, f"{key}.{self.path}" if self.path else key)


@attrs.frozen
class _Branch:
    """A type of Avro other than a union, for the values of the Python type ``given``, or of any (None).

    ``name`` is the name that fastavro knows it by in a union, and ``read`` the Python type of values that it
    reads. Values of an ``empty`` type take no byte.
    """

    schema: Any
    name: str
    given: type[Any] | None
    give: Give | None = None
    empty: bool = False
    read: type[Any] | None = attrs.field(default=attrs.Factory(lambda self: self.given, takes_self=True))


def envelope_of(cls: type[Event[Any]], text: JsonText) -> tuple[dict[str, Any], Give | None]:
    """Returns the schema of the events of a class, and the function that prepares their ``data``.

    The record has the context attributes of CloudEvents by their names. ``data`` is a record with the fields
    of the class; that of a ``BaseEvent`` is JSON text. Raises ``TypeError`` for annotations that cannot be
    resolved.
    """
    data, give = _Schemas(text).of(AnyJson() if issubclass(cls, BaseEvent) else model_of(cls).own)
    attributes: dict[str, Any] = {
        "specversion": "string",
        "id": _UUID,
        "source": "string",
        "type": "string",
        "subject": "string",
        "time": "string",
        "topic": "string",
        "dataversion": ["null", "long"],
        "metadata": {"type": "map", "values": "string"},
        "data": data,
    }
    fields = [{"name": name, "type": kind} for name, kind in attributes.items()]
    return {"type": "record", "name": ENVELOPE, "fields": fields}, give


class _Schemas:
    """Makes the schema of one event class.

    Records and enums have unique names, and are defined once. A value of any JSON type is JSON text, and so
    is one of a class inside itself. A reader of untrusted bytes can bound the depth of JSON, but not that of
    a recursive type of Avro.
    """

    def __init__(self, text: JsonText) -> None:
        self._any = _Branch({"type": "string", "logicalType": JSON_TEXT}, "string", None, _json_writer(text))
        self._names = {ENVELOPE}
        self._known: dict[int, _Branch] = {}
        self._around: list[Shape] = []

    def of(self, shape: Shape) -> tuple[Any, Give | None]:
        """Returns the type of a field or an item, and the function that prepares its values.

        Each value takes at least one byte: an empty type is the only branch of a union. A reader relies on
        this, since a few bytes could claim a great many values that take none.
        """
        known, names = dict(self._known), set(self._names)
        branches = self._branches(shape)
        if len(branches) > 1 and not _are_distinct(branches):
            self._known, self._names = known, names
            branches = [self._any]
        (first, *others) = branches
        if others or first.empty:
            return [branch.schema for branch in branches], _chosen(branches)
        return first.schema, first.give

    def _branches(self, shape: Shape) -> Sequence[_Branch]:
        if isinstance(shape, Hidden | Constrained | WithJsonForm):
            return self._branches(shape.inner)
        if isinstance(shape, OneOf):
            return [branch for inner in shape.alternatives for branch in self._branches(inner)]
        if isinstance(shape, Scalar) and shape.base in _OTHERS:
            return [_OTHERS[shape.base]]
        if isinstance(shape, EnumMember) and all(map(_is_symbol, shape.cls)):
            return [self._enum(shape.cls)]
        if isinstance(shape, Scalar | EnumMember | LiteralValue):
            return [branch for kind, branch in _KINDS.items() if kind in _kinds_of(shape)]
        if isinstance(shape, AnyJson | Recursive) or shape in self._around:
            return [self._any]
        self._around.append(shape)
        try:
            return [self._nested(shape)]
        finally:
            self._around.pop()

    def _nested(self, shape: Collection | FixedTuple | MappingOf | RecordShape) -> _Branch:
        if isinstance(shape, Collection):
            item, give = self.of(shape.item)
            return _Branch({"type": "array", "items": item}, "array", list, give and _each(give))
        if isinstance(shape, MappingOf):
            item, give = self.of(shape.item)
            return _Branch({"type": "map", "values": item}, "map", dict, give and _each_value(give))
        if id(shape) not in self._known:
            record = self._tuple(shape) if isinstance(shape, FixedTuple) else self._record(shape)
            self._known[id(shape)] = attrs.evolve(record, schema=record.name)
            return record
        return self._known[id(shape)]

    def _record(self, shape: RecordShape) -> _Branch:
        name, fields, parts = self._name(shape.cls.__name__), list[dict[str, Any]](), list[_Part]()
        taken: set[str] = set()
        for field in shape.fields:
            kind, give = self.of(field.shape)
            place = _unique(_as_name(field.key), taken)
            key = {} if place == field.key else {KEY: field.key}
            fields.append({"name": place, "type": kind, **key})
            parts.append((place, field.key, give))
        schema = {"type": "record", "name": name, "fields": fields}
        return _Branch(schema, name, dict, _all_fields(parts), empty=not fields)

    def _tuple(self, shape: FixedTuple) -> _Branch:
        name, fields, gives = self._name("Tuple"), list[dict[str, Any]](), list[Give | None]()
        for place, part in enumerate(shape.items, 1):
            kind, give = self.of(part)
            fields.append({"name": f"item{place}", "type": kind})
            gives.append(give)
        schema = {"type": "record", "name": name, IS_TUPLE: True, "fields": fields}
        return _Branch(schema, name, list, _all_items(gives), empty=not fields, read=dict)

    def _enum(self, cls: type[enum.Enum]) -> _Branch:
        known = self._known.get(id(cls))
        if known is not None:
            return known
        name = self._name(cls.__name__)
        self._known[id(cls)] = _Branch(name, name, str)
        symbols = [str.__str__(member.value) for member in cls]
        return _Branch({"type": "enum", "name": name, "symbols": symbols}, name, str)

    def _name(self, wanted: str) -> str:
        return _unique(_as_name(wanted), self._names)


_Part = tuple[str, str, Give | None]


def _unique(name: str, taken: set[str]) -> str:
    """Returns the name, with a number if it is taken, and takes it."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _as_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return name if NAME.fullmatch(name) else f"_{name}"


def _is_symbol(member: enum.Enum) -> bool:
    return isinstance(member.value, str) and NAME.fullmatch(member.value) is not None


def _are_distinct(branches: Sequence[_Branch]) -> bool:
    """Tells if each value fits one branch: for the writer, in Avro, and for the reader."""
    columns = zip(*((branch.given, branch.name, branch.read) for branch in branches), strict=True)
    return all(None not in column and len({*column}) == len(branches) for column in columns)


def _kinds_of(shape: Scalar | EnumMember | LiteralValue) -> frozenset[str]:
    if isinstance(shape, Scalar) and shape.base is float:
        return frozenset({"float"})
    return json_kinds(shape)


# --- the values -------------------------------------------------------------------------------------------


def _long(value: int) -> int:
    if not -_LARGEST - 1 <= value <= _LARGEST:
        raise Unwritable("must be an int of at most 64 bits")
    return value


def _json_writer(text: JsonText) -> Give:
    def give(value: Any) -> str:
        try:
            return text.write(value)
        except JsonTextError as error:
            raise Unwritable(f"cannot be JSON text: {error}") from None

    return give


_OTHERS: Final[dict[Any, _Branch]] = {
    UUID: _Branch(_UUID, "string", str),
    bytes: _Branch("bytes", "bytes", str, base64.b64decode),
}
"""Scalars with a type of their own. All others have that of their kind in JSON."""

_KINDS: Final = {
    "null": _Branch("null", "null", type(None), empty=True),
    "bool": _Branch("boolean", "boolean", bool),
    "int": _Branch("long", "long", int, _long),
    "float": _Branch("double", "double", float),
    "text": _Branch("string", "string", str),
}


def _chosen(branches: Sequence[_Branch]) -> Give:
    """Names the branch of a value: fastavro would try them one by one."""
    table = {branch.given: (branch.name, branch.give) for branch in branches}
    if float in table:
        table.setdefault(int, table[float])

    def give(value: Any) -> Any:
        name, inner = table[type(value)]
        return name, (value if inner is None else inner(value))

    return give


def _each(give: Give) -> Give:
    return lambda value: [give(item) for item in value]


def _each_value(give: Give) -> Give:
    return lambda value: {key: give(item) for key, item in value.items()}


def _all_items(gives: Sequence[Give | None]) -> Give:
    def give(value: Any) -> dict[str, Any]:
        pairs = enumerate(zip(gives, value, strict=True), 1)
        return {f"item{place}": item if inner is None else inner(item) for place, (inner, item) in pairs}

    return give


def _all_fields(parts: Sequence[_Part]) -> Give:
    def give(value: Any) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, key, inner in parts:
            try:
                made[name] = value[key] if inner is None else inner(value[key])
            except Unwritable as error:
                raise error.inside(key) from None
        return made

    return give
