"""Correlation and causation ids, which follow events through the handlers that publish further ones.

The ids are the headers ``correlationid`` and ``causationid``, named like extension attributes of CloudEvents.
All events that a first one has caused have one correlation id. The causation id is the id of the event whose
handler published the event.

Guarantees. There is no state, so a killed process loses nothing: the ids are stored with the event. A
redelivery, a retry and a redrive have the same ids, and so have the events that the handler publishes again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from bus_core import Envelope, Handler, Middleware
from promenade_bus_middleware.attributes import attribute_of
from promenade_bus_middleware.config import CorrelationOptions

__all__ = [
    "LONGEST",
    "CorrelationFilter",
    "causation_id",
    "correlated",
    "correlation_id",
    "correlation_middleware",
]

LONGEST: Final = 256
"""The most characters of an id from outside: it is copied into each event that follows."""

_current: ContextVar[tuple[str, str | None] | None] = ContextVar("promenade_bus_correlation", default=None)
"""The correlation id, and the id of the event that is being handled."""


def correlation_id() -> str | None:
    """The correlation id of the running handler, or of the block ``correlated``; None outside of both."""
    current = _current.get()
    return None if current is None else current[0]


def causation_id() -> str | None:
    """The id of the event that the running handler handles: the causation id of what it publishes."""
    current = _current.get()
    return None if current is None else current[1]


@contextmanager
def correlated(correlation: str) -> Iterator[None]:
    """Gives events published in the block a correlation id, such as the id of a web request.

    Raises ``ValueError`` for an id that is empty, longer than 256 characters, or has unprintable ones.
    """
    if not _is_id(correlation):
        raise ValueError(f"a correlation id has 1 to {LONGEST} printable characters")
    token = _current.set((correlation, causation_id()))
    try:
        yield
    finally:
        _current.reset(token)


class CorrelationFilter(logging.Filter):
    """Gives log records the attributes ``correlation_id`` and ``causation_id``; ``-`` outside of handlers.

    Add it to a handler of ``logging``, and name the attributes in its format.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        correlation, causation = _current.get() or ("-", None)
        record.correlation_id = correlation
        record.causation_id = causation or "-"
        return True


def correlation_middleware(options: CorrelationOptions) -> Middleware:
    """Returns a middleware that reads the ids of handled events, and writes those of published ones.

    Use it in both chains. Ids given by the publisher are kept. An id from outside that is longer than 256
    characters, or has unprintable ones, counts as absent.
    """
    correlation_name, causation_name, begin = options.correlation, options.causation, options.begin

    def middleware(handler: Handler) -> Handler:
        async def with_ids(envelope: Envelope) -> None:
            event_id = str(envelope.event.event_id)
            if envelope.delivery is None:
                headers = envelope.headers
                correlation, causation = _current.get() or (event_id if begin else None, None)
                if correlation is not None:
                    headers.setdefault(correlation_name, correlation)
                if causation is not None:
                    headers.setdefault(causation_name, causation)
                await handler(envelope)
                return
            given = attribute_of(envelope, correlation_name)
            correlation = given if given is not None and _is_id(given) else event_id
            envelope.headers[correlation_name] = correlation
            token = _current.set((correlation, event_id))
            try:
                await handler(envelope)
            finally:
                _current.reset(token)

        return with_ids

    return middleware


def _is_id(text: str) -> bool:
    return 0 < len(text) <= LONGEST and text.isprintable()
