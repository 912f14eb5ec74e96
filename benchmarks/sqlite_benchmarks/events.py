"""The event of the SQLite benchmarks, and its codec: both sides encode and decode with the same one."""

from __future__ import annotations

from uuid import UUID

import attrs

from bus_core import Event, Topic, event
from bus_core.serialization import JsonOptions, JsonSerializer

__all__ = ["BATCH", "ORDER_PLACED", "SERIALIZER", "OrderPlaced", "order"]

BATCH = 100
"""Events of one insert, one claim and one delete, on both sides."""


@attrs.frozen
class Line:
    """The number of orders by item."""

    sku: str
    quantity: int
    price_cents: int


@event
class OrderPlaced(Event):
    """Of usual size: about 480 bytes as a CloudEvents document."""

    number: str
    customer: str
    lines: tuple[Line, ...]
    express: bool = False


_CUSTOMER = UUID(int=0x0197F0E1A4B07C11A2B3C4D5E6F70819)
_LINES = (Line("SKU-1", 2, 1999), Line("SKU-27", 1, 449))

ORDER_PLACED = Topic("shop.order.placed", OrderPlaced)

SERIALIZER = JsonSerializer(JsonOptions())


def order(number: int) -> OrderPlaced:
    """A new event."""
    return OrderPlaced(
        aggregate_id=_CUSTOMER, number=f"2025-{number:06}", customer=str(_CUSTOMER), lines=_LINES
    )
