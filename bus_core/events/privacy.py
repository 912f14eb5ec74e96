"""Shows values to people: bounded in length, and without personal values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, Final

import attrs

from bus_core.events import shapes
from bus_core.events.checks import normalizer_of
from bus_core.events.faults import Unfit
from bus_core.events.shapes import Shape, has_personal_part, is_personal

__all__ = ["HIDDEN", "bounded", "hidden_values", "shown", "without"]

HIDDEN = "<personal>"

_SHORTEST: Final = 4
"""The least length of a text to search for, because shorter ones occur everywhere."""


def bounded(value: object) -> str:
    """A value's repr, bounded in length. Survives a value whose repr raises, or nests too deeply."""
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown(shape: Shape, value: Any) -> str:
    """A value's repr, with ``<personal>`` in place of personal values, at any depth.

    A container with a mark in its type is hidden completely; in a nested class, only the marked fields are.
    """
    if is_personal(shape):
        return HIDDEN
    if not has_personal_part(shape):
        return repr(value)
    if isinstance(shape, shapes.Constrained):
        return shown(shape.inner, value)
    if isinstance(shape, shapes.RecordShape) and value.__class__ is shape.cls:
        parts = (f"{field.name}={shown(field.shape, getattr(value, field.name))}" for field in shape.fields)
        return f"{shape.cls.__qualname__.rpartition('>.')[2]}({', '.join(parts)})"
    if isinstance(shape, shapes.Collection) and shape.kind is tuple and value.__class__ is tuple:
        items = [shown(shape.item, item) for item in value]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(shape, shapes.FixedTuple) and value.__class__ is tuple and len(value) == len(shape.items):
        items = [shown(part, item) for part, item in zip(shape.items, value, strict=True)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(shape, shapes.MappingOf) and isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {shown(shape.item, item)}' for key, item in value.items())}}}"
    if isinstance(shape, shapes.OneOf):
        return _shown_alternative(shape, value)
    if isinstance(shape, shapes.Recursive) and shape.shape is not None:
        return shown(shape.shape, value)
    return HIDDEN


def _shown_alternative(shape: shapes.OneOf, value: Any) -> str:
    for alternative in shape.alternatives:
        try:
            normalizer_of(alternative)(value)
        except Unfit:
            continue
        return shown(alternative, value)
    return HIDDEN


def hidden_values(shape: Shape, value: Any) -> Iterator[Any]:
    """The parts of a value that ``shown`` hides."""
    if is_personal(shape):
        yield value
    elif isinstance(shape, shapes.Constrained):
        yield from hidden_values(shape.inner, value)
    elif isinstance(shape, shapes.RecordShape) and value.__class__ is shape.cls:
        for field in shape.fields:
            yield from hidden_values(field.shape, getattr(value, field.name))
    elif isinstance(shape, shapes.Collection):
        for item in value:
            yield from hidden_values(shape.item, item)
    elif isinstance(shape, shapes.FixedTuple):
        for part, item in zip(shape.items, value, strict=False):
            yield from hidden_values(part, item)
    elif isinstance(shape, shapes.MappingOf):
        for item in value.values():
            yield from hidden_values(shape.item, item)
    elif isinstance(shape, shapes.OneOf):
        for alternative in shape.alternatives:
            try:
                normalizer_of(alternative)(value)
            except Unfit:
                continue
            yield from hidden_values(alternative, value)
            return
    elif isinstance(shape, shapes.Recursive) and shape.shape is not None:
        yield from hidden_values(shape.shape, value)


def without(text: str, values: Iterable[Any]) -> str:
    """A text with ``<personal>`` in place of each of these values, and of their parts.

    It finds exact occurrences only, not parts of a value, and nothing of less than four characters.
    """
    words = {word for value in values for word in _words_of(value) if len(word) >= _SHORTEST}
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, HIDDEN)
    return text


def _words_of(value: Any) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        yield str.__str__(value)
        yield repr(str.__str__(value))[1:-1]
    elif isinstance(value, Mapping):
        for pair in value.items():
            for part in pair:
                yield from _words_of(part)
    elif isinstance(value, tuple | Set):
        for item in value:
            yield from _words_of(item)
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _words_of(getattr(value, field.name))
    else:
        yield str(value)
        yield repr(value)
