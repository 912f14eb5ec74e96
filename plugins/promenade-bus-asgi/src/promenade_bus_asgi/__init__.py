"""Promenade Bus in applications of Starlette and FastAPI: a lifespan, a dependency, mounted applications."""

import typing
from collections.abc import Mapping

from bus_core import Endpoint, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_asgi.finding import bus_of, get_bus
    from promenade_bus_asgi.lifespan import bus_lifespan
    from promenade_bus_asgi.mounting import bus_app
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(
        __name__, {"finding": "bus_of get_bus", "lifespan": "bus_lifespan", "mounting": "bus_app"}
    )

__all__ = ["bus_app", "bus_lifespan", "bus_of", "get_bus", "promenade_bus_endpoints"]


@hookimpl
def promenade_bus_endpoints() -> Mapping[str, Endpoint]:
    """Offers nothing to select. ``plugins list`` shows the version, ``doctor`` compares it with the core."""
    return {}
