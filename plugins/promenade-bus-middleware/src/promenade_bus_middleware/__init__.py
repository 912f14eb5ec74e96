"""Middleware of Promenade Bus: ``logging`` and ``timeout``."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, Middleware, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_middleware.config import LoggingOptions, TimeoutOptions
else:  # no __dir__: the bus looks for hooks among the names in dir()
    __getattr__, _ = on_demand.names(__name__, {"config": "LoggingOptions TimeoutOptions"})

__all__ = ["LoggingOptions", "TimeoutOptions", "promenade_bus_middleware"]


def _build_logging(options: LoggingOptions, context: BuildContext) -> Middleware:
    from promenade_bus_middleware.log import logging_middleware

    return logging_middleware(options, context.clock)


def _build_timeout(options: TimeoutOptions, context: BuildContext) -> Middleware:
    from promenade_bus_middleware.timeout import timeout_middleware

    return timeout_middleware(options, context.clock)


@hookimpl
def promenade_bus_middleware() -> Mapping[str, Factory[typing.Any, Middleware]]:
    """Returns the middleware ``logging`` and ``timeout``."""
    from promenade_bus_middleware.config import LoggingOptions, TimeoutOptions

    log = Factory(options=LoggingOptions, build=_build_logging)
    return {"logging": log, "timeout": Factory(options=TimeoutOptions, build=_build_timeout)}
