from __future__ import annotations

from django_support.shop.events import PLACED, RECEIPTED, Placed, Receipted
from django_support.shop.models import Receipt
from promenade_bus_django import bus

__all__ = ["write_receipt"]


@bus.subscribe(PLACED, name="receipts")
def write_receipt(event: Placed) -> None:
    Receipt.objects.create(number=event.number)
    bus.publish_on_commit(RECEIPTED, Receipted(aggregate_id=event.aggregate_id, number=event.number))
