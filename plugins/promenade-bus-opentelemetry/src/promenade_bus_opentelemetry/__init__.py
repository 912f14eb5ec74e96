"""Traces and metrics of Promenade Bus for OpenTelemetry: the observer ``opentelemetry``."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, Observer, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_opentelemetry.config import OpenTelemetryOptions
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(__name__, {"config": "OpenTelemetryOptions"})

__all__ = ["OpenTelemetryOptions", "promenade_bus_observers"]


def _build(options: OpenTelemetryOptions, context: BuildContext) -> Observer:
    from promenade_bus_opentelemetry.observing import observer

    return observer(options, context.service)


@hookimpl
def promenade_bus_observers() -> Mapping[str, Factory[typing.Any, Observer]]:
    """Offers ``opentelemetry``."""
    from promenade_bus_opentelemetry.config import OpenTelemetryOptions

    return {"opentelemetry": Factory(options=OpenTelemetryOptions, build=_build)}
