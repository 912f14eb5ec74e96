"""Reads one value of a setting by its annotation: strictly, with the path in each fault."""

from __future__ import annotations

import collections.abc
import difflib
import math
import types
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import attrs

from bus_core.config.durations import LONGEST, parse_duration
from bus_core.config.faults import Fault, join_path, unknown_key
from bus_core.config.secrets import Secret, is_secret_name, mask_text, mask_tree
from bus_core.config.variables import UNREADABLE, ExpandedList, ExpandedMapping

__all__ = [
    "DURATION",
    "SECRET",
    "Input",
    "Reader",
    "marks_of",
    "read_value",
]


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


DURATION: Final = _Mark("DURATION")
"""``Annotated[float, DURATION]``: a duration, stored in seconds; read from a number or a text such as
``1h30m``.
"""

SECRET: Final = _Mark("SECRET")
"""``Annotated[str, SECRET]``: never shown in a repr, in a fault, or by ``render_settings``."""


@attrs.frozen
class Reader:
    """``Annotated[X, Reader(read)]``: a value with its own syntax.

    ``read(value, path, faults)`` returns the value, or appends to ``faults``, with paths. ``render`` turns it
    back into plain data without secrets.
    """

    read: Callable[[Any, str, list[str]], Any]
    render: Callable[[Any], Any] = mask_tree


_KINDS: Final[tuple[tuple[type[Any] | tuple[type[Any], ...], str], ...]] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a text"),
    (date, "a date (put it in quotes)"),
    (Mapping, "a mapping"),
    ((list, tuple, set), "a list"),
)


@attrs.frozen
class Input:
    """A raw value of the configuration, with its path and the list for its faults.

    ``hidden`` keeps it out of messages. ``text`` is the text of a value that came from a variable.
    ``read_class`` reads a value whose type is an attrs class.
    """

    value: Any
    path: str
    faults: list[str]
    read_class: Callable[[type[Any], Any, str, list[str]], Any]
    hidden: bool = False
    text: str | None = None

    def item(self, value: Any, path: str, *, hidden: bool, text: str | None) -> Input:
        """A value inside this one."""
        return Input(value, path, self.faults, self.read_class, hidden, text)

    def refuse(self, expected: str) -> Any:
        """Reports that the value is not the expected one."""
        self.faults.append(Fault(f"expected {expected}, got {self.shown()}", self.path))
        return UNREADABLE

    def shown(self) -> str:
        """The value for a message: short, and without secrets."""
        value = self.value
        if value is None:
            return "nothing"
        if isinstance(value, bool) and not self.hidden:
            return "true" if value else "false"
        if isinstance(value, int | float) and not self.hidden and abs(value) < 1e30:
            return repr(value)
        if isinstance(value, str) and not self.hidden and len(value) <= 60:
            return repr(mask_text(value))
        return next((name for kind, name in _KINDS if isinstance(value, kind)), f"a {type(value).__name__}")


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def marks_of(kind: Any) -> tuple[Any, ...]:
    """The marks that ``Annotated`` adds to a kind, or to a member of a union."""
    if get_origin(kind) is Annotated:
        return (*kind.__metadata__, *marks_of(get_args(kind)[0]))
    return tuple(mark for member in get_args(kind) for mark in marks_of(member)) if _is_union(kind) else ()


def read_value(kind: Any, given: Input) -> Any:
    """The value as a ``kind``, or UNREADABLE with its fault reported."""
    value = given.value
    origin, arguments = get_origin(kind), get_args(kind)
    if value is UNREADABLE:
        return UNREADABLE
    if origin is Annotated:
        return _read_annotated(arguments[0], kind.__metadata__, given)
    if _is_union(kind):
        return _read_union(arguments, given)
    if kind in (str, int, float, bool):
        return _read_scalar(kind, given)
    if kind in (Any, object):
        return value
    if kind in (None, type(None)):
        return None if value is None else given.refuse("nothing")
    if origin is Literal:
        return _read_choice({option: option for option in arguments}, given)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return value if isinstance(value, kind) else _read_choice({item.value: item for item in kind}, given)
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return _read_list(arguments[0], given)
    if origin in (dict, collections.abc.Mapping):
        return _read_mapping(arguments[1], given)
    if attrs.has(kind):
        if isinstance(value, kind):
            return value
        result = given.read_class(kind, value, given.path, given.faults)
        return UNREADABLE if result is None else result
    raise TypeError(
        f"the annotation {kind!r} of the setting {given.path} cannot be read from a configuration"
    )


def _read_annotated(kind: Any, marks: tuple[Any, ...], given: Input) -> Any:
    for mark in marks:
        if isinstance(mark, Reader):
            before = len(given.faults)
            result = mark.read(given.value, given.path, given.faults)
            return UNREADABLE if len(given.faults) > before else result
        if mark is DURATION:
            optional = _is_union(kind) and type(None) in get_args(kind)
            return None if optional and given.value is None else _read_duration(given)
    if SECRET not in marks:
        return read_value(kind, given)
    return _as_secret(read_value(kind, attrs.evolve(given, hidden=True)))


def _as_secret(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Enum):
        return Secret(value)
    if isinstance(value, tuple):
        return tuple(_as_secret(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _as_secret(item) for key, item in value.items()}
    return value


def _read_duration(given: Input) -> Any:
    value = given.value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError as error:
            given.faults.append(Fault(str(error), given.path))
            return UNREADABLE
    if type(value) not in (int, float):
        return given.refuse("a duration such as 100ms, 5s or 1h30m")
    if not 0 <= value <= LONGEST:  # also refuses NaN
        return given.refuse("a duration of 0 to 36500 days in seconds")
    return float(value)


_SCALARS: Final = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _read_scalar(kind: type[Any], given: Input) -> Any:
    value = given.value
    if kind is str and given.text is not None:
        return given.text
    if isinstance(value, kind) and (kind is not int or type(value) is not bool):
        if kind is float and not math.isfinite(value):
            return given.refuse("a finite number")
        return value
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return given.refuse("a number that fits a float")
    return given.refuse("a text in quotes" if kind is str and value is not None else _SCALARS[kind])


def _read_union(members: tuple[Any, ...], given: Input) -> Any:
    """The result of the first member that accepts the value; exact types come before float, values before
    their texts.
    """
    ordered = sorted(members, key=lambda member: member is float)
    rounds = [(None, ordered), (given.text, ordered)]
    if given.value is None and given.text:
        # If a variable has "null" or "~", it is a text where a text is allowed. An empty one is None.
        rounds.insert(0, (given.text, [member for member in ordered if member not in (None, type(None))]))
    for text, candidates in rounds:
        for member in candidates:
            faults: list[str] = []
            result = read_value(member, attrs.evolve(given, faults=faults, text=text))
            if result is not UNREADABLE:
                return result
    telling = [member for member in members if member is not type(None)]
    if isinstance(given.value, Mapping):
        telling = [member for member in telling if attrs.has(get_origin(member) or member)] or telling
    if len(telling) == 1:
        return read_value(telling[0], given)
    return given.refuse(" or ".join(_name_of(member) for member in telling))


def _name_of(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return "a duration" if DURATION in kind.__metadata__ else _name_of(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return " or ".join(repr(option) for option in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(repr(item.value) for item in kind)
    if get_origin(kind) is tuple:
        return "a list"
    return _SCALARS.get(kind, "a mapping")


def _read_choice(options: Mapping[Any, Any], given: Input) -> Any:
    for candidate in (given.value, given.text):
        for option, result in options.items():
            if type(candidate) is type(option) and candidate == option:
                return result
    known = ", ".join(repr(option) for option in options)
    hint = ""
    if isinstance(given.value, str) and not given.hidden:
        nearest = difflib.get_close_matches(
            given.value, [item for item in options if isinstance(item, str)], n=1
        )
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    given.faults.append(Fault(f"expected one of {known}, got {given.shown()}{hint}", given.path))
    return UNREADABLE


def _read_list(kind: Any, given: Input) -> Any:
    value = given.value
    if not isinstance(value, list | tuple):
        return given.refuse("a list")
    texts = value.texts if isinstance(value, ExpandedList) else {}
    results = [
        read_value(
            kind, given.item(item, f"{given.path}[{index}]", hidden=given.hidden, text=texts.get(index))
        )
        for index, item in enumerate(value)
    ]
    return UNREADABLE if UNREADABLE in results else tuple(results)


def _read_mapping(kind: Any, given: Input) -> Any:
    value = given.value
    if not isinstance(value, Mapping):
        return given.refuse("a mapping")
    texts = value.texts if isinstance(value, ExpandedMapping) else {}
    results: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            given.faults.append(unknown_key(key, (), given.path))
            results[repr(key)] = UNREADABLE
            continue
        hidden = given.hidden or is_secret_name(key)
        results[key] = read_value(
            kind, given.item(item, join_path(given.path, key), hidden=hidden, text=texts.get(key))
        )
    return UNREADABLE if UNREADABLE in results.values() else results
