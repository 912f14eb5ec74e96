"""The context of a trace in the headers of a message, as the CloudEvents extension for distributed tracing.

``traceparent`` and ``tracestate`` are W3C Trace Context, and are written and read here rather than by the
propagator that is configured: the names belong to the format of the event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from bus_core import Envelope

__all__ = ["TRACEPARENT", "TRACESTATE", "context_of", "inject", "read_context"]

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_is_parent: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?").fullmatch
"""The version, the ids, the flags, and additions of a later version."""

_LENGTH: Final = 55
_FLAGS: Final = tuple(map(TraceFlags, range(256)))


def inject(context: SpanContext, headers: MutableMapping[str, str]) -> None:
    """Writes the context into headers."""
    headers[TRACEPARENT] = (
        f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"
    )
    if context.trace_state:
        headers[TRACESTATE] = context.trace_state.to_header()


def context_of(envelope: Envelope) -> SpanContext | None:
    """The context of the span that created the event; None without one, or if it cannot be read.

    A foreign publisher has it in the attributes of the CloudEvent instead of headers.
    """
    headers = envelope.headers
    if TRACEPARENT in headers:
        return read_context(headers)
    body = None if envelope.delivery is None else envelope.delivery.body
    if body is None or b'"traceparent"' not in body:
        return None
    return read_context(_attributes_of(body))


def _attributes_of(body: bytes) -> Mapping[str, Any]:
    """The attributes of a CloudEvent in JSON; nothing for other formats."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def read_context(headers: Mapping[str, Any]) -> SpanContext | None:
    """The context in headers or attributes; None where it cannot be read."""
    parent, state = headers.get(TRACEPARENT), headers.get(TRACESTATE)
    if not isinstance(parent, str) or not _is_parent(parent) or parent[:2] == "ff":
        return None
    if len(parent) > _LENGTH and parent[:2] == "00":
        return None
    context = SpanContext(
        int(parent[3:35], 16),
        int(parent[36:52], 16),
        True,
        _FLAGS[int(parent[53:55], 16)],
        TraceState.from_header([state]) if isinstance(state, str) else None,
    )
    return context if context.is_valid else None
