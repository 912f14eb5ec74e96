from __future__ import annotations

from bus_core import Event, Topic, TopicCatalogue, event

__all__ = ["CATALOGUE", "PLACED", "RECEIPTED", "Placed", "Receipted"]


@event
class Placed(Event):
    """An order was placed."""

    number: int = 0


@event
class Receipted(Event):
    """A receipt was written."""

    number: int = 0


PLACED = Topic("shop.order.placed", Placed)
RECEIPTED = Topic("shop.receipt.written", Receipted)
CATALOGUE = TopicCatalogue("shop", [PLACED, RECEIPTED])
