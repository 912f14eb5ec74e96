"""The Redis adapter of Promenade Bus: events outlive the process and are shared by all instances."""

from collections.abc import Mapping
from typing import Any

from bus_core import Adapter, Command, Factory, HealthProbe, hookimpl
from promenade_bus_redis import factories
from promenade_bus_redis.config import ProbeOptions, RedisOptions

__all__ = [
    "ProbeOptions",
    "RedisOptions",
    "promenade_bus_adapters",
    "promenade_bus_commands",
    "promenade_bus_health_probes",
]


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[Any, Adapter]]:
    """Offers ``redis``."""
    sections = ("database.redis",)
    build, check = factories.build_adapter, factories.check
    return {"redis": Factory(options=RedisOptions, build=build, sections=sections, check=check)}


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[Any, HealthProbe]]:
    """Offers ``redis``."""
    return {"redis": Factory(options=ProbeOptions, build=factories.build_probe)}


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Offers ``promenade-bus groups``."""
    about = "List what a Redis server keeps events for, and forget what nobody wants any more."
    return {"groups": Command(help=about, load=factories.load_groups_command)}
