"""Makes the probe that belongs to options. Each is imported only where it is built."""

from __future__ import annotations

from typing import TypeAlias

from bus_core import BuildContext, HealthProbe
from promenade_bus_health.config import (
    ClockOptions,
    ConsumptionOptions,
    DeadLetterOptions,
    EngineOptions,
    EventLoopOptions,
    LossOptions,
    QuarantineOptions,
    RetryOptions,
)

__all__ = ["Options", "build_probe"]

Options: TypeAlias = (
    EventLoopOptions
    | EngineOptions
    | DeadLetterOptions
    | ConsumptionOptions
    | LossOptions
    | RetryOptions
    | QuarantineOptions
    | ClockOptions
)


def build_probe(options: Options, context: BuildContext) -> HealthProbe:
    """The probe of these options."""
    match options:
        case EventLoopOptions():
            from promenade_bus_health.event_loop import EventLoopProbe

            return EventLoopProbe(options, context.clock)
        case EngineOptions():
            from promenade_bus_health.engine import EngineProbe

            return EngineProbe(options)
        case DeadLetterOptions():
            from promenade_bus_health.dead_letters import DeadLetterProbe

            return DeadLetterProbe(options, context.clock, context.adapter)
        case ConsumptionOptions():
            from promenade_bus_health.consumption import ConsumptionProbe

            return ConsumptionProbe(options, context.service, context.clock, context.adapter)
        case LossOptions():
            from promenade_bus_health.losses import LossProbe

            return LossProbe(options, context.clock)
        case RetryOptions():
            from promenade_bus_health.retries import RetryProbe

            return RetryProbe(options)
        case QuarantineOptions():
            from promenade_bus_health.quarantined import QuarantineProbe

            return QuarantineProbe(options, context.quarantined)
        case ClockOptions():
            from promenade_bus_health.clock import ClockProbe

            return ClockProbe(options, context.clock)
