"""How the parts are made. What they need is imported when one is made, not when plugins are looked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bus_core import Adapter, BuildContext, Factory, HealthProbe
from promenade_bus_redis.config import ProbeOptions, RedisOptions

__all__ = ["ADAPTER", "PROBE"]


def _build_adapter(options: RedisOptions, context: BuildContext) -> Adapter:
    """The adapter for the mode."""
    if options.mode == "pubsub":
        from promenade_bus_redis.pubsub.adapter import PubsubAdapter

        return PubsubAdapter(options, context)
    from promenade_bus_redis.streams.adapter import StreamsAdapter

    return StreamsAdapter(options, context)


def _check(options: RedisOptions | None, sections: Mapping[str, Any]) -> Iterable[str]:
    """Returns faults in combinations of options, and in the section of the application."""
    from promenade_bus_redis.server.target import check_options

    return check_options(options, sections)


def _build_probe(options: ProbeOptions, context: BuildContext) -> HealthProbe:
    """The health probe for the adapter of the bus."""
    from promenade_bus_redis.health import RedisProbe

    return RedisProbe(options, context.adapter)


ADAPTER: Final[Factory[RedisOptions, Adapter]] = Factory(
    options=RedisOptions, build=_build_adapter, sections=("database.redis",), check=_check
)
"""The adapter ``redis``."""

PROBE: Final[Factory[ProbeOptions, HealthProbe]] = Factory(options=ProbeOptions, build=_build_probe)
"""The health probe ``redis``."""
