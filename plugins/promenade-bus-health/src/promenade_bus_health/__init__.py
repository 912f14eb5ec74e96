"""Health probes of Promenade Bus: ``event-loop`` and ``engine``."""

from collections.abc import Mapping
from typing import Any

from bus_core import BuildContext, Factory, HealthProbe, hookimpl
from promenade_bus_health.config import EngineOptions, EventLoopOptions

__all__ = ["EngineOptions", "EventLoopOptions", "promenade_bus_health_probes"]


def _build_event_loop(options: EventLoopOptions, context: BuildContext) -> HealthProbe:
    from promenade_bus_health.event_loop import EventLoopProbe

    return EventLoopProbe(options, context.clock)


def _build_engine(options: EngineOptions, _context: BuildContext) -> HealthProbe:
    from promenade_bus_health.engine import EngineProbe

    return EngineProbe(options)


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[Any, HealthProbe]]:
    """Offers ``event-loop`` and ``engine``."""
    return {
        "event-loop": Factory(options=EventLoopOptions, build=_build_event_loop),
        "engine": Factory(options=EngineOptions, build=_build_engine),
    }
