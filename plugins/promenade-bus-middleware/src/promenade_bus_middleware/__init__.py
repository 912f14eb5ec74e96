"""Middleware of Promenade Bus. The options of each are in ``promenade_bus_middleware.config``."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import Factory, Middleware, Store, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_middleware.correlation import (
        CorrelationFilter,
        causation_id,
        correlated,
        correlation_id,
    )
else:  # no __dir__: the bus looks for hooks among the names in dir()
    __getattr__, _ = on_demand.names(
        __name__, {"correlation": "CorrelationFilter causation_id correlated correlation_id"}
    )

__all__ = ["CorrelationFilter", "causation_id", "correlated", "correlation_id"]
__all__ += ["promenade_bus_middleware", "promenade_bus_stores"]


@hookimpl
def promenade_bus_middleware() -> Mapping[str, Factory[typing.Any, Middleware]]:
    """Returns the middleware of this distribution by name."""
    from promenade_bus_middleware.offers import MIDDLEWARE

    return MIDDLEWARE


@hookimpl
def promenade_bus_stores() -> Mapping[str, Factory[typing.Any, Store]]:
    """Returns the store ``memory``."""
    from promenade_bus_middleware.offers import STORES

    return STORES
