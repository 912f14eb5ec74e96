"""The factories of the middleware, by name. The middleware itself is imported when one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bus_core import BuildContext, Factory, Middleware
from promenade_bus_middleware.config import (
    CorrelationOptions,
    ExpiryOptions,
    LoggingOptions,
    TimeoutOptions,
)

__all__ = ["MIDDLEWARE"]


def _build(options: Any, context: BuildContext) -> Middleware:
    from promenade_bus_middleware.building import build_middleware

    return build_middleware(options, context)


MIDDLEWARE: Final[Mapping[str, Factory[Any, Middleware]]] = {
    "logging": Factory(options=LoggingOptions, build=_build),
    "timeout": Factory(options=TimeoutOptions, build=_build),
    "correlation": Factory(options=CorrelationOptions, build=_build),
    "expiry": Factory(options=ExpiryOptions, build=_build),
}
