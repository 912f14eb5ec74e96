"""Middleware with counts and a health of its own: named, counted, and asked for health reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bus_core.abc import CheckResult, HealthStatus, Middleware, MiddlewareCount, WatchedMiddleware
from bus_core.events.primitives import FrozenMapping
from bus_core.runtime.error_text import describe_error

__all__ = ["checks_of", "counts_of", "watched_of"]


def watched_of(
    consume: Iterable[tuple[str, Middleware]], publish: Iterable[tuple[str, Middleware]]
) -> Mapping[str, WatchedMiddleware]:
    """The watched middleware of both chains by name.

    One of the publish chain is ``name (publish)``. A second one of the same name has a number.
    """
    found: dict[str, WatchedMiddleware] = {}
    named = [*consume, *((f"{name} (publish)", middleware) for name, middleware in publish)]
    for name, middleware in named:
        if isinstance(middleware, WatchedMiddleware):
            number, unique = 1, name
            while unique in found:
                number += 1
                unique = f"{name} {number}"
            found[unique] = middleware
    return FrozenMapping(found)


def counts_of(watched: Mapping[str, WatchedMiddleware]) -> tuple[MiddlewareCount, ...]:
    """The counts of all of them. One that raises has none; its check tells."""
    found: list[MiddlewareCount] = []
    for name, middleware in watched.items():
        try:
            counts = [*middleware.counts().items()]
        except Exception:
            continue
        for (subject, outcome), events in counts:
            found.append(MiddlewareCount(middleware=name, subject=subject, outcome=outcome, events=events))
    return tuple(found)


def checks_of(watched: Mapping[str, WatchedMiddleware]) -> Mapping[str, CheckResult]:
    """The checks of those that have one, as ``middleware <name>``."""
    found: dict[str, CheckResult] = {}
    for name, middleware in watched.items():
        try:
            middleware.counts()
            result = middleware.check()
        except Exception as error:
            result = CheckResult(
                HealthStatus.UNHEALTHY,
                f"it could not tell its health: {describe_error(error)}",
            )
        if result is not None:
            found[f"middleware {name}"] = result
    return found
