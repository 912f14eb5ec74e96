"""What writes values in JSON: functions over the shapes of fields.

An event has brought its values into their one form, so that nothing is looked at again here but what the
limits of a serializer bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from keyword import iskeyword
from typing import Any

from bus_core.events.checks import settler_of
from bus_core.events.faults import Unfit, within
from bus_core.events.shapes import (
    AnyJson,
    Collection,
    EnumMember,
    Field,
    FixedTuple,
    Formed,
    Hidden,
    LiteralValue,
    MappingOf,
    OneOf,
    Record,
    Recursive,
    Ruled,
    Scalar,
    Shape,
    is_none,
    plain,
    plain_json,
)
from bus_core.serialization.json_values import writers
from bus_core.serialization.options import JsonOptions

__all__ = ["Write", "Writers"]

Write = Callable[[Any], Any]
"""Makes the JSON value of a value; raises ``Unfit``."""


def _as_it_is(value: Any) -> Any:
    return value


class Writers:
    """Makes writers of shapes, for the limits of one serializer."""

    def __init__(self, limits: JsonOptions) -> None:
        self._simple = writers(limits)
        self._known: dict[int, tuple[Shape, Write]] = {}

    def writer_of(self, shape: Shape) -> Write:
        """What writes values of a shape."""
        return self._writer(shape) or _as_it_is

    def _writer(self, shape: Shape) -> Write | None:
        """The same; None where values are JSON already."""
        if isinstance(shape, Scalar):
            return self._simple.get(shape.base)
        if isinstance(shape, AnyJson):
            return self._simple[Any]
        if isinstance(shape, EnumMember):
            return _writer_of_enum(shape)
        if isinstance(shape, LiteralValue):
            return plain_json
        if isinstance(shape, Ruled | Hidden):
            return self._writer(shape.inner)
        if isinstance(shape, Collection):
            return self._writer_of_collection(shape)
        if isinstance(shape, FixedTuple):
            parts = [self.writer_of(item) for item in shape.items]
            return lambda value: [write(item) for write, item in zip(parts, value, strict=True)]
        if isinstance(shape, MappingOf):
            return self._writer_of_mapping(shape)
        if isinstance(shape, OneOf):
            return self._writer_of_union(shape)
        if isinstance(shape, Formed):
            return self._writer_of_form(shape)
        return self._writer_of_named(shape)

    def _writer_of_named(self, shape: Record | Recursive) -> Write:
        known = self._known.get(id(shape))
        if known is not None:
            return known[1]
        inner: list[Write] = []
        self._known[id(shape)] = shape, lambda value: inner[0](value)
        if isinstance(shape, Record):
            inner.append(self.record_writer_of(shape))
        else:
            assert shape.shape is not None
            inner.append(self.writer_of(shape.shape))
        self._known[id(shape)] = shape, inner[0]
        return inner[0]

    def _writer_of_collection(self, shape: Collection) -> Write:
        write = self._writer(shape.item)
        if shape.kind is frozenset:
            write_item = write or _as_it_is
            return lambda value: _in_order([write_item(item) for item in value])
        if write is None:
            return list
        return lambda value: [write(item) for item in value]

    def _writer_of_mapping(self, shape: MappingOf) -> Write:
        key, item = plain(shape.key), self._writer(shape.item)
        write_key = self._writer(shape.key)
        if isinstance(key, Scalar) and key.base is int:
            write_number = write_key or _as_it_is
            write_key = lambda value: str(write_number(value))  # noqa: E731
        if write_key is None and item is None:
            return dict
        write_name, write_item = write_key or _as_it_is, item or _as_it_is
        return lambda value: {write_name(name): write_item(part) for name, part in value.items()}

    def _writer_of_union(self, shape: OneOf) -> Write:
        others = [item for item in shape.alternatives if not is_none(item)]
        if len(others) == 1:
            write = self._writer(others[0])
            if write is None:
                return _as_it_is
            return lambda value: None if value is None else write(value)
        alternatives = [(settler_of(item), self.writer_of(item)) for item in others]

        def write_alternative(value: Any) -> Any:
            if value is None:
                return None
            for settle, write in alternatives:
                try:
                    if settle(value) is not value:
                        continue
                except Unfit:
                    continue
                return write(value)
            return value

        return write_alternative

    def _writer_of_form(self, shape: Formed) -> Write:
        settle, write, give = settler_of(shape.inner), self.writer_of(shape.inner), shape.form.write
        return lambda value: write(settle(give(value)))

    def record_writer_of(self, record: Record) -> Callable[[Any], dict[str, Any]]:
        """What writes the fields of an object. It is compiled from text, as readers are."""
        return _compiled(record.fields, [self._writer(field.shape) for field in record.fields])


def _writer_of_enum(shape: EnumMember) -> Write:
    def write(value: Any) -> Any:
        return plain_json(value.value)

    return write


def _in_order(items: list[Any]) -> list[Any]:
    """The same items in the same order in every process."""
    try:
        items.sort()
    except TypeError:  # values of several types have no order
        items.sort(key=lambda item: json.dumps(item, sort_keys=True))
    return items


def _compiled(fields: Sequence[Field], parts: Sequence[Write | None]) -> Callable[[Any], dict[str, Any]]:
    keys = [field.key for field in fields]
    names: dict[str, Any] = {"inside": _inside, "keys": keys}
    lines = ["def write(record):", "    try:", "        at = 0"]  # the last one is for classes without fields
    for index, (field, write) in enumerate(zip(fields, parts, strict=True)):
        is_plain = field.name.isidentifier() and not iskeyword(field.name)
        value = f"record.{field.name}" if is_plain else f"getattr(record, {field.name!r})"
        if write is not None:
            names[f"write{index}"] = write
            lines.append(f"        at = {index}")
            value = f"write{index}({value})"
        lines.append(f"        value{index} = {value}")
    made = ", ".join(f"{field.key!r}: value{index}" for index, field in enumerate(fields))
    lines += [
        "    except Exception as error:",
        "        raise inside(keys[at], error) from None",
        f"    return {{{made}}}",
    ]
    exec("\n".join(lines), names)
    compiled: Callable[[Any], dict[str, Any]] = names["write"]
    return compiled


def _inside(key: str, error: Exception) -> Unfit:
    """What is wrong with the field of that key, as a fault of the whole."""
    if isinstance(error, Unfit):
        return within(f".{key}", error)
    return Unfit([(f".{key}", "has a value that does not fit its type")])
