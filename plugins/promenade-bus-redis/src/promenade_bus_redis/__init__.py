"""The Redis adapter of Promenade Bus: events outlive the process and are shared by all instances."""

from typing import Any

from bus_core import Adapter, Command, Factory, HealthProbe, Store, hookimpl

__all__ = ["promenade_bus_adapters", "promenade_bus_commands", "promenade_bus_health_probes"]
__all__ += ["promenade_bus_stores"]


@hookimpl
def promenade_bus_adapters() -> dict[str, Factory[Any, Adapter]]:
    """Offers ``redis``."""
    from promenade_bus_redis.factories import ADAPTER

    return {"redis": ADAPTER}


@hookimpl
def promenade_bus_health_probes() -> dict[str, Factory[Any, HealthProbe]]:
    """Offers ``redis``."""
    from promenade_bus_redis.factories import PROBE

    return {"redis": PROBE}


@hookimpl
def promenade_bus_commands() -> dict[str, Command]:
    """Returns the command ``promenade-bus groups``."""
    from promenade_bus_redis.groups_command import GROUPS

    return {"groups": GROUPS}


@hookimpl
def promenade_bus_stores() -> dict[str, Factory[Any, Store]]:
    """Offers ``redis``."""
    from promenade_bus_redis.factories import STORE

    return {"redis": STORE}
