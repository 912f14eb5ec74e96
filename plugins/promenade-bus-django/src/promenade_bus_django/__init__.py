"""Promenade Bus in Django projects; list ``promenade_bus_django`` in ``INSTALLED_APPS``."""

import typing
from collections.abc import Mapping

from bus_core import Factory, HealthProbe, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_django.facade import DjangoBus, bus
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(__name__, {"facade": "DjangoBus bus"})

__all__ = ["DjangoBus", "bus", "promenade_bus_health_probes"]


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[typing.Any, HealthProbe]]:
    """Offers ``django``."""
    from promenade_bus_django.health import PROBE

    return {"django": PROBE}
