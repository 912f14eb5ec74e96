"""Factories of the parts. Their imports happen when one is made, not at discovery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bus_core import Adapter, BuildContext, Factory, HealthProbe, Store
from promenade_bus_redis.config import ProbeOptions, RedisOptions, StoreOptions

__all__ = ["ADAPTER", "PROBE", "STORE"]


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


def _build_store(_options: StoreOptions, context: BuildContext) -> Store:
    """The store for middleware."""
    from promenade_bus_redis.store import RedisStore

    return RedisStore(context)


def _check_store(_options: StoreOptions | None, sections: Mapping[str, Any]) -> Iterable[str]:
    """Returns faults in the sections that name the server."""
    from promenade_bus_redis.store import store_faults

    return store_faults(sections)


ADAPTER: Final[Factory[RedisOptions, Adapter]] = Factory(
    options=RedisOptions, build=_build_adapter, sections=("database.redis",), check=_check
)
"""The adapter ``redis``."""

PROBE: Final[Factory[ProbeOptions, HealthProbe]] = Factory(options=ProbeOptions, build=_build_probe)
"""The health probe ``redis``."""

STORE: Final[Factory[StoreOptions, Store]] = Factory(
    options=StoreOptions, build=_build_store, sections=("bus.redis", "database.redis"), check=_check_store
)
"""The store ``redis``."""
