"""Health probes of Promenade Bus: ``event-loop`` and ``engine``."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, HealthProbe, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_health.config import EngineOptions, EventLoopOptions
else:  # no __dir__: the bus looks for hooks among the names in dir()
    __getattr__, _ = on_demand.names(__name__, {"config": "EngineOptions EventLoopOptions"})

__all__ = ["EngineOptions", "EventLoopOptions", "promenade_bus_health_probes"]


def _build_event_loop(options: EventLoopOptions, context: BuildContext) -> HealthProbe:
    from promenade_bus_health.event_loop import EventLoopProbe

    return EventLoopProbe(options, context.clock)


def _build_engine(options: EngineOptions, _context: BuildContext) -> HealthProbe:
    from promenade_bus_health.engine import EngineProbe

    return EngineProbe(options)


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[typing.Any, HealthProbe]]:
    """Returns the health probes ``event-loop`` and ``engine``."""
    from promenade_bus_health.config import EngineOptions, EventLoopOptions

    loop = Factory(options=EventLoopOptions, build=_build_event_loop)
    return {"event-loop": loop, "engine": Factory(options=EngineOptions, build=_build_engine)}
