"""The public API as a text: one line for each name, signature and attribute.

``make api`` writes it to tests/project/public_api.txt. A line that disappears or changes breaks somebody.
Contexts are left out: ``promenade-bus contracts check`` compares those.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs

from promenade_site.public import distributions, homes, names_of, public_modules

__all__ = ["broken_lines", "snapshot"]

_FOREIGN = ("builtins", "typing", "enum", "asyncio", "contextlib", "collections")


def snapshot() -> str:
    """Every public name of the core and the plugins, sorted by module."""
    contexts = {package for name, package in distributions().items() if name.startswith("promenade-context-")}
    lines: list[str] = []
    for module in public_modules():
        if module in contexts:
            continue
        own = homes().get(module, ())
        for name in sorted(names_of(module), key=str.lower):
            if name in own:
                lines += _lines(f"{module}.{name}", getattr(import_module(module), name))
            else:
                lines.append(f"{module}.{name}")
    return "\n".join([*lines, ""])


def broken_lines(before: str, now: str) -> list[str]:
    """The lines of an earlier snapshot that are no longer there."""
    there = {*now.splitlines()}
    return [line for line in before.splitlines() if line not in there]


def _lines(path: str, thing: Any) -> Iterator[str]:
    if isinstance(thing, type):
        yield f"class {path}{_signature(thing)}"
        yield from _keywords(path, thing)
        for name in sorted(_members(thing)):
            yield from _member(f"{path}.{name}", thing, name)
    elif inspect.isroutine(thing):
        yield f"def {path}{_signature(thing)}"
    else:
        yield f"{path} = {thing!r}" if isinstance(thing, str | int | float) else path


def _members(cls: type[Any]) -> set[str]:
    """The public members that this project defines, private bases included."""
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _FOREIGN]
    names = {name for base in ours for name in (*vars(base), *vars(base).get("__annotations__", ()))}
    return {name for name in names if not name.startswith("_")}


def _member(path: str, cls: type[Any], name: str) -> Iterator[str]:
    found = inspect.getattr_static(cls, name, None)
    if isinstance(found, Enum):
        yield f"{path} = {found.value!r}"
    elif isinstance(found, property | cached_property):
        getter = found.fget if isinstance(found, property) else found.func
        yield f"{path}: {_returns(getter)}"
    elif isinstance(found, staticmethod | classmethod):
        yield f"def {path}{_signature(found.__func__)}"
    elif inspect.isfunction(found):
        yield f"{'async ' if inspect.iscoroutinefunction(found) else ''}def {path}{_signature(found)}"
    else:
        yield f"{path}: {_annotation(cls, name)}"


def _annotation(cls: type[Any], name: str) -> str:
    for base in cls.__mro__:
        if name in vars(base).get("__annotations__", ()):
            return _plain(vars(base)["__annotations__"][name])
    return "?"


def _returns(function: Any) -> str:
    return _plain(getattr(function, "__annotations__", {}).get("return", "?"))


def _plain(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _signature(thing: Any) -> str:
    """The parameters as they are written, in the same words on every Python."""
    if _is_made_by_attrs(thing):
        fields = [field for field in attrs.fields(thing) if field.init and not field.kw_only]
        return f"({', '.join(_field(thing, field) for field in fields)})"
    if inspect.isbuiltin(thing) or (isinstance(thing, type) and issubclass(thing, Enum)):
        return ""  # these differ from Python to Python
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    # A path of this machine as a default would differ on every other one.
    parameters = [
        each.replace(default=...) if isinstance(each.default, Path) else each
        for each in signature.parameters.values()
    ]
    text = re.sub(r" at 0x[0-9a-f]+", "", str(signature.replace(parameters=parameters)))
    return text.replace("'", "").replace("<factory>", "...")


def _keywords(path: str, cls: type[Any]) -> Iterator[str]:
    """The parameters by keyword of a class, one by one: a further one with a default harms nobody."""
    if _is_made_by_attrs(cls):
        for field in attrs.fields(cls):
            if field.init and field.kw_only:
                yield f"{path}(*, {_field(cls, field)})"


def _is_made_by_attrs(thing: object) -> bool:
    return isinstance(thing, type) and attrs.has(thing) and "__init__" in vars(thing)


def _field(cls: type[Any], field: attrs.Attribute[Any]) -> str:
    default = "" if field.default is attrs.NOTHING else " = ..."
    return f"{field.alias or field.name}: {_annotation(cls, field.name)}{default}"
