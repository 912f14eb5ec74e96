"""The Redis adapter of Promenade Bus: events outlive the process and are shared by all instances."""

from collections.abc import Iterable, Mapping
from typing import Any

from bus_core import Adapter, BuildContext, Factory, UnsupportedFeature, hookimpl
from promenade_bus_redis.config import RedisOptions

__all__ = ["RedisOptions", "promenade_bus_adapters"]


def _build(options: RedisOptions, context: BuildContext) -> Adapter:
    if options.mode == "pubsub":
        raise UnsupportedFeature("redis", ["mode: pubsub is not there yet; use mode: streams"])
    from promenade_bus_redis.adapter import StreamsAdapter

    return StreamsAdapter(options, context)


def _check(options: RedisOptions | None, sections: Mapping[str, Any]) -> Iterable[str]:
    from promenade_bus_redis.target import check_options

    return check_options(options, sections)


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[Any, Adapter]]:
    """Offers ``redis``."""
    return {"redis": Factory(options=RedisOptions, build=_build, sections=("database.redis",), check=_check)}
