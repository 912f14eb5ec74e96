"""Middleware of Promenade Bus: ``logging`` and ``timeout``."""

from collections.abc import Mapping
from typing import Any

from bus_core import BuildContext, Factory, Middleware, hookimpl
from promenade_bus_middleware.config import LoggingOptions, TimeoutOptions

__all__ = ["LoggingOptions", "TimeoutOptions", "promenade_bus_middleware"]


def _build_logging(options: LoggingOptions, context: BuildContext) -> Middleware:
    from promenade_bus_middleware.log import logging_middleware

    return logging_middleware(options, context.clock)


def _build_timeout(options: TimeoutOptions, context: BuildContext) -> Middleware:
    from promenade_bus_middleware.timeout import timeout_middleware

    return timeout_middleware(options, context.clock)


@hookimpl
def promenade_bus_middleware() -> Mapping[str, Factory[Any, Middleware]]:
    """Offers ``logging`` and ``timeout``."""
    return {
        "logging": Factory(options=LoggingOptions, build=_build_logging),
        "timeout": Factory(options=TimeoutOptions, build=_build_timeout),
    }
