"""Nested values with named fields: frozen attrs classes and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, Final, cast

import attrs

from bus_core.events.annotations import hints_of_class
from bus_core.events.marks import deprecation_of
from bus_core.events.shape_builder import ShapeBuilder, name_of
from bus_core.events.shapes import Field, UnsupportedType

__all__ = ["fields_of_record", "is_record", "only_keeps_values", "takes_by_place", "with_values"]


def is_record(cls: type[Any]) -> bool:
    """True when a class has fields of attrs or dataclasses."""
    return attrs.has(cls) or dataclasses.is_dataclass(cls)


def fields_of_record(cls: type[Any], builder: ShapeBuilder) -> tuple[Field, ...]:
    """The fields of such a class.

    Raises ``UnsupportedType`` when its values could change, or cannot be made.
    """
    if hasattr(cls, "__event_type__"):
        raise UnsupportedType(
            f"{cls.__name__} is an event, which is no field of another one; take over what matters"
        )
    named = [*_fields_of(cls)]
    _check_frozen(cls, [name for name, *_ in named])
    hints = hints_of_class(cls)
    fields: list[Field] = []
    for name, key, default, is_given in named:
        if not is_given:
            raise UnsupportedType(
                f"{cls.__name__}.{name} is no argument of {cls.__name__}, so that it would not travel; "
                "make it a property"
            )
        if name not in hints:
            raise UnsupportedType(f"{cls.__name__}.{name} has no annotation")
        try:
            shape = builder.shape(hints[name])
        except UnsupportedType as error:
            raise UnsupportedType(f"{cls.__name__}.{name}: {error}") from None
        fields.append(Field(name, key, shape, default, deprecation_of(hints[name])))
    _check_constructor(cls, [field.key for field in fields])
    return tuple(fields)


def only_keeps_values(cls: type[Any]) -> bool:
    """True when a record of such a class has exactly the values that its constructor was given."""
    return (
        _is_generated(cls.__init__)
        and not any("__new__" in vars(base) for base in inspect.getmro(cls) if base is not object)
        and not any(
            "__call__" in vars(meta) for meta in inspect.getmro(type(cls)) if meta not in (type, object)
        )
        and not any(hasattr(cls, name) for name in _OWN_STEPS)
        and not (
            attrs.has(cls) and any(field.converter is not None for field in attrs.fields(cast(Any, cls)))
        )
    )


_OWN_STEPS: Final = ("__attrs_pre_init__", "__attrs_post_init__", "__post_init__")
"""The steps of a constructor that a class may define itself."""


def takes_by_place(cls: type[Any], keys: Sequence[str]) -> bool:
    """True when a constructor takes these arguments in this order by position, which is faster."""
    parameters = inspect.signature(cls).parameters.values()
    by_place = [item.name for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD]
    return by_place[: len(keys)] == [*keys]


def with_values(record: Any, values: dict[str, Any]) -> Any:
    """A copy of a frozen record with other values in some attributes."""
    changed = copy.copy(record)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed


_ITS_OWN: Final = attrs.Factory(lambda _self: None, takes_self=True)
"""The default of an argument of a handwritten constructor, which applies only if the argument is left out."""


def _fields_of(cls: type[Any]) -> list[tuple[str, str, Any, bool]]:
    """For each field: attribute, argument, default as in attrs, and True if the constructor takes it."""
    if attrs.has(cls):
        found = [(f.name, f.alias or f.name, f.default, f.init) for f in attrs.fields(cls)]
    else:
        found = [(f.name, f.name, _default_of(f), f.init) for f in dataclasses.fields(cls)]
    if _is_generated(cls.__init__):
        return found
    nothing = attrs.NOTHING
    return [
        (name, key, default if default is nothing else _ITS_OWN, init) for name, key, default, init in found
    ]


def _is_generated(constructor: Any) -> bool:
    """True when attrs or dataclasses made the constructor of the fields."""
    file = getattr(getattr(constructor, "__code__", None), "co_filename", "")
    return file == "<string>" or file.startswith("<attrs generated")


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return attrs.Factory(field.default_factory)
    return attrs.NOTHING if field.default is dataclasses.MISSING else field.default


def _check_frozen(cls: type[Any], names: list[str]) -> None:
    for name in names:
        try:
            setattr(object.__new__(cls), name, None)
        except (attrs.exceptions.FrozenError, dataclasses.FrozenInstanceError):
            continue
        except Exception:  # a converter or a validator that runs at each assignment
            pass
        raise UnsupportedType(
            f"{cls.__name__}.{name} can be changed, also by one handler while others use it; "
            "decorate the class with @attrs.frozen, or @dataclass(frozen=True)"
        )


def _check_constructor(cls: type[Any], keys: list[str]) -> None:
    try:
        inspect.signature(cls).bind(**dict.fromkeys(keys))
    except (TypeError, ValueError) as error:
        raise UnsupportedType(
            f"{name_of(cls)} cannot be made of its fields when it is read ({error}); "
            "its constructor has to take each of them by name, and nothing else that is required"
        ) from None
