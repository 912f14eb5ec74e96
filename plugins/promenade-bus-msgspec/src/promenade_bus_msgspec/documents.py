"""The CloudEvents envelope as a msgspec struct, and the parts that all events share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Union
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from bus_core import FrozenMapping

__all__ = [
    "LARGEST_INT",
    "Unlike",
    "bounded_int",
    "document_class",
    "encode",
    "generic",
    "in_utc",
    "read_metadata",
    "write_metadata",
]

LARGEST_INT: Final = 2**63 - 1
"""Larger ints are subject to max_digits, which msgspec does not support."""


class Unlike(TypeError):
    """Raised where msgspec may encode or decode differently from the built-in serializer."""


encode: Final = msgspec.json.Encoder().encode
_decode_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode


def generic(kind: Any, *arguments: Any) -> Any:
    """Returns ``kind[arguments]`` at run time, hidden from type checkers."""
    return kind[arguments]


def document_class(event_type: Any, subject: Any, data: Any, *, untyped: bool = False) -> Any:
    """Makes a struct of the CloudEvents attributes, in the order of the built-in serializer.

    That of an ``untyped`` event takes keywords, and needs no ``dataversion``.
    """
    version: Any = ("dataversion", int | UnsetType, UNSET) if untyped else ("dataversion", int)
    return msgspec.defstruct(
        "Document",
        [
            ("specversion", Literal["1.0"]),
            ("type", event_type),
            ("source", Annotated[str, msgspec.Meta(min_length=1)]),
            ("topic", str),
            version,
            ("datacontenttype", Literal["application/json"]),
            ("id", UUID),
            ("subject", subject),
            ("time", datetime),
            ("metadata", str | UnsetType, UNSET),
            ("data", generic(Union, data, UnsetType), UNSET),
        ],
        gc=False,
        kw_only=untyped,
    )


def in_utc(value: datetime) -> datetime:
    """Returns the value if it is in UTC, else raises ``Unlike``."""
    if value.tzinfo is not UTC:
        raise Unlike("a time in another zone")
    return value


def bounded_int(value: int) -> int:
    """Returns the value if it fits into 64 bits, else raises ``Unlike``."""
    if not -LARGEST_INT - 1 <= value <= LARGEST_INT:
        raise Unlike("a large int")
    return value


def write_metadata(metadata: Mapping[str, str]) -> str:
    """Returns metadata as JSON text; called only if there is any."""
    return encode(metadata).decode()


def read_metadata(text: str) -> Mapping[str, str]:
    """Returns the metadata if the text is exactly its encoded form, else raises ``Unlike``."""
    metadata = _decode_metadata(text)
    if encode(metadata).decode() != text:
        raise Unlike("metadata in another form")
    return FrozenMapping(metadata)
