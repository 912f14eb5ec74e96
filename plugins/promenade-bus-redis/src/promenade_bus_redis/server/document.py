"""Reads untrusted JSON within limits."""

from __future__ import annotations

import json
from typing import Final

__all__ = ["LARGEST", "look_inside", "parse"]

LARGEST: Final = 1_048_576
"""The maximum size in bytes of data besides a body, such as headers, so that parsing does not block the loop.
The bus writes less."""

_LARGEST_LOOK_INSIDE: Final = 65_536
"""The bytes of a body that are searched for an id, if the entry itself has none."""


def look_inside(body: bytes) -> dict[str, str]:
    """Returns the id and the subject of a CloudEvents document, if the body is one."""
    found = parse(body) if len(body) <= _LARGEST_LOOK_INSIDE else None
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in ("id", "subject") if isinstance(found.get(name), str)}


def parse(text: bytes) -> object:
    """Returns the value of a JSON document, or None if it is invalid, too large, or cannot be encoded."""
    if len(text) > LARGEST:
        return None
    try:
        found: object = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate would fail later, in a worse place
    except (ValueError, RecursionError):
        return None
    return found
