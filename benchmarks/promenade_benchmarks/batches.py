"""The codec and the batches of the benchmarks on databases, which all sides share."""

from __future__ import annotations

from bus_core.serialization import JsonOptions, JsonSerializer
from promenade_benchmarks import orders
from promenade_benchmarks.orders import ORDER_PLACED, OrderPlaced

__all__ = ["BATCH", "ORDER_PLACED", "SERIALIZER", "OrderPlaced", "order"]

BATCH = 100
"""Events of one insert, one claim and one delete, on both sides."""

SERIALIZER = JsonSerializer(JsonOptions())


def order(number: int) -> OrderPlaced:
    """A new event."""
    return orders.order(f"2025-{number:06}")
