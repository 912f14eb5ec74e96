"""The plugin of the core: the serializer ``json`` and three retry policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from bus_core.abc import BuildContext, Factory, RetryPolicy, Serializer
from bus_core.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from bus_core.serialization.options import JsonOptions

__all__ = ["promenade_bus_retry_policies", "promenade_bus_serializers"]

P = TypeVar("P", bound=RetryPolicy)


def _build_json(options: JsonOptions, _context: BuildContext) -> Serializer:
    from bus_core.serialization.cloudevents import JsonSerializer

    return JsonSerializer(options)


def _as_it_is(policy: P, _context: BuildContext) -> P:
    """Returns the options, which are the policy."""
    return policy


@hookimpl
def promenade_bus_serializers() -> Mapping[str, Factory[Any, Serializer]]:
    """``json``: CloudEvents 1.0 in structured mode."""
    from bus_core.serialization.options import JsonOptions

    return {"json": Factory(options=JsonOptions, build=_build_json)}


@hookimpl
def promenade_bus_retry_policies() -> Mapping[str, Factory[Any, RetryPolicy]]:
    """``exponential``, ``fixed`` and ``none``."""
    from bus_core.retry import ExponentialRetry, FixedRetry, NoRetry

    return {
        "exponential": Factory(options=ExponentialRetry, build=_as_it_is),
        "fixed": Factory(options=FixedRetry, build=_as_it_is),
        "none": Factory(options=NoRetry, build=_as_it_is),
    }
