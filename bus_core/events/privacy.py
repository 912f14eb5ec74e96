"""How values are shown to people: bounded in length, and without what is marked as personal."""

from __future__ import annotations

from typing import Any

from bus_core.events.checks import settler_of
from bus_core.events.faults import Unfit
from bus_core.events.shapes import (
    Collection,
    FixedTuple,
    MappingOf,
    OneOf,
    Record,
    Recursive,
    Ruled,
    Shape,
    has_personal_part,
    is_personal,
)

__all__ = ["HIDDEN", "bounded", "shown"]

HIDDEN = "<personal>"


def bounded(value: object) -> str:
    """A value's repr, bounded in length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown(shape: Shape, value: Any) -> str:
    """A value's repr, with ``<personal>`` in place of what is marked as personal, at any depth.

    A container with a mark in its type is hidden as a whole; in a nested class the marked fields are.
    """
    if is_personal(shape):
        return HIDDEN
    if not has_personal_part(shape):
        return repr(value)
    if isinstance(shape, Ruled):
        return shown(shape.inner, value)
    if isinstance(shape, Record) and value.__class__ is shape.cls:
        parts = (f"{field.name}={shown(field.shape, getattr(value, field.name))}" for field in shape.fields)
        return f"{shape.cls.__qualname__.rpartition('>.')[2]}({', '.join(parts)})"
    if isinstance(shape, Collection) and shape.kind is tuple and value.__class__ is tuple:
        items = [shown(shape.item, item) for item in value]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(shape, FixedTuple) and value.__class__ is tuple and len(value) == len(shape.items):
        items = [shown(part, item) for part, item in zip(shape.items, value, strict=True)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(shape, MappingOf) and isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {shown(shape.item, item)}' for key, item in value.items())}}}"
    if isinstance(shape, OneOf):
        return _shown_alternative(shape, value)
    if isinstance(shape, Recursive) and shape.shape is not None:
        return shown(shape.shape, value)
    return HIDDEN


def _shown_alternative(shape: OneOf, value: Any) -> str:
    for alternative in shape.alternatives:
        try:
            settler_of(alternative)(value)
        except Unfit:
            continue
        return shown(alternative, value)
    return HIDDEN
