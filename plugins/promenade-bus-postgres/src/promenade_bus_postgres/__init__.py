"""The PostgreSQL adapter of Promenade Bus: durable events in a database that any number of machines share."""

from collections.abc import Mapping
from typing import Any

from bus_core import Adapter, Command, Factory, HealthProbe, hookimpl

__all__ = ["promenade_bus_adapters", "promenade_bus_commands", "promenade_bus_health_probes"]


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[Any, Adapter]]:
    """Offers ``postgres``."""
    from promenade_bus_postgres.factories import ADAPTER

    return {"postgres": ADAPTER}


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[Any, HealthProbe]]:
    """Offers ``postgres``."""
    from promenade_bus_postgres.factories import PROBE

    return {"postgres": PROBE}


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Offers ``promenade-bus postgres``."""
    from promenade_bus_postgres.command import POSTGRES

    return {"postgres": POSTGRES}
