"""The options of the serializer ``avro``."""

from __future__ import annotations

import attrs

from bus_core.config import whole_number

__all__ = ["AvroOptions"]


@attrs.frozen(kw_only=True)
class AvroOptions:
    """Bounds of the containers that are read or written.

    ``max_bytes`` bounds a container with its schema. ``max_depth`` bounds the nesting of types in a schema
    (the envelope is level 1), and that of a JSON value inside of an event.
    """

    max_bytes: int = attrs.field(default=1 << 20, validator=whole_number(1024, 1 << 30))
    max_depth: int = attrs.field(default=64, validator=whole_number(4, 100))
