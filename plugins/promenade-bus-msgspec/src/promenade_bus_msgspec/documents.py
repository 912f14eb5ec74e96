"""The envelope of CloudEvents as msgspec is told it, and the parts of it that are the same for all events."""

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
"""Larger ones are bounded by max_digits, of which msgspec does not know."""


class Unlike(TypeError):
    """Something that msgspec may write, or read, unlike the built-in serializer."""


encode: Final = msgspec.json.Encoder().encode
_decode_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode


def generic(kind: Any, *arguments: Any) -> Any:
    """``kind[arguments]``, of what type checkers do not look at."""
    return kind[arguments]


def document_class(event_type: Any, subject: Any, data: Any) -> Any:
    """The attributes in the order in which the built-in serializer writes them."""
    return msgspec.defstruct(
        "Document",
        [
            ("specversion", Literal["1.0"]),
            ("type", event_type),
            ("source", Annotated[str, msgspec.Meta(min_length=1)]),
            ("topic", str),
            ("dataversion", int),
            ("datacontenttype", Literal["application/json"]),
            ("id", UUID),
            ("subject", subject),
            ("time", datetime),
            ("metadata", str | UnsetType, UNSET),
            ("data", generic(Union, data, UnsetType), UNSET),
        ],
        gc=False,
    )


def in_utc(value: datetime) -> datetime:
    """The value, if it is in UTC; raises ``Unlike``."""
    if value.tzinfo is not UTC:
        raise Unlike("a time in another zone")
    return value


def bounded_int(value: int) -> int:
    """The value, if it has 64 bits; raises ``Unlike``."""
    if not -LARGEST_INT - 1 <= value <= LARGEST_INT:
        raise Unlike("a large int")
    return value


def write_metadata(metadata: Mapping[str, str]) -> str:
    """The text of metadata, which is left out where there is none."""
    return encode(metadata).decode()


def read_metadata(text: str) -> Mapping[str, str]:
    """The metadata, where the text is exactly what would be written for it; raises ``Unlike``."""
    metadata = _decode_metadata(text)
    if encode(metadata).decode() != text:
        raise Unlike("metadata in another form")
    return FrozenMapping(metadata)
