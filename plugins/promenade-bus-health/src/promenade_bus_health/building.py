"""Makes the probe that belongs to options. Each is imported only where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from bus_core import BuildContext, Factory, HealthProbe
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

__all__ = ["FACTORIES", "Options", "build_probe"]

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


FACTORIES: Final[Mapping[str, Factory[Any, HealthProbe]]] = {
    "event-loop": Factory(EventLoopOptions, build_probe),
    "engine": Factory(EngineOptions, build_probe),
    "dead-letters": Factory(DeadLetterOptions, build_probe),
    "consumption": Factory(ConsumptionOptions, build_probe),
    "losses": Factory(LossOptions, build_probe),
    "retries": Factory(RetryOptions, build_probe),
    "quarantined-plugins": Factory(QuarantineOptions, build_probe),
    "clock": Factory(ClockOptions, build_probe),
}
"""The probes by name."""
