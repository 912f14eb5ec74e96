"""The events, and the two ways to the server: the bus, and redis-py by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bus_core import BuildContext, Bus, Serializer, open_bus
from bus_core.serialization import JsonOptions, JsonSerializer
from promenade_benchmarks.orders import ORDER_PLACED, OrderPlaced, order
from promenade_bus_msgspec import promenade_bus_serializers

__all__ = [
    "ORDER",
    "ORDER_PLACED",
    "SERIALIZERS",
    "OrderPlaced",
    "bus_on",
    "client_of",
    "fields_of",
    "order",
    "serializer_of",
]

SERIALIZERS = ("json", "msgspec")
"""The default one, and the fastest extra."""

_SOURCE = "benchmark"


ORDER = order("2025-000417")

_prefixes = count(1)


def bus_on(address: str, serializer: str = "json", *, prefix: str | None = None) -> Bus:
    """A bus on that server, ``host:port``, with its own prefix of keys unless one is given."""
    return open_bus(
        {
            "app": {"name": _SOURCE},
            "bus": {
                "adapter": "redis",
                "serializer": serializer,
                "redis": {"url": f"redis://{address}/0", "prefix": prefix or f"bus{next(_prefixes)}"},
            },
        }
    )


def client_of(address: str, *, retries: bool = True) -> Any:
    """redis-py as it comes, or with its retries off: by default each command of a pipeline is copied."""
    host, _, port = address.rpartition(":")
    if retries:
        return redis.asyncio.Redis(host=host, port=int(port))
    return redis.asyncio.Redis(host=host, port=int(port), retry=Retry(NoBackoff(), 0))


def serializer_of(name: str) -> Serializer:
    """The serializer of a bus with that configuration."""
    if name == "json":
        return JsonSerializer()
    factory = promenade_bus_serializers()[name]
    context: Any = BuildContext
    return factory.build(JsonOptions(), context)


def fields_of(given: OrderPlaced, serializer: Serializer) -> dict[str, Any]:
    """The fields of an entry, made anew each time, as the bus has to."""
    return {
        "id": str(given.event_id),
        "key": str(given.aggregate_id),
        "body": serializer.encode(given, topic=ORDER_PLACED.name, source=_SOURCE),
    }
