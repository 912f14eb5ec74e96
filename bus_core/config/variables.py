"""``${NAME}`` and ``${NAME:-default}`` in plain data, and the paths of values in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from bus_core.config.faults import Fault, join_path

__all__ = ["MAX_DEPTH", "UNREADABLE", "ExpandedList", "ExpandedMapping", "expand"]

MAX_DEPTH: Final = 64


class _Unreadable(Enum):
    UNREADABLE = "unreadable"


UNREADABLE: Final = _Unreadable.UNREADABLE
"""Replaces a value whose fault is already reported."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# An escaped '$${', a whole expansion, or a '${' that is neither.
_EXPANSION = re.compile(rf"\$\$\{{|\$\{{(?P<name>{_NAME})(?::-(?P<default>[^}}]*))?\}}|\$\{{")


class ExpandedMapping(dict[Any, Any]):
    """Expanded plain data. ``texts`` has the text of each value that was wholly an expansion.

    To YAML, a password of digits is a number. Code that needs a text takes it from ``texts``.
    """

    __slots__ = ("texts",)

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[Any, str] = {}


class ExpandedList(list[Any]):
    """The list that goes with ``ExpandedMapping``; the keys of ``texts`` are positions."""

    __slots__ = ("texts",)

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[Any, str] = {}


class Tagged:
    """Replaces a value with a tag of the application, such as ``!ENV``, in a section of the application."""

    def __repr__(self) -> str:
        return "<a value with a tag>"


def expand(
    value: Any,
    path: str,
    faults: list[str],
    *,
    environ: Mapping[str, str],
    read_scalar: Callable[[str], Any],
    _depth: int = 0,
) -> Any:
    """A copy of plain data in which the expansions of texts are replaced; keys are unchanged.

    ``${NAME:-default}`` gives the default when the variable is unset or empty, and ``$${`` gives ``${``. A
    text that is wholly one expansion becomes the result of ``read_scalar``. Faults name variables and paths,
    never values.
    """
    if _depth > MAX_DEPTH:
        faults.append(Fault(f"nested deeper than {MAX_DEPTH} levels", path))
        return UNREADABLE
    if isinstance(value, Mapping):
        container: ExpandedMapping | ExpandedList = ExpandedMapping()
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        container = ExpandedList()
        items = enumerate(value)
    elif isinstance(value, str) and "${" in value:
        return _expand_text(value, path, faults, environ, read_scalar)[0]
    elif isinstance(value, Tagged):
        what = "a tag that only the application knows (a text that begins with ! needs quotes; a variable is "
        faults.append(Fault(what + "written ${NAME})", path))
        return UNREADABLE
    else:
        return value
    for key, item in items:
        where = join_path(path, key)
        text: str | None = None
        if isinstance(item, str) and "${" in item:
            item, text = _expand_text(item, where, faults, environ, read_scalar)
        else:
            item = expand(item, where, faults, environ=environ, read_scalar=read_scalar, _depth=_depth + 1)
        if isinstance(container, ExpandedMapping):
            container[key] = item
        else:
            container.append(item)
        if text is not None:
            container.texts[key] = text
    return container


def _expand_text(
    text: str, path: str, faults: list[str], environ: Mapping[str, str], read_scalar: Callable[[str], Any]
) -> tuple[Any, str | None]:
    """The value of a text, and the expanded text when it is wholly one expansion."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match["name"], match["default"]
        if name is None:
            faults.append(
                Fault("malformed '${': write ${NAME} or ${NAME:-default}, or $${ for a plain '${'", path)
            )
            return ""
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            faults.append(
                Fault(f"the variable {name} is not set; set it, or write ${{{name}:-default}}", path)
            )
            return ""
        return value

    whole = _EXPANSION.fullmatch(text)
    before = len(faults)
    expanded = _EXPANSION.sub(replace, text)
    if len(faults) > before:
        return UNREADABLE, None
    if whole is None or whole["name"] is None:
        return expanded, None
    return read_scalar(expanded), expanded
