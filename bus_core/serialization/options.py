"""The options of the serializer ``json``, in a light module that plugins can import."""

from __future__ import annotations

import attrs

from bus_core.config.bounds import whole_number

__all__ = ["JsonOptions"]


@attrs.frozen(kw_only=True)
class JsonOptions:
    """Bounds of the JSON text that is read or written.

    ``max_bytes`` bounds a document, ``max_depth`` the nesting of objects and arrays (the document is level
    1), and ``max_digits`` the characters of one number.
    """

    max_bytes: int = attrs.field(default=1 << 20, validator=whole_number(256, 1 << 30))
    max_depth: int = attrs.field(default=64, validator=whole_number(4, 500))
    max_digits: int = attrs.field(default=1000, validator=whole_number(32, 4300))
