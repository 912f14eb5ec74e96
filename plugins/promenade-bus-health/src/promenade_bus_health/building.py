"""Makes the probe that belongs to options. Each is imported only where it is built."""

from __future__ import annotations

from bus_core import BuildContext, HealthProbe
from promenade_bus_health.config import DeadLetterOptions, EngineOptions, EventLoopOptions

__all__ = ["build_probe"]


def build_probe(
    options: EventLoopOptions | EngineOptions | DeadLetterOptions, context: BuildContext
) -> HealthProbe:
    """The probe of these options."""
    if isinstance(options, EventLoopOptions):
        from promenade_bus_health.event_loop import EventLoopProbe

        return EventLoopProbe(options, context.clock)
    if isinstance(options, EngineOptions):
        from promenade_bus_health.engine import EngineProbe

        return EngineProbe(options)
    from promenade_bus_health.dead_letters import DeadLetterProbe

    return DeadLetterProbe(options, context.clock, context.adapter)
