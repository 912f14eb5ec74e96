"""JSON that others have written: read without trust, and bounded."""

from __future__ import annotations

import json
from typing import Final

__all__ = ["LARGEST", "look_inside", "parse"]

LARGEST: Final = 1_048_576
"""Bytes of what is read beside a body, such as headers: reading it must not keep everything else waiting.
What the bus writes is smaller."""

_LARGEST_LOOK_INSIDE: Final = 65_536
"""Bytes of a body in which an id is looked for, where the entry itself has none."""


def look_inside(body: bytes) -> dict[str, str]:
    """The id and the subject of a CloudEvents document, if it is one."""
    found = parse(body) if len(body) <= _LARGEST_LOOK_INSIDE else None
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in ("id", "subject") if isinstance(found.get(name), str)}


def parse(text: bytes) -> object:
    """The value of a JSON document; None when it is none, is too large, or cannot be written again."""
    if len(text) > LARGEST:
        return None
    try:
        found: object = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate would fail later, where it hurts
    except (ValueError, RecursionError):
        return None
    return found
