"""Avro object container files with one object: the header has the schema of the writer.

The layout is that of the Avro specification, "Object Container Files".
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any, Final

from fastavro import parse_schema, schemaless_reader, schemaless_writer

__all__ = ["NotAContainer", "header_of", "join", "split"]

_MAGIC: Final = b"Obj\x01"
_METADATA: Final[Any] = parse_schema({"type": "map", "values": "bytes"})
_SYNC_BYTES: Final = 16
_BLOCK: Final[Any] = parse_schema(
    {
        "type": "record",
        "name": "Block",
        "fields": [{"name": "count", "type": "long"}, {"name": "size", "type": "long"}],
    }
)


class NotAContainer(ValueError):
    """Bytes that are no container of one object. The text is the reason, and quotes nothing."""


def header_of(schema: bytes) -> bytes:
    """Returns the header for a schema.

    The sync marker is a hash of the schema, not random: the same event gives the same bytes.
    """
    out = BytesIO()
    out.write(_MAGIC)
    schemaless_writer(out, _METADATA, {"avro.codec": b"null", "avro.schema": schema})
    out.write(hashlib.sha256(schema).digest()[:_SYNC_BYTES])
    return out.getvalue()


def join(header: bytes, written: bytes) -> bytes:
    """Returns the container of one object that was written with the schema of the header."""
    return b"".join((header, _ONE, _long(len(written)), written, header[-_SYNC_BYTES:]))


def _long(number: int) -> bytes:
    """Returns a positive number as a ``long`` of Avro: seven bits a byte, the lowest first."""
    left, out = number << 1, bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes((*out, left))


_ONE: Final = _long(1)


def split(body: bytes) -> tuple[bytes, bytes]:
    """Returns the schema and the object of a container; raises ``NotAContainer`` for any other bytes."""
    if not body.startswith(_MAGIC):
        raise NotAContainer("it does not begin like an Avro container")
    source = BytesIO(body)
    source.seek(len(_MAGIC))
    try:
        metadata: Any = schemaless_reader(source, _METADATA, None)
        sync = source.read(_SYNC_BYTES)
        block: Any = schemaless_reader(source, _BLOCK, None)
    except Exception as error:
        raise NotAContainer(f"its header cannot be read ({type(error).__name__})") from None
    if metadata.get("avro.codec", b"null") != b"null":
        raise NotAContainer("it is compressed, which the bus does not support")
    start = source.tell()
    size = len(body) - start - _SYNC_BYTES
    if block != {"count": 1, "size": size} or body[start + size :] != sync:
        raise NotAContainer("it must have one block with one object")
    return metadata.get("avro.schema", b""), body[start : start + size]
