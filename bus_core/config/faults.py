"""Faults of a configuration: texts that know the path of their place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["Fault", "join_path", "nearest_key", "unknown_key"]

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Fault(str):
    """A fault as people read it, ``<what> @ <path>``, and its two parts.

    ``Fault("expected a mapping", "$.bus.redis")``
    """

    __slots__ = ("path", "what")
    what: str
    path: str

    def __new__(cls, what: str, path: str) -> Fault:
        fault = super().__new__(cls, f"{what} @ {path}")
        fault.what, fault.path = what, path
        return fault

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # for pickle
        return self.what, self.path

    @classmethod
    def of(cls, text: str) -> Fault:
        """The fault of a plugin, which may be plain text."""
        if isinstance(text, Fault):
            return text
        what, _, path = text.rpartition(" @ ")
        return cls(what, path) if what else cls(text, "$")


def join_path(path: str, key: object) -> str:
    """The path of an item: ``$.bus`` and ``adapter`` give ``$.bus.adapter``; other keys go into brackets."""
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}"
    text = repr(key)
    return f"{path}[{text if len(text) <= 60 else text[:57] + '...'}]"


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The known key that is similar to ``key``; None when there is none."""
    nearest = difflib.get_close_matches(key, list(known), n=1)
    return nearest[0] if nearest else None


def unknown_key(key: object, known: Iterable[str], path: str) -> Fault:
    """The fault of an unknown key, with the nearest known one, or else all of them."""
    names = list(known)
    if not isinstance(key, str):
        return Fault(f"the key {key!r} is not a text; put it in quotes", path)
    shown = repr(key if len(key) <= 60 else key[:57] + "...")
    nearest = nearest_key(key, names)
    if nearest:
        return Fault(f"unknown key {shown}, did you mean {nearest!r}?", path)
    return Fault(f"unknown key {shown}; known: {', '.join(names) or 'none'}", path)
