"""Writers of JSON values, made from the shapes of fields; each returns a piece of the text.

An event's values are in normal form, so writers check only the limits of the serializer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from keyword import iskeyword
from typing import Any

from bus_core.events import shapes
from bus_core.events.checks import normalizer_of
from bus_core.events.faults import Unfit, within
from bus_core.events.shapes import Shape, is_none, made_once, parts_of, plain, plain_json
from bus_core.serialization.json_values import Writer, writers
from bus_core.serialization.options import JsonOptions

__all__ = ["Writers", "depth_of"]


class Writers:
    """Makes writers of shapes, within the limits of a serializer.

    ``text`` writes JSON with Python's encoder.
    """

    def __init__(self, limits: JsonOptions, text: Writer) -> None:
        self._text = text
        self._simple = writers(limits, text)
        self._known: dict[int, Writer] = {}
        self._kept: list[Shape] = []  # the id of a shape is unique while the shape exists

    def writer_of(self, shape: Shape) -> Writer:
        """The writer of a shape; it raises ``Unfit``."""
        if isinstance(shape, shapes.Scalar):
            return self._simple[shape.base]
        if isinstance(shape, shapes.AnyJson):
            return self._simple[Any]
        if isinstance(shape, shapes.EnumMember):
            return self._writer_of_enum(shape)
        if isinstance(shape, shapes.LiteralValue):
            return lambda value: self._text(plain_json(value))
        if isinstance(shape, shapes.Constrained | shapes.Hidden):
            return self.writer_of(shape.inner)
        if isinstance(shape, shapes.Collection):
            return self._writer_of_collection(shape)
        if isinstance(shape, shapes.FixedTuple):
            parts = [self.writer_of(item) for item in shape.items]
            return lambda value: _array([write(item) for write, item in zip(parts, value, strict=True)])
        if isinstance(shape, shapes.MappingOf):
            return self._writer_of_mapping(shape)
        if isinstance(shape, shapes.OneOf):
            return self._writer_of_union(shape)
        if isinstance(shape, shapes.WithJsonForm):
            return self._writer_of_form(shape)
        self._kept.append(shape)
        return made_once(
            shape, self._known, lambda record: self.writer_of_fields(record.fields), self.writer_of
        )

    def _writer_of_enum(self, shape: shapes.EnumMember) -> Writer:
        texts = {member.value: self._text(plain_json(member.value)) for member in shape.cls}

        def write(member: Any) -> str:
            value = member._value_  # member.value is a call
            known = texts.get(value)
            return self._text(plain_json(value)) if known is None else known  # flags combine

        return write

    def _writer_of_collection(self, shape: shapes.Collection) -> Writer:
        write = self.writer_of(shape.item)
        if shape.kind is frozenset:
            return lambda value: _array(_in_order([write(item) for item in value]))
        return lambda value: _array([write(item) for item in value])

    def _writer_of_mapping(self, shape: shapes.MappingOf) -> Writer:
        key, write_item = plain(shape.key), self.writer_of(shape.item)
        write_name = self.writer_of(shape.key)
        if isinstance(key, shapes.Scalar) and key.base is int:
            write_number = write_name
            write_name = lambda value: f'"{write_number(value)}"'  # noqa: E731

        def write(value: Any) -> str:
            written = {write_name(name): write_item(part) for name, part in value.items()}
            return f"{{{','.join([f'{name}:{part}' for name, part in written.items()])}}}"

        return write

    def _writer_of_union(self, shape: shapes.OneOf) -> Writer:
        others = [item for item in shape.alternatives if not is_none(item)]
        if len(others) == 1:
            write = self.writer_of(others[0])
            return lambda value: "null" if value is None else write(value)
        alternatives = [(normalizer_of(item), self.writer_of(item)) for item in others]

        def write_alternative(value: Any) -> str:
            if value is None:
                return "null"
            for normalize, write in alternatives:
                try:
                    if normalize(value) is not value:
                        continue
                except Unfit:
                    continue
                return write(value)
            return self._text(value)

        return write_alternative

    def _writer_of_form(self, shape: shapes.WithJsonForm) -> Writer:
        normalize, write, give = normalizer_of(shape.inner), self.writer_of(shape.inner), shape.form.write
        return lambda value: write(normalize(give(value)))

    def writer_of_fields(self, fields: Sequence[shapes.Field]) -> Writer:
        """The writer of an object with these fields. It is compiled from text, as readers are."""
        names: dict[str, Any] = {"inside": _inside, "keys": [field.key for field in fields]}
        lines = ["def write(record):", "    try:", "        at = 0"]  # this is for classes without fields
        pieces: list[str] = []
        for index, field in enumerate(fields):
            is_plain = field.name.isidentifier() and not iskeyword(field.name)
            value = f"record.{field.name}" if is_plain else f"getattr(record, {field.name!r})"
            names[f"write{index}"] = self.writer_of(field.shape)
            names[f"key{index}"] = f"{',' if index else ''}{self._text(field.key)}:"
            lines += [f"        at = {index}", f"        value{index} = write{index}({value})"]
            pieces.append(f"{{key{index}}}{{value{index}}}")
        lines += [
            "    except Exception as error:",
            "        raise inside(keys[at], error) from None",
            f"    return f'{{{{{''.join(pieces)}}}}}'",
        ]
        exec("\n".join(lines), names)
        write: Writer = names["write"]
        return write


def _array(texts: Sequence[str]) -> str:
    return f"[{','.join(texts)}]"


def _in_order(texts: list[str]) -> list[str]:
    """Sorts items, so that every process writes the same text."""
    try:
        return sorted(texts, key=json.loads)
    except TypeError:  # values of several types have no order
        return sorted(texts)


def _inside(key: str, error: Exception) -> Unfit:
    """The faults of the field of that key, as faults of the whole."""
    if isinstance(error, Unfit):
        return within(f".{key}", error)
    return Unfit([(f".{key}", "has a value that does not fit its type")])


def depth_of(shape: Shape, around: tuple[Shape, ...] = ()) -> float:
    """The most levels of objects and arrays in values of a shape; infinite without a bound."""
    if isinstance(shape, shapes.AnyJson) or shape in around:
        return math.inf
    parts = [*parts_of(shape)]
    if isinstance(shape, shapes.RecordShape):
        parts = [field.shape for field in shape.fields]
    elif isinstance(shape, shapes.Recursive) and shape.shape is not None:
        parts = [shape.shape]
    inner = max((depth_of(part, (*around, shape)) for part in parts), default=0)
    nests = shapes.RecordShape | shapes.Collection | shapes.FixedTuple | shapes.MappingOf
    return inner + isinstance(shape, nests)
