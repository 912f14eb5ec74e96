"""Health probes of Promenade Bus: for the event loop, the engine, and what may go wrong with events."""

import typing
from collections.abc import Mapping

from bus_core import Factory, HealthProbe, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_health.config import ClockOptions as ClockOptions
    from promenade_bus_health.config import ConsumptionOptions as ConsumptionOptions
    from promenade_bus_health.config import DeadLetterOptions as DeadLetterOptions
    from promenade_bus_health.config import EngineOptions as EngineOptions
    from promenade_bus_health.config import EventLoopOptions as EventLoopOptions
    from promenade_bus_health.config import LossOptions as LossOptions
    from promenade_bus_health.config import QuarantineOptions as QuarantineOptions
    from promenade_bus_health.config import RetryOptions as RetryOptions
else:  # no __dir__: the bus looks for hooks among the names in dir()
    __getattr__, _ = on_demand.names(
        __name__,
        {
            "config": "ClockOptions ConsumptionOptions DeadLetterOptions EngineOptions EventLoopOptions "
            "LossOptions QuarantineOptions RetryOptions"
        },
    )

__all__ = ["ClockOptions", "ConsumptionOptions", "DeadLetterOptions", "EngineOptions", "EventLoopOptions"]
__all__ += ["LossOptions", "QuarantineOptions", "RetryOptions", "promenade_bus_health_probes"]


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[typing.Any, HealthProbe]]:
    """Returns the health probes."""
    from promenade_bus_health.building import FACTORIES

    return FACTORIES
