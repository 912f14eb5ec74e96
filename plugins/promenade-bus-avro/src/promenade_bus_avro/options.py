"""The options of the serializer ``avro``."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["AvroOptions"]


def _whole(low: int, high: int) -> Any:
    return [
        attrs.validators.instance_of(int),
        attrs.validators.not_(attrs.validators.instance_of(bool)),
        attrs.validators.ge(low),
        attrs.validators.le(high),
    ]


@attrs.frozen(kw_only=True)
class AvroOptions:
    """Bounds of the containers that are read or written.

    ``max_bytes`` bounds a container with its schema. ``max_depth`` bounds the nesting of types in a schema
    (the envelope is level 1), and that of a JSON value inside of an event.
    """

    max_bytes: int = attrs.field(default=1 << 20, validator=_whole(1024, 1 << 30))
    max_depth: int = attrs.field(default=64, validator=_whole(4, 100))
