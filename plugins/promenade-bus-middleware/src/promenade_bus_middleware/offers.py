"""The factories of the middleware, by name, and the rules for their order in a chain.

The middleware itself is imported when one is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bus_core import BuildContext, ChainRule, Factory, Middleware, Store
from promenade_bus_middleware.config import (
    CircuitBreakerOptions,
    CorrelationOptions,
    ExpiryOptions,
    IdempotencyOptions,
    LoggingOptions,
    MemoryStoreOptions,
    RateLimitOptions,
    RedactOptions,
    TimeoutOptions,
    ValidateOptions,
)

__all__ = ["MIDDLEWARE", "STORES"]


def _build(options: Any, context: BuildContext) -> Middleware:
    from promenade_bus_middleware.building import build_middleware

    return build_middleware(options, context)


def _build_store(options: MemoryStoreOptions, context: BuildContext) -> Store:
    from promenade_bus_middleware.memory_store import MemoryStore

    return MemoryStore(options, context.clock)


_LOGGING_RULES: Final = (
    ChainRule(
        other="limits time", never="outside", because="an attempt that is too slow is logged as cancelled"
    ),
    ChainRule(other="skips", never="outside", because="events that it skips are not logged"),
    ChainRule(other="postpones", never="outside", because="events that it postpones are not logged"),
)

_CORRELATION_RULES: Final = (
    ChainRule(
        other="correlation", never="missing", because="one chain reads the ids, and the other one writes them"
    ),
    ChainRule(other="logs", never="outside", because="its records have no correlation id", chain="consume"),
)

_EXPIRY_RULES: Final = (
    ChainRule(other="marks", never="outside", because="expired events are marked as handled"),
)

_IDEMPOTENCY_RULES: Final = (
    ChainRule(
        other="limits time",
        never="outside",
        because="the time limit can cancel the mark of an event that was handled",
    ),
)

_CIRCUIT_RULES: Final = (
    ChainRule(
        other="limits time",
        never="outside",
        because="it cancels slow attempts, and a cancelled attempt does not count as a failure",
    ),
    ChainRule(
        other="skips",
        never="inside",
        because="a skipped event counts as a success, and closes the circuit without a call of the handler",
    ),
)

_RATE_RULES: Final = (
    ChainRule(
        other="limits time",
        never="outside",
        because="the time limit includes the store, so that a slow store fails attempts",
    ),
    ChainRule(other="skips", never="inside", because="events that it skips use up tokens"),
    ChainRule(other="postpones", never="inside", because="events that it postpones use up tokens"),
    ChainRule(other="refuses", never="inside", because="events that it refuses use up tokens"),
)

_VALIDATE_RULES: Final = (
    ChainRule(
        other="masks", never="inside", because="what it checks is not what is published", chain="publish"
    ),
)

_REDACT_RULES: Final = (
    ChainRule(other="logs", never="outside", because="events that do not come this far are logged unmasked"),
)

MIDDLEWARE: Final[Mapping[str, Factory[Any, Middleware]]] = {
    "logging": Factory(LoggingOptions, _build, does=frozenset({"logs"}), rules=_LOGGING_RULES),
    "timeout": Factory(TimeoutOptions, _build, does=frozenset({"limits time"})),
    "correlation": Factory(CorrelationOptions, _build, rules=_CORRELATION_RULES),
    "expiry": Factory(ExpiryOptions, _build, does=frozenset({"skips"}), rules=_EXPIRY_RULES),
    "idempotency": Factory(
        IdempotencyOptions,
        _build,
        stores=("store",),
        chains=("consume",),
        does=frozenset({"skips", "postpones", "marks"}),
        rules=_IDEMPOTENCY_RULES,
    ),
    "circuit-breaker": Factory(
        CircuitBreakerOptions,
        _build,
        chains=("consume",),
        does=frozenset({"postpones"}),
        rules=_CIRCUIT_RULES,
    ),
    "rate-limit": Factory(
        RateLimitOptions,
        _build,
        stores=("store",),
        chains=("consume",),
        does=frozenset({"postpones"}),
        rules=_RATE_RULES,
    ),
    "validate": Factory(ValidateOptions, _build, does=frozenset({"refuses"}), rules=_VALIDATE_RULES),
    "redact": Factory(RedactOptions, _build, does=frozenset({"masks"}), rules=_REDACT_RULES),
}

STORES: Final[Mapping[str, Factory[Any, Store]]] = {
    "memory": Factory(options=MemoryStoreOptions, build=_build_store),
}
