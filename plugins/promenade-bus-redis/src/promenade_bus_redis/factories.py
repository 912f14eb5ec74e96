"""How the parts are made. What they need is imported when one is made, not when plugins are looked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bus_core import Adapter, BuildContext, HealthProbe
from promenade_bus_redis.config import ProbeOptions, RedisOptions

__all__ = ["build_adapter", "build_probe", "check", "load_groups_command"]


def build_adapter(options: RedisOptions, context: BuildContext) -> Adapter:
    """The adapter for the mode."""
    if options.mode == "pubsub":
        from promenade_bus_redis.pubsub.adapter import PubsubAdapter

        return PubsubAdapter(options, context)
    from promenade_bus_redis.streams.adapter import StreamsAdapter

    return StreamsAdapter(options, context)


def check(options: RedisOptions | None, sections: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with options that are sound one by one, and with the section of the application."""
    from promenade_bus_redis.server.target import check_options

    return check_options(options, sections)


def build_probe(options: ProbeOptions, context: BuildContext) -> HealthProbe:
    """The health probe for the adapter of the bus."""
    from promenade_bus_redis.health import RedisProbe

    return RedisProbe(options, context.adapter)


def load_groups_command() -> Any:
    """The command ``groups``."""
    from promenade_bus_redis.groups_command import groups_command

    return groups_command()
