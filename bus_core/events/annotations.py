"""Annotations of classes, each resolved in the module of the class that declares it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, get_type_hints

__all__ = ["evaluated", "hints_of_class", "own_annotations", "own_hints"]


def own_annotations(cls: type[Any]) -> Mapping[str, Any]:
    """The raw annotations in the body of a class itself; may raise ``NameError``."""
    return inspect.get_annotations(cls)


def own_hints(cls: type[Any], namespace: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The annotations in the body of a class itself, with names resolved; may raise ``NameError``.

    A name is looked up in ``namespace``, the names around a class that is defined inside a function, and then
    in the module of the class.
    """
    return evaluated(cls, own_annotations(cls), namespace)


def evaluated(
    cls: type[Any], annotations: Mapping[str, Any], namespace: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The annotations of a class with their names resolved; may raise ``NameError``."""
    module = getattr(sys.modules.get(cls.__module__), "__dict__", {})
    holder = type("_Holder", (), {"__annotations__": dict(annotations), "__module__": cls.__module__})
    return get_type_hints(
        holder, globalns={**vars(cls), **module}, localns=dict(namespace or {}), include_extras=True
    )


def hints_of_class(cls: type[Any]) -> dict[str, Any]:
    """All annotations of a class, including those of its bases; may raise ``NameError``."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is not object:
            hints |= own_hints(base)
    return hints
