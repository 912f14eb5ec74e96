"""Describes an event class: its own fields, their types, and which of them are personal."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import attrs

from bus_core import Event
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
    has_personal_part,
    json_kinds,
    model_of,
)

__all__ = [
    "FieldFacts",
    "class_name",
    "describe_type",
    "fields_of",
    "has_text_form",
    "names_of",
    "summary_of",
]


@dataclass(frozen=True)
class FieldFacts:
    """A field of an event class. ``default`` is Python source, or None for a required field.

    ``deprecated`` is the advice of the mark ``Deprecated``, or None.
    """

    name: str
    type: str
    required: bool
    default: str | None
    personal: bool
    deprecated: str | None

    def as_data(self) -> dict[str, Any]:
        """Returns the facts as plain data."""
        return asdict(self)


def fields_of(cls: type[Event[Any]]) -> list[FieldFacts]:
    """Returns the fields that a class adds to the fields of every event."""
    return [
        FieldFacts(
            name=field.name,
            type=describe_type(field.shape),
            required=field.default is attrs.NOTHING,
            default=_describe_default(field.default),
            personal=has_personal_part(field.shape),
            deprecated=field.deprecated,
        )
        for field in model_of(cls).own.fields
    ]


def names_of(cls: type[Event[Any]]) -> tuple[str, ...]:
    """Returns the names of the fields that a class adds."""
    return tuple(fact.name for fact in fields_of(cls))


def class_name(cls: type[Any]) -> str:
    """Returns module and name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def summary_of(cls: type[Any]) -> str:
    """Returns the first sentence of a class's docstring."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split())


def _describe_default(default: Any) -> str | None:
    if default is attrs.NOTHING:
        return None
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return "..."
    if isinstance(default, Enum):
        return repr(default.value)
    text = repr(default)
    return text if len(text) <= 40 else text[:37] + "..."


def describe_type(shape: Shape) -> str:
    """Describes a type for people: ``str (an e-mail address) | None``, ``'password' | 'sso'``."""
    if isinstance(shape, Scalar):
        return "None" if shape.cls is type(None) else shape.cls.__name__
    if isinstance(shape, Hidden):
        return describe_type(shape.inner)
    if isinstance(shape, Constrained):
        return f"{describe_type(shape.inner)} ({'; '.join(rule.description for rule in shape.rules)})"
    if isinstance(shape, OneOf):
        return " | ".join(map(describe_type, shape.alternatives))
    if isinstance(shape, LiteralValue):
        return " | ".join(map(repr, shape.values))
    if isinstance(shape, EnumMember):
        return " | ".join(repr(member.value) for member in shape.cls)
    if isinstance(shape, Collection):
        return f"{shape.noun}[{describe_type(shape.item)}{', ...' if shape.noun == 'tuple' else ''}]"
    if isinstance(shape, FixedTuple):
        return f"tuple[{', '.join(map(describe_type, shape.items)) or '()'}]"
    if isinstance(shape, MappingOf):
        return f"{shape.noun}[{describe_type(shape.key)}, {describe_type(shape.item)}]"
    if isinstance(shape, RecordShape | WithJsonForm):
        return shape.cls.__name__
    if isinstance(shape, Recursive):
        return shape.name
    return "Any"


def has_text_form(shape: Shape) -> bool:
    """Returns True when the type accepts a JSON string, so that ``--set`` needs no quotes."""
    kinds = json_kinds(shape)
    return "text" in kinds and kinds != json_kinds(AnyJson())
