"""Middleware of Promenade Bus. The options of each are in ``promenade_bus_middleware.config``."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import Factory, Middleware, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_middleware.config import LoggingOptions, TimeoutOptions
    from promenade_bus_middleware.correlation import (
        CorrelationFilter,
        causation_id,
        correlated,
        correlation_id,
    )
else:  # no __dir__: the bus looks for hooks among the names in dir()
    __getattr__, _ = on_demand.names(
        __name__,
        {
            "config": "LoggingOptions TimeoutOptions",
            "correlation": "CorrelationFilter causation_id correlated correlation_id",
        },
    )

__all__ = ["CorrelationFilter", "LoggingOptions", "TimeoutOptions", "causation_id", "correlated"]
__all__ += ["correlation_id", "promenade_bus_middleware"]


@hookimpl
def promenade_bus_middleware() -> Mapping[str, Factory[typing.Any, Middleware]]:
    """Returns the middleware of this distribution by name."""
    from promenade_bus_middleware.offers import MIDDLEWARE

    return MIDDLEWARE
