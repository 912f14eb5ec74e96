"""What the core itself offers, as a plugin like any other: the JSON serializer and three retry policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from bus_core.abc import BuildContext, Factory, RetryPolicy, Serializer
from bus_core.plugins.hookspecs import hookimpl
from bus_core.retry import ExponentialRetry, FixedRetry, NoRetry

__all__ = ["promenade_bus_retry_policies", "promenade_bus_serializers"]

P = TypeVar("P", bound=RetryPolicy)


def _as_it_is(policy: P, _context: BuildContext) -> P:
    """The options of a built-in policy are the policy."""
    return policy


@hookimpl
def promenade_bus_serializers() -> Mapping[str, Factory[Any, Serializer]]:
    """``json``: CloudEvents 1.0 in structured mode."""
    from bus_core.serialization.cloudevents import JSON_FACTORY

    return {"json": JSON_FACTORY}


@hookimpl
def promenade_bus_retry_policies() -> Mapping[str, Factory[Any, RetryPolicy]]:
    """``exponential``, ``fixed`` and ``none``."""
    return {
        "exponential": Factory(options=ExponentialRetry, build=_as_it_is),
        "fixed": Factory(options=FixedRetry, build=_as_it_is),
        "none": Factory(options=NoRetry, build=_as_it_is),
    }
