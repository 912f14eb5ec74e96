"""Fast readers of usual JSON values, which report no faults.

Any error means that a value is unusual. Then the thorough readers read everything once, from the outermost
value on. A fast reader never falls back inside a value: faults deep inside would be searched twice as often
with each level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import attrs

from bus_core.events import shapes
from bus_core.events.assembling import assembler_of
from bus_core.events.base import Event, model_of
from bus_core.events.checks import normalizer_of
from bus_core.events.faults import Unfit
from bus_core.events.models import BASE_FIELDS
from bus_core.events.primitives import FrozenMapping
from bus_core.events.records import takes_by_place
from bus_core.events.shapes import Shape, is_none, json_kinds, made_once
from bus_core.serialization.json_reading import KIND_OF, Read, reader_of
from bus_core.serialization.json_values import read_bool, read_int, read_str

__all__ = ["quick_reader_of"]

_MISSING: Final = object()


class UnusualValue(ValueError):
    """A value is unusual."""


_INLINE: Final[dict[Any, type[Any]]] = {read_str: str, read_bool: bool, read_int: int}
"""Readers that only check the class of a value, which the compiled code does in place."""


def _quick_of(shape: Shape, known: dict[int, Read]) -> Read:
    """The fast reader of a shape."""
    if isinstance(shape, shapes.Hidden):
        return _quick_of(shape.inner, known)
    if isinstance(shape, shapes.Collection):
        kind, read_item = shape.kind, _quick_of(shape.item, known)

        def read_array(value: Any) -> Any:
            if value.__class__ is not list:
                raise UnusualValue
            return kind([read_item(item) for item in value])

        return read_array
    if isinstance(shape, shapes.AnyJson):
        return _frozen
    if isinstance(shape, shapes.MappingOf) and shape.is_json_object:
        return _frozen_object
    if isinstance(shape, shapes.RecordShape | shapes.Recursive):
        return made_once(
            shape,
            known,
            lambda record: _quick_of_record(record, known),
            lambda inner: _quick_of(inner, known),
        )
    if isinstance(shape, shapes.OneOf) and len(shape.alternatives) == 2:
        others = [item for item in shape.alternatives if not is_none(item)]
        if len(others) == 1:
            return _quick_of_optional(others[0], known)
    return reader_of(shape)


def _frozen(value: Any) -> Any:
    """Freezes a value of ``JsonReader`` for an event; its texts and numbers are checked already."""
    kind = value.__class__
    if kind is dict:
        return _frozen_object(value)
    return tuple([_frozen(item) for item in value]) if kind is list else value


def _frozen_object(value: Any) -> Any:
    if value.__class__ is not dict:
        raise UnusualValue
    made = dict(value)  # the thorough reader may need the value as it is
    for key, item in value.items():
        kind = item.__class__
        if kind is dict or kind is list:
            made[key] = _frozen(item)
    return FrozenMapping(made)


def _quick_of_optional(shape: Shape, known: dict[int, Read]) -> Read:
    read_other = _quick_of(shape, known)
    kinds = json_kinds(shape)
    classes = {cls for cls, kind in KIND_OF.items() if kind in kinds}

    def read(value: Any) -> Any:
        if value is None:
            return None
        if value.__class__ not in classes:
            raise UnusualValue
        return read_other(value)

    return read


def _quick_of_record(shape: shapes.RecordShape, known: dict[int, Read]) -> Read:
    by_place = takes_by_place(shape.cls, [field.key for field in shape.fields])
    return _compiled(shape.cls, shape.fields, by_name=not by_place, known=known)


def quick_reader_of(cls: type[Event[Any]]) -> Callable[..., Event[Any]]:
    """A function that makes an event of its ``data`` and the values of the fields that every event has."""
    fields = model_of(cls).own.fields
    assemble = assembler_of(cls)
    return _compiled(assemble or cls, fields, by_name=assemble is None, also=BASE_FIELDS)


def _compiled(
    make: Callable[..., Any],
    fields: Sequence[shapes.Field],
    *,
    by_name: bool,
    also: Iterable[str] = (),
    known: dict[int, Read] | None = None,
) -> Callable[..., Any]:
    """A function of a JSON object that calls ``make`` with the values of the fields.

    ``also`` names more arguments of ``make`` and of the function. It is compiled from text, as attrs does
    with its methods: a loop over the fields takes three times as long.
    """
    known = {} if known is None else known
    names: dict[str, Any] = {"make": make, "UnusualValue": UnusualValue, "missing": _MISSING}
    lines = [
        f"def read({', '.join(['data', *also])}):",
        "    if data.__class__ is not dict:",
        "        raise UnusualValue",
    ]
    values = [*also]
    for index, field in enumerate(fields):
        value = f"value{index}"
        read = _quick_of(field.shape, known)
        exact = _INLINE.get(read)
        if exact is None:
            names[f"read{index}"] = read
            reading = [f"{value} = read{index}({value})"]
        else:
            names[f"type{index}"] = exact
            reading = [f"if {value}.__class__ is not type{index}:", "    raise UnusualValue"]
        absent = _default_text(field, f"default{index}", names)
        if absent is None:
            lines.append(f"    {value} = data[{field.key!r}]")
            lines += [f"    {line}" for line in reading]
        else:
            lines += [f"    {value} = data.get({field.key!r}, missing)", f"    if {value} is missing:"]
            lines += [f"        {value} = {absent}", "    else:"]
            lines += [f"        {line}" for line in reading]
        values.append(value)
    if by_name:
        arguments = [*also, *(field.key for field in fields)]
        values = [f"{argument}={value}" for argument, value in zip(arguments, values, strict=True)]
    lines.append(f"    return make({', '.join(values)})")
    exec("\n".join(lines), names)
    made: Callable[..., Any] = names["read"]
    return made


def _default_text(field: shapes.Field, name: str, names: dict[str, Any]) -> str | None:
    """An expression for the default of a field, under that name; None for a required field.

    It gives a value in normal form, like all readers.
    """
    default = field.default
    if default is attrs.NOTHING or getattr(default, "takes_self", False):
        return None
    normalize = normalizer_of(field.shape)
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        names[name], names[f"normalize_{name}"] = default.factory, normalize
        return f"normalize_{name}({name}())"
    try:
        names[name] = normalize(default)
    except Unfit:
        return None
    return name
