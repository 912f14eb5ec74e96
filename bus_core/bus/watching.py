"""Middleware and stores with a health of their own: named, counted, and asked for health reports."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from bus_core.abc import (
    CheckResult,
    EngineState,
    HealthProbe,
    HealthStatus,
    Middleware,
    MiddlewareCount,
    Store,
    WatchedMiddleware,
    WatchedStore,
)
from bus_core.events.primitives import FrozenMapping
from bus_core.runtime.error_text import describe_error

__all__ = ["checks_of", "counts_of", "store_checks", "watched_of"]


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
            found[_unique(name, found)] = middleware
    return FrozenMapping(found)


def store_checks(stores: Iterable[tuple[str, Store]]) -> Mapping[str, HealthProbe]:
    """The checks of those that have one, as ``store <name>``. A second one of the same name has a number."""
    found: dict[str, HealthProbe] = {}
    for name, store in stores:
        if isinstance(store, WatchedStore):
            found[_unique(f"store {name}", found)] = _StoreProbe(store)
    return FrozenMapping(found)


class _StoreProbe(HealthProbe):
    def __init__(self, store: WatchedStore) -> None:
        self._store = store

    async def check(self, state: EngineState) -> CheckResult:
        return await self._store.check()


def _unique(name: str, known: Container[str]) -> str:
    number, unique = 1, name
    while unique in known:
        number += 1
        unique = f"{name} {number}"
    return unique


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
