"""The factories of the middleware, by name. The middleware itself is imported when one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bus_core import BuildContext, Factory, Middleware, Store
from promenade_bus_middleware.config import (
    CircuitBreakerOptions,
    CorrelationOptions,
    ExpiryOptions,
    IdempotencyOptions,
    LoggingOptions,
    MemoryStoreOptions,
    RateLimitOptions,
    TimeoutOptions,
)

__all__ = ["MIDDLEWARE", "STORES"]


def _build(options: Any, context: BuildContext) -> Middleware:
    from promenade_bus_middleware.building import build_middleware

    return build_middleware(options, context)


def _build_store(options: MemoryStoreOptions, context: BuildContext) -> Store:
    from promenade_bus_middleware.memory_store import MemoryStore

    return MemoryStore(options, context.clock)


MIDDLEWARE: Final[Mapping[str, Factory[Any, Middleware]]] = {
    "logging": Factory(options=LoggingOptions, build=_build),
    "timeout": Factory(options=TimeoutOptions, build=_build),
    "correlation": Factory(options=CorrelationOptions, build=_build),
    "expiry": Factory(options=ExpiryOptions, build=_build),
    "idempotency": Factory(options=IdempotencyOptions, build=_build, stores=("store",), chains=("consume",)),
    "circuit-breaker": Factory(options=CircuitBreakerOptions, build=_build, chains=("consume",)),
    "rate-limit": Factory(options=RateLimitOptions, build=_build, stores=("store",), chains=("consume",)),
}

STORES: Final[Mapping[str, Factory[Any, Store]]] = {
    "memory": Factory(options=MemoryStoreOptions, build=_build_store),
}
