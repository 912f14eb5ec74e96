"""The SQLite adapter of Promenade Bus: durable events in one file that the processes of a machine share."""

from collections.abc import Mapping
from typing import Any

from bus_core import Adapter, Command, Factory, HealthProbe, hookimpl

__all__ = ["promenade_bus_adapters", "promenade_bus_commands", "promenade_bus_health_probes"]


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[Any, Adapter]]:
    """Offers ``sqlite``."""
    from promenade_bus_sqlite.factories import ADAPTER

    return {"sqlite": ADAPTER}


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[Any, HealthProbe]]:
    """Offers ``sqlite``."""
    from promenade_bus_sqlite.factories import PROBE

    return {"sqlite": PROBE}


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Offers ``promenade-bus sqlite``."""
    from promenade_bus_sqlite.command import SQLITE

    return {"sqlite": SQLITE}
