"""Middleware chains: composed once per subscription or topic, then called like a single handler."""

from __future__ import annotations

from collections.abc import Sequence

from bus_core.abc import Handler, Middleware

__all__ = ["compose"]


def compose(middlewares: Sequence[Middleware], endpoint: Handler) -> Handler:
    """Wraps ``endpoint``; the first middleware becomes the outermost.

    Without middleware it returns the endpoint itself, so an empty chain costs nothing.
    """
    handler = endpoint
    for middleware in reversed(middlewares):
        handler = middleware(handler)
    return handler
