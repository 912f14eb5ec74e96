"""Metrics of Promenade Bus for Prometheus: the observer ``prometheus``."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, Observer, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_prometheus.config import PrometheusOptions
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(__name__, {"config": "PrometheusOptions"})

__all__ = ["PrometheusOptions", "promenade_bus_observers"]


def _build(options: PrometheusOptions, context: BuildContext) -> Observer:
    from promenade_bus_prometheus.observing import observer

    return observer(options, context.service)


@hookimpl
def promenade_bus_observers() -> Mapping[str, Factory[typing.Any, Observer]]:
    """Offers ``prometheus``."""
    from promenade_bus_prometheus.config import PrometheusOptions

    return {"prometheus": Factory(options=PrometheusOptions, build=_build)}
