"""Health probes of Promenade Bus: ``event-loop``, ``engine`` and ``dead-letters``."""

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, HealthProbe, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_health.config import DeadLetterOptions, EngineOptions, EventLoopOptions
else:  # no __dir__: the bus looks for hooks among the names in dir()
    __getattr__, _ = on_demand.names(__name__, {"config": "DeadLetterOptions EngineOptions EventLoopOptions"})

__all__ = ["DeadLetterOptions", "EngineOptions", "EventLoopOptions", "promenade_bus_health_probes"]


def _build(options: typing.Any, context: BuildContext) -> HealthProbe:
    from promenade_bus_health.building import build_probe

    return build_probe(options, context)


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[typing.Any, HealthProbe]]:
    """Returns the health probes ``event-loop``, ``engine`` and ``dead-letters``."""
    from promenade_bus_health.config import DeadLetterOptions, EngineOptions, EventLoopOptions

    options = {"event-loop": EventLoopOptions, "engine": EngineOptions, "dead-letters": DeadLetterOptions}
    return {name: Factory(options=of_probe, build=_build) for name, of_probe in options.items()}
