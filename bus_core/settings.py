"""Typed settings: reads plain data, as YAML gives it, into an attrs class, and collects all faults.

The fields of the class are the keys, its annotations the types, its validators the rules. Types are strict:
``"false"`` is not False, ``1.9`` and ``true`` are not 1; a whole number will do for a float. The types are
str, int, float, bool, enums, ``Literal``, unions, ``tuple[X, ...]``, ``Mapping[str, X]``, other attrs
classes and ``Any``; ``Annotated`` adds ``DURATION``, ``SECRET`` or a ``Reader``.
"""

from __future__ import annotations

import collections.abc
import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from bus_core.durations import LONGEST, format_duration, parse_duration
from bus_core.expansion import UNREADABLE, ExpandedList, ExpandedMapping, join_path
from bus_core.masking import MASK, Secret, is_secret_name, mask_text, mask_tree

__all__ = [
    "DURATION",
    "SECRET",
    "Reader",
    "format_duration",
    "nearest_key",
    "parse_duration",
    "read_fields",
    "read_settings",
    "render_settings",
    "unknown_key",
]

T = TypeVar("T")


_Factory: Final[Any] = attrs.Factory  # typed as a function, for the sake of those who call it


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


DURATION: Final = _Mark("DURATION")
"""``Annotated[float, DURATION]``: a duration, stored in seconds; read from a number or ``1h30m``."""

SECRET: Final = _Mark("SECRET")
"""``Annotated[str, SECRET]``: never shown in a repr, in a fault, or by ``render_settings``."""


@attrs.frozen
class Reader:
    """``Annotated[X, Reader(read)]``: a value with a syntax of its own.

    ``read(value, path, faults)`` returns the value, or appends to ``faults``, with paths. ``render`` turns
    it back into plain data without secrets.
    """

    read: Callable[[Any, str, list[str]], Any]
    render: Callable[[Any], Any] = mask_tree


@attrs.frozen
class _Input:
    """A value on its way in: what it is, where it was found, and who wants to know of its faults."""

    value: Any
    path: str
    faults: list[str]
    hidden: bool = False
    text: str | None = None  # what the value was read from, when it came from a variable

    def refuse(self, expected: str) -> Any:
        self.faults.append(f"expected {expected}, got {self.shown()} @ {self.path}")
        return UNREADABLE

    def shown(self) -> str:
        value = self.value
        if isinstance(value, Mapping):
            return "a mapping"
        if isinstance(value, list | tuple | set):
            return "a list"
        if value is None:
            return "nothing"
        if self.hidden:
            return "a hidden value"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str | int | float):
            text = repr(mask_text(value)) if isinstance(value, str) else repr(value)
            return text if len(text) <= 60 else text[:56] + "...'"
        return f"a {type(value).__name__}"


def read_settings(
    cls: type[T], raw: object, path: str, faults: list[str], *, ignore_unknown: bool = False
) -> T | None:
    """An instance of the attrs class ``cls`` made from a mapping; None stands for an empty one.

    Returns None when anything is wrong, and then has appended each fault to ``faults`` as
    ``<what> @ <path>``. ``ignore_unknown`` suits a section that belongs to somebody else as well. Raises
    ``TypeError`` for a class with annotations that cannot be read, which is a mistake of its author.
    """
    before = len(faults)
    values = read_fields(cls, raw, path, faults, ignore_unknown=ignore_unknown)
    if len(faults) > before or len(values) < len(
        raw if isinstance(raw, Mapping) and not ignore_unknown else ()
    ):
        return None
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        faults.append(f"{_reason(error, values.values())} @ {path}")
        return None


def read_fields(
    cls: type[Any],
    raw: object,
    path: str,
    faults: list[str],
    *,
    ignore_unknown: bool = False,
    also_known: Iterable[str] = (),
) -> dict[str, Any]:
    """The values that are sound, ready to be passed to ``cls``; all faults of the others go to ``faults``.

    ``also_known`` are keys that a caller reads itself: they are suggested for unknown ones.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        _Input(raw, path, faults, hidden=True).refuse("a mapping")
        return {}
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.alias or field.name: field for field in attrs.fields(cls) if field.init}
    texts = raw.texts if isinstance(raw, ExpandedMapping) else {}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        field = fields.get(key) if isinstance(key, str) else None
        if field is None:
            if not ignore_unknown:
                faults.append(unknown_key(key, [*fields, *also_known], path))
            continue
        hidden = is_secret_name(key) or _is_secret(hints[field.name])
        given = _Input(value, join_path(path, key), faults, hidden, texts.get(key))
        result = _read(hints[field.name], given)
        if result is not UNREADABLE:
            values[key] = result
    for key, field in fields.items():
        if field.default is attrs.NOTHING and key not in raw:
            faults.append(f"the key {key!r} is required @ {path}")
    _validate(cls, fields, hints, values, path, faults)
    return values


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The known key that looks like ``key``; None when there is none."""
    nearest = difflib.get_close_matches(key, list(known), n=1)
    return nearest[0] if nearest else None


def unknown_key(key: object, known: Iterable[str], path: str) -> str:
    """The fault of a key that nobody knows, with the nearest known one, or else all of them."""
    names = list(known)
    if not isinstance(key, str):
        return f"the key {key!r} is not a text; put it in quotes @ {path}"
    shown = repr(key if len(key) <= 60 else key[:57] + "...")
    nearest = nearest_key(key, names)
    if nearest:
        return f"unknown key {shown}, did you mean {nearest!r}? @ {path}"
    return f"unknown key {shown}; known: {', '.join(names) or 'none'} @ {path}"


def _validate(
    cls: type[Any],
    fields: Mapping[str, attrs.Attribute[Any]],
    hints: Mapping[str, Any],
    values: dict[str, Any],
    path: str,
    faults: list[str],
) -> None:
    """Runs the validators of each value on its own, so that all of them report; drops what they refuse."""
    probe = object.__new__(cls)
    for key, field in fields.items():
        default = values.get(key, field.default)
        if default is not attrs.NOTHING and not isinstance(default, _Factory):
            object.__setattr__(probe, field.name, default)
    for key, value in list(values.items()):
        attribute: Any = fields[key]
        try:
            if isinstance(attribute.converter, attrs.Converter):
                continue  # may want the instance: it is run, and judged, when that is made
            if attribute.converter is not None:
                value = attribute.converter(value)
            if attribute.validator is not None:
                attribute.validator(probe, attribute, value)
        except (ValueError, TypeError) as error:
            hidden = is_secret_name(key) or _is_secret(hints[attribute.name])
            reason = "the value is not accepted" if hidden else _reason(error, values.values())
            faults.append(f"{reason} @ {join_path(path, key)}")
            del values[key]
        except AttributeError:
            pass  # it asks for a field that could not be read, and whose fault is reported


def _reason(error: Exception, values: Iterable[Any]) -> str:
    """What an exception says; but not when that holds a secret."""
    text = str(error.args[0]) if error.args else type(error).__name__
    if any(secret and secret in text for secret in _secrets(values)):
        return "the values are not accepted (the reason holds a secret)"
    return mask_text(text)


def _secrets(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, Secret):
            yield str(value)
        elif isinstance(value, Mapping):
            yield from _secrets(value.values())
        elif isinstance(value, list | tuple):
            yield from _secrets(value)
        elif attrs.has(type(value)):
            yield from _secrets(getattr(value, field.name, None) for field in attrs.fields(type(value)))


# --- reading one value ------------------------------------------------------------------------------------


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_secret(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return SECRET in kind.__metadata__ or _is_secret(get_args(kind)[0])
    return _is_union(kind) and any(_is_secret(member) for member in get_args(kind))


def _read(kind: Any, given: _Input) -> Any:
    """The value as ``kind`` wants it, or UNREADABLE with its fault reported."""
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
        result = read_settings(kind, value, given.path, given.faults)
        return UNREADABLE if result is None else result
    raise TypeError(
        f"the annotation {kind!r} of the setting {given.path} cannot be read from a configuration"
    )


def _read_annotated(kind: Any, marks: tuple[Any, ...], given: _Input) -> Any:
    for mark in marks:
        if isinstance(mark, Reader):
            before = len(given.faults)
            result = mark.read(given.value, given.path, given.faults)
            return UNREADABLE if len(given.faults) > before else result
        if mark is DURATION:
            optional = _is_union(kind) and type(None) in get_args(kind)
            return None if optional and given.value is None else _read_duration(given)
    if SECRET not in marks:
        return _read(kind, given)
    return _as_secret(_read(kind, attrs.evolve(given, hidden=True)))


def _as_secret(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Enum):
        return Secret(value)
    if isinstance(value, tuple):
        return tuple(_as_secret(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _as_secret(item) for key, item in value.items()}
    return value


def _read_duration(given: _Input) -> Any:
    value = given.value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError as error:
            given.faults.append(f"{error} @ {given.path}")
            return UNREADABLE
    if type(value) not in (int, float):
        return given.refuse("a duration such as 100ms, 5s or 1h30m")
    if not 0 <= value <= LONGEST:  # also refuses NaN
        return given.refuse("a duration of 0 to 36500 days in seconds")
    return float(value)


_SCALARS: Final = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _read_scalar(kind: type[Any], given: _Input) -> Any:
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


def _read_union(members: tuple[Any, ...], given: _Input) -> Any:
    """The first member that takes the value; exact types before float, values before their texts."""
    ordered = sorted(members, key=lambda member: member is float)
    for text in (None, given.text):
        for member in ordered:
            faults: list[str] = []
            result = _read(member, attrs.evolve(given, faults=faults, text=text))
            if result is not UNREADABLE:
                return result
    telling = [member for member in members if member is not type(None)]
    if isinstance(given.value, Mapping):
        telling = [member for member in telling if attrs.has(get_origin(member) or member)] or telling
    if len(telling) == 1:
        return _read(telling[0], given)
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


def _read_choice(options: Mapping[Any, Any], given: _Input) -> Any:
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
    given.faults.append(f"expected one of {known}, got {given.shown()}{hint} @ {given.path}")
    return UNREADABLE


def _read_list(kind: Any, given: _Input) -> Any:
    value = given.value
    if not isinstance(value, list | tuple):
        return given.refuse("a list")
    texts = value.texts if isinstance(value, ExpandedList) else {}
    results = [
        _read(kind, _Input(item, f"{given.path}[{index}]", given.faults, given.hidden, texts.get(index)))
        for index, item in enumerate(value)
    ]
    return UNREADABLE if UNREADABLE in results else tuple(results)


def _read_mapping(kind: Any, given: _Input) -> Any:
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
        results[key] = _read(
            kind, _Input(item, join_path(given.path, key), given.faults, hidden, texts.get(key))
        )
    return UNREADABLE if UNREADABLE in results.values() else results


# --- and back ---------------------------------------------------------------------------------------------


def render_settings(instance: Any) -> dict[str, Any]:
    """The settings as plain data for people: durations as text, secrets masked."""
    hints = get_type_hints(type(instance), include_extras=True)
    return {
        field.alias or field.name: _render(
            hints[field.name], getattr(instance, field.name), hidden=is_secret_name(field.name)
        )
        for field in attrs.fields(type(instance))
        if field.init
    }


def _render(kind: Any, value: Any, *, hidden: bool) -> Any:
    marks = _marks(kind)
    hidden = hidden or SECRET in marks
    for mark in marks:
        if isinstance(mark, Reader):
            return mark.render(value)
    if DURATION in marks and type(value) in (int, float):
        return format_duration(value)
    if isinstance(value, Enum):
        return value.value
    if attrs.has(type(value)):
        return MASK if hidden else render_settings(value)
    if isinstance(value, list | tuple):
        inner = (get_args(kind) or (Any,))[0] if get_origin(kind) is tuple else Any
        return [_render(inner, item, hidden=hidden) for item in value]
    if isinstance(value, Mapping):
        inner = get_args(kind)[1] if get_origin(kind) in (dict, collections.abc.Mapping) else Any
        return {
            key: _render(inner, item, hidden=hidden or is_secret_name(key)) for key, item in value.items()
        }
    return mask_tree(value, hidden=hidden)


def _marks(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Annotated:
        return (*kind.__metadata__, *_marks(get_args(kind)[0]))
    return tuple(mark for member in get_args(kind) for mark in _marks(member)) if _is_union(kind) else ()
