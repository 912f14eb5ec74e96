"""The options of the serializer ``json``, in a light module that plugins can import."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["JsonOptions"]


def _whole(low: int, high: int) -> Any:
    return [
        attrs.validators.instance_of(int),
        attrs.validators.not_(attrs.validators.instance_of(bool)),
        attrs.validators.ge(low),
        attrs.validators.le(high),
    ]


@attrs.frozen(kw_only=True)
class JsonOptions:
    """Bounds of the JSON text that is read or written.

    ``max_bytes`` bounds a document, ``max_depth`` the nesting of objects and arrays (the document is level
    1), and ``max_digits`` the characters of one number.
    """

    max_bytes: int = attrs.field(default=1 << 20, validator=_whole(256, 1 << 30))
    max_depth: int = attrs.field(default=64, validator=_whole(4, 500))
    max_digits: int = attrs.field(default=1000, validator=_whole(32, 4300))
