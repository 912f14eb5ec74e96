"""Typed settings: reads plain data, as YAML gives it, into an attrs class, and collects all faults.

The fields of the class are the keys, its annotations the types, its validators the rules. Types are strict:
``"false"`` is not False, ``1.9`` and ``true`` are not 1; a whole number will do for a float. The types are
str, int, float, bool, enums, ``Literal``, unions, ``tuple[X, ...]``, ``Mapping[str, X]``, other attrs
classes and ``Any``; ``Annotated`` adds ``DURATION``, ``SECRET`` or a ``Reader``.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import attrs

from bus_core.config.durations import format_duration
from bus_core.config.faults import Fault, join_path, unknown_key
from bus_core.config.secrets import MASK, Secret, is_secret_name, mask_text, mask_tree
from bus_core.config.values import DURATION, SECRET, Input, Reader, marks_of, read_value
from bus_core.config.variables import UNREADABLE, ExpandedMapping

__all__ = ["read_fields", "read_settings", "render_settings"]

T = TypeVar("T")


_Factory: Final[Any] = attrs.Factory  # typed as a function, for its callers


def read_settings(
    cls: type[T], raw: object, path: str, faults: list[str], *, ignore_unknown: bool = False
) -> T | None:
    """An instance of the attrs class ``cls`` from a mapping; None counts as an empty one.

    When anything is wrong, returns None and appends each fault to ``faults`` as ``<what> @ <path>``. Use
    ``ignore_unknown`` for a section that others share. Raises ``TypeError`` for a class with annotations that
    cannot be read, which is a mistake of its author.
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
        faults.append(Fault(_reason(error, values), path))
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
    """The valid values, ready to be passed to ``cls``; the faults of all others go to ``faults``.

    ``also_known`` are keys that the caller reads itself, suggested for unknown ones.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        Input(raw, path, faults, read_settings, hidden=True).refuse("a mapping")
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
        hidden = is_secret_name(key) or SECRET in marks_of(hints[field.name])
        given = Input(value, join_path(path, key), faults, read_settings, hidden, texts.get(key))
        result = read_value(hints[field.name], given)
        if result is not UNREADABLE:
            values[key] = result
    for key, field in fields.items():
        if field.default is attrs.NOTHING and key not in raw:
            faults.append(Fault(f"the key {key!r} is required", path))
    _validate(cls, fields, hints, values, path, faults)
    return values


def _validate(
    cls: type[Any],
    fields: Mapping[str, attrs.Attribute[Any]],
    hints: Mapping[str, Any],
    values: dict[str, Any],
    path: str,
    faults: list[str],
) -> None:
    """Runs the validators of each value separately, so that all of them report. Drops invalid values."""
    probe = object.__new__(cls)
    for key, field in fields.items():
        default = values.get(key, field.default)
        if default is not attrs.NOTHING and not isinstance(default, _Factory):
            object.__setattr__(probe, field.name, default)
    for key, value in list(values.items()):
        attribute: Any = fields[key]
        try:
            if isinstance(attribute.converter, attrs.Converter):
                continue  # may need the instance: its validator runs when the instance is made
            if attribute.converter is not None:
                value = attribute.converter(value)
            if attribute.validator is not None:
                attribute.validator(probe, attribute, value)
        except (ValueError, TypeError) as error:
            hidden = is_secret_name(key) or SECRET in marks_of(hints[attribute.name])
            reason = "the value is not accepted" if hidden else _reason(error, values)
            faults.append(Fault(reason, join_path(path, key)))
            del values[key]
        except AttributeError:
            pass  # it needs a field that could not be read, whose fault is reported


def _reason(error: Exception, values: Mapping[str, Any]) -> str:
    """The text of an exception, unless it has a secret."""
    text = str(error.args[0]) if error.args else type(error).__name__
    if any(secret in text for secret in _secrets(values, hidden=False)):
        return "the values are not accepted (the reason holds a secret)"
    return mask_text(text)


def _secrets(value: Any, *, hidden: bool) -> Iterable[str]:
    if isinstance(value, str):
        if value and (hidden or isinstance(value, Secret)):
            yield str(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, hidden=hidden or is_secret_name(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item, hidden=hidden)
    elif attrs.has(type(value)):
        yield from _secrets({name: getattr(value, name, None) for name in _names(value)}, hidden=hidden)


def _names(instance: Any) -> list[str]:
    return [field.name for field in attrs.fields(type(instance))]


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
    marks = marks_of(kind)
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
