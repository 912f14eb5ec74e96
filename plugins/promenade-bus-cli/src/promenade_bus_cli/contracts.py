"""What there is to say about a class of events: its own fields, their types, and which are personal."""

from __future__ import annotations

import inspect
import types
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Union, cast, get_args, get_origin
from uuid import UUID

import attrs

from bus_core import Constraint, Event
from bus_core.events import hints_of, is_personal

__all__ = [
    "FieldFacts",
    "class_name",
    "describe_type",
    "fields_of",
    "has_text_form",
    "names_of",
    "summary_of",
]

_TEXTUAL = (str, bytes, UUID, datetime, date, time, timedelta, Decimal)


@dataclass(frozen=True)
class FieldFacts:
    """One field of a class of events. ``default`` is how it is written in Python; None when required."""

    name: str
    type: str
    required: bool
    default: str | None
    personal: bool

    def as_data(self) -> dict[str, Any]:
        """The facts as plain data."""
        return asdict(self)


def fields_of(cls: type[Event]) -> list[FieldFacts]:
    """The fields that a class adds to those that every event has."""
    hints = hints_of(cls)
    attributes: Any = attrs.fields(cast(Any, cls))
    common = {field.name for field in attrs.fields(cast(Any, Event))}
    own = [field for field in attributes if field.init and field.name not in common]
    return [
        FieldFacts(
            name=field.name,
            type=describe_type(hints[field.name]),
            required=field.default is attrs.NOTHING,
            default=_describe_default(field.default),
            personal=is_personal(hints[field.name]),
        )
        for field in own
    ]


def names_of(cls: type[Event]) -> tuple[str, ...]:
    """The names of these fields."""
    return tuple(fact.name for fact in fields_of(cls))


def class_name(cls: type[Any]) -> str:
    """Module and name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def summary_of(cls: type[Any]) -> str:
    """The first sentence of a class's documentation."""
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


def describe_type(annotation: Any) -> str:
    """A type as a reader wants it: ``str (an e-mail address) | None``, ``'password' | 'sso'``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, NewType):
        return describe_type(annotation.__supertype__)
    if origin is Annotated:
        rules = [item.description for item in arguments[1:] if isinstance(item, Constraint)]
        return describe_type(arguments[0]) + (f" ({'; '.join(rules)})" if rules else "")
    if origin is Union or isinstance(annotation, types.UnionType):
        return " | ".join(map(describe_type, arguments))
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(repr(member.value) for member in annotation)
    if origin is not None:
        inner = ", ".join("..." if item is Ellipsis else describe_type(item) for item in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return getattr(annotation, "__name__", None) or str(annotation)


def has_text_form(annotation: Any) -> bool:
    """Whether a JSON text may be a value of the type, so that a word on the command line needs no quotes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, NewType):
        return has_text_form(annotation.__supertype__)
    if origin is Annotated:
        return has_text_form(arguments[0])
    if origin is Union or isinstance(annotation, types.UnionType):
        return any(map(has_text_form, arguments))
    if origin is Literal:
        return any(isinstance(item, str) for item in arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return any(isinstance(member.value, str) for member in annotation)
    return isinstance(annotation, type) and issubclass(annotation, _TEXTUAL)
