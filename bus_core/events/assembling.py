"""Makes events of values that a reader has produced, which need no second check.

A constructor checks the values of its caller. A reader knows that its values are in normal form, unless code
of the class has a say. ``assembler_of`` decides for which classes this holds, and fills their events.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any, cast

import attrs

from bus_core.events.base import BaseEvent, Event, model_of
from bus_core.events.models import BASE_FIELDS
from bus_core.events.records import only_keeps_values
from bus_core.events.shapes import RecordShape, Recursive, Scalar, Shape, WithJsonForm, parts_of

__all__ = ["assembler_of"]


def assembler_of(cls: type[Event[Any]]) -> Callable[..., Event[Any]] | None:
    """A function that makes an event of the values of its fields, without any check.

    It takes the fields of every event, in the order of ``BASE_FIELDS``, then the class's own in the order of
    its model. Each value must be in normal form: rules were checked, mappings are frozen, and ``occurred_at``
    is in UTC. None where a constructor, a validator, a converter or a form has a say.
    """
    fields = model_of(cls).own.fields
    names = [*BASE_FIELDS, *(field.name for field in fields)]
    slots = [getattr(cls, name, None) for name in names]
    if not (
        (cls is BaseEvent or _is_made_of_its_fields(cls))
        and all(isinstance(slot, MemberDescriptorType) for slot in slots)
        and _are_exact([field.shape for field in fields])
    ):
        return None
    return _compiled(cls, slots)


def _is_made_of_its_fields(cls: type[Any]) -> bool:
    return (
        "__attrs_attrs__" in vars(cls)
        and cls.__attrs_post_init__ is Event.__attrs_post_init__
        and not hasattr(cls, "__attrs_pre_init__")
        and all(field.validator is None and field.converter is None for field in attrs.fields(cast(Any, cls)))
    )


def _are_exact(shapes: list[Shape]) -> bool:
    """True when a reader produces values of these shapes in normal form, without code of user classes."""
    met: set[int] = set()

    def is_exact(shape: Shape) -> bool:
        if id(shape) in met:
            return True
        if isinstance(shape, Scalar):
            return shape.cls is shape.base
        if isinstance(shape, WithJsonForm):
            return False
        met.add(id(shape))
        if isinstance(shape, RecordShape):
            return only_keeps_values(shape.cls) and all(is_exact(field.shape) for field in shape.fields)
        if isinstance(shape, Recursive):
            return shape.shape is not None and is_exact(shape.shape)
        return all(map(is_exact, parts_of(shape)))

    return all(map(is_exact, shapes))


def _compiled(cls: type[Any], slots: list[Any]) -> Callable[..., Event[Any]]:
    """Compiled from text, as attrs makes its constructors: a loop over the slots takes twice the time."""
    names: dict[str, Any] = {"new": object.__new__, "cls": cls}
    names |= {f"set{index}": slot.__set__ for index, slot in enumerate(slots)}
    lines = [
        f"def assemble({', '.join(f'value{index}' for index in range(len(slots)))}):",
        "    made = new(cls)",
        *(f"    set{index}(made, value{index})" for index in range(len(slots))),
        "    return made",
    ]
    exec("\n".join(lines), names)
    assemble: Callable[..., Event[Any]] = names["assemble"]
    return assemble
