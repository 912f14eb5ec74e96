"""The event that benchmarks of adapters publish."""

from __future__ import annotations

from uuid import UUID

import attrs

from bus_core import Event, Topic, event

__all__ = ["ORDER_PLACED", "OrderPlaced", "order"]


@attrs.frozen
class Line:
    """An item of an order."""

    sku: str
    quantity: int
    price_cents: int


@event
class OrderPlaced(Event):
    """Of usual size: 479 bytes as a CloudEvents document, with values inside of values."""

    number: str
    customer: str
    lines: tuple[Line, ...]
    express: bool = False


_CUSTOMER = UUID(int=0x0197F0E1A4B07C11A2B3C4D5E6F70819)
_LINES = (Line("SKU-1", 2, 1999), Line("SKU-27", 1, 449))

ORDER_PLACED = Topic("shop.order.placed", OrderPlaced)


def order(number: str) -> OrderPlaced:
    """A new event."""
    return OrderPlaced(aggregate_id=_CUSTOMER, number=number, customer=str(_CUSTOMER), lines=_LINES)
