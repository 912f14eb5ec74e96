"""Checks of field values, made of their annotations: once per class, not per event."""

from __future__ import annotations

import enum
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin
from uuid import UUID

import attrs

from bus_core.events.primitives import FrozenMapping

__all__ = [
    "Check",
    "Checks",
    "Constraint",
    "FieldCheck",
    "Personal",
    "check_for",
    "class_terms",
    "compile_checks",
    "exact_types",
    "is_personal",
    "shown",
]

T = TypeVar("T")


class _PersonalMark:
    __slots__ = ()

    def __repr__(self) -> str:
        return "PERSONAL"


PERSONAL = _PersonalMark()

Personal = Annotated[T, PERSONAL]
"""Marks a field that holds personal data: ``email: Personal[str]``.

Its value never appears in the event's repr or in an error message of the bus.
"""


@attrs.frozen
class Constraint:
    """A rule for values: ``CountryCode = Annotated[str, Constraint("two capital letters", check)]``.

    ``check`` gets a value that already has the annotated type and returns whether it is acceptable.
    ``description`` completes the sentence "must be ...".
    """

    description: str
    check: Callable[[Any], bool] = attrs.field(repr=False)

    @classmethod
    def matching(
        cls, description: str, expression: str, *, longest: int | None = None, flags: int = 0
    ) -> Constraint:
        """The rule that a whole text matches a regular expression, and has at most ``longest`` characters.

        ``flags`` are those of ``re.compile``.
        """
        pattern = re.compile(expression, flags)

        def check(text: str) -> bool:
            return (longest is None or len(text) <= longest) and pattern.fullmatch(text) is not None

        return cls(description, check)


# --- checking one value -------------------------------------------------------------------------------------

Check = Callable[[Any], "str | None"]
"""Returns None for a good value, otherwise what it must be."""


def shown(value: object) -> str:
    """A value's repr, bounded in length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _instance_check(expected: type, words: str) -> Check:
    def check(value: Any) -> str | None:
        return None if isinstance(value, expected) else words

    return check


def _int_check(value: Any) -> str | None:
    return None if isinstance(value, int) and not isinstance(value, bool) else "an int"


def _float_check(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    return None if math.isfinite(value) else "a finite number (JSON has no NaN or infinity)"


def _decimal_check(value: Any) -> str | None:
    if not isinstance(value, Decimal):
        return "a Decimal"
    return None if value.is_finite() else "a finite Decimal"


def _datetime_check(value: Any) -> str | None:
    if not isinstance(value, datetime):
        return "a datetime"
    if value.utcoffset() is None:
        return "an aware datetime, such as datetime.now(UTC); this one is naive (it has no time zone)"
    return None


def _date_check(value: Any) -> str | None:
    return None if isinstance(value, date) and not isinstance(value, datetime) else "a date"


_SIMPLE: dict[Any, Check] = {
    str: _instance_check(str, "a str"),
    bytes: _instance_check(bytes, "bytes"),
    bool: _instance_check(bool, "a bool"),
    int: _int_check,
    float: _float_check,
    Decimal: _decimal_check,
    UUID: _instance_check(UUID, "a UUID"),
    datetime: _datetime_check,
    date: _date_check,
    time_of_day: _instance_check(time_of_day, "a time"),
    timedelta: _instance_check(timedelta, "a timedelta"),
    type(None): _instance_check(type(None), "None"),
}


_TEXTS = (str, bytes)


def _each(container: Any, words: str, item_check: Check) -> Check:
    """Checks a container and every item of it."""

    def check(value: Any) -> str | None:
        if not isinstance(value, container) or isinstance(value, _TEXTS):
            return words
        for item in value:
            wanted = item_check(item)
            if wanted is not None:
                return f"{words} whose items are each {wanted}"
        return None

    return check


def _each_pair(container: Any, words: str, key_check: Check, value_check: Check) -> Check:
    """Checks a mapping, and every key and value of it."""
    # Asking an abstract class is dear; most mappings are dicts.
    containers = (dict, container) if issubclass(dict, container) else (container,)

    def check(value: Any) -> str | None:
        if not isinstance(value, containers):
            return words
        for key, item in value.items():
            wanted = key_check(key)
            if wanted is None:
                wanted = value_check(item)
            if wanted is not None:
                return f"{words} whose items are each {wanted}"
        return None

    return check


def _union_check(checks: list[Check]) -> Check:
    def check(value: Any) -> str | None:
        wanted = []
        for alternative in checks:
            words = alternative(value)
            if words is None:
                return None
            wanted.append(words)
        return " or ".join(wanted)

    return check


def _annotated_check(base: Check | None, constraints: list[Constraint]) -> Check:
    def check(value: Any) -> str | None:
        wanted = base(value) if base is not None else None
        if wanted is not None:
            return wanted
        for constraint in constraints:
            if not constraint.check(value):
                return constraint.description
        return None

    return check


def _literal_check(values: tuple[Any, ...]) -> Check:
    words = "one of " + ", ".join(map(repr, values))

    def check(value: Any) -> str | None:
        fits = any(value == item and type(value) is type(item) for item in values)
        return None if fits else words

    return check


def _fixed_tuple_check(item_checks: list[Check | None]) -> Check:
    words = f"a tuple of {len(item_checks)}"

    def check(value: Any) -> str | None:
        if not isinstance(value, tuple) or len(value) != len(item_checks):
            return words
        for index, (item_check, item) in enumerate(zip(item_checks, value, strict=True)):
            wanted = item_check(item) if item_check is not None else None
            if wanted is not None:
                return f"{words} whose item {index} is {wanted}"
        return None

    return check


def _anything(_value: Any) -> str | None:
    return None


def check_for(annotation: Any) -> Check | None:
    """The check of values for a type annotation; None when the annotation allows everything."""
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return None
    if isinstance(annotation, NewType):
        return check_for(annotation.__supertype__)
    try:
        simple = _SIMPLE.get(annotation)
    except TypeError:  # an unhashable annotation, such as Annotated with a list in it
        simple = None
    if simple is not None:
        return simple
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        base = check_for(arguments[0])
        constraints = [item for item in arguments[1:] if isinstance(item, Constraint)]
        return _annotated_check(base, constraints) if constraints else base
    if origin is Literal:
        return _literal_check(arguments)
    if origin is Union or isinstance(annotation, types.UnionType):
        alternatives = [check_for(argument) for argument in arguments]
        if any(alternative is None for alternative in alternatives):
            return None
        return _union_check([item for item in alternatives if item is not None])
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _each(tuple, "a tuple", check_for(arguments[0]) or _anything)
        return _fixed_tuple_check([check_for(argument) for argument in arguments])
    if isinstance(origin, type):
        words = f"a {origin.__name__}"
        if issubclass(origin, Mapping) and len(arguments) == 2:
            key_check, value_check = (check_for(argument) or _anything for argument in arguments)
            return _each_pair(origin, words, key_check, value_check)
        if hasattr(origin, "__iter__") and len(arguments) == 1:
            return _each(origin, words, check_for(arguments[0]) or _anything)
        return _instance_check(origin, words)
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            members = ", ".join(f"{annotation.__name__}.{name}" for name in annotation.__members__)
            return _instance_check(annotation, f"one of {members}")
        return _instance_check(annotation, f"a {annotation.__name__}")
    return None


def is_personal(annotation: Any) -> bool:
    """Whether a field's annotation is marked as personal data, also inside an optional or a container."""
    if get_origin(annotation) is Annotated and PERSONAL in get_args(annotation)[1:]:
        return True
    return any(is_personal(argument) for argument in get_args(annotation))


# --- the checks of a class --------------------------------------------------------------------------------


@attrs.frozen
class FieldCheck:
    """One field of an event class, and what its values must be."""

    name: str
    argument: str
    check: Check
    personal: bool


@attrs.frozen
class Checks:
    """The checks of a class: ``fits`` is the fast answer for the usual event, ``fields`` the thorough one."""

    fields: tuple[FieldCheck, ...]
    fits: Callable[[Any], bool]


_MOST_TERMS = 3
"""Of so many types asking for each of them is faster than the check itself."""


def exact_types(annotation: Any) -> set[Any] | None:
    """The types whose direct instances are all good values; None when there is more to the annotation."""
    if get_origin(annotation) is Union or isinstance(annotation, types.UnionType):
        alternatives = [exact_types(argument) for argument in get_args(annotation)]
        known = [alternative for alternative in alternatives if alternative is not None]
        return set().union(*known) if len(known) == len(alternatives) else None
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        return None if any(isinstance(extra, Constraint) for extra in extras) else exact_types(base)
    if annotation in (str, bytes, bool, int, UUID, date, time_of_day, timedelta, types.NoneType):
        return {annotation}
    return {annotation} if isinstance(annotation, type) and issubclass(annotation, enum.Enum) else None


def class_terms(value: str, exact: set[Any] | None, name: str, names: dict[str, Any]) -> list[str]:
    """Expressions of which one is true where ``value`` is directly of one of the types, if they are few.

    The types are put into ``names``, which begin with ``name``.
    """
    if exact is None or len(exact) > _MOST_TERMS:
        return []
    named = {f"{name}_{number}": exact_type for number, exact_type in enumerate(exact)}
    names |= named
    return [f"{value}.__class__ is {each}" for each in named]


def compile_checks(hints: Mapping[str, Any], fields: Iterable[attrs.Attribute[Any]]) -> Checks:
    """Compiles the checks into one expression over the fields, as attrs does for its own methods."""
    compiled: list[FieldCheck] = []
    names: dict[str, Any] = {"datetime": datetime, "UTC": UTC, "FrozenMapping": FrozenMapping}
    terms = ["event.occurred_at.__class__ is datetime and event.occurred_at.tzinfo is UTC"]
    for index, field in enumerate(fields):
        annotation = hints.get(field.name, Any)
        check = check_for(annotation)
        if check is None:
            continue
        compiled.append(FieldCheck(field.name, field.alias or field.name, check, is_personal(annotation)))
        value = f"event.{field.name}"
        if field.name == "metadata":
            terms.append(f"{value}.__class__ is FrozenMapping")
        names[f"check{index}"] = check
        alternatives = class_terms(value, exact_types(annotation), f"type{index}", names)
        if alternatives:
            terms.append(f"({' or '.join(alternatives)} or check{index}({value}) is None)")
        elif field.name != "occurred_at" or annotation is not datetime:
            terms.append(f"check{index}({value}) is None")
    fits: Callable[[Any], bool] = eval(f"lambda event: {' and '.join(terms)}", names)
    return Checks(tuple(compiled), fits)
