"""Reads attributes of an event: headers of the message, or extensions of a CloudEvent.

Publishers of this bus write them as headers. Publishers of another kind write them into the CloudEvent.
"""

from __future__ import annotations

import json
from typing import Any

from bus_core import Envelope

__all__ = ["attribute_of"]


def attribute_of(envelope: Envelope, name: str) -> str | None:
    """The text of an attribute of an event that is published or handled; None without one."""
    found = envelope.headers.get(name)
    if found is not None:
        return found
    body = None if envelope.delivery is None else envelope.delivery.body
    if body is None or f'"{name}"'.encode() not in body:
        return None
    value = _document(body).get(name)
    return value if isinstance(value, str) else None


def _document(body: bytes) -> dict[str, Any]:
    """A CloudEvent in JSON; empty for other formats. The serializer has bounded and read it before."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
