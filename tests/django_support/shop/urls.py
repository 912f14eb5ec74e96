from __future__ import annotations

from uuid import uuid4

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_support.shop.events import PLACED, Placed
from django_support.shop.models import Order
from promenade_bus_django import bus
from promenade_bus_django.outbox import outbox

__all__ = ["urlpatterns"]


def place(request: HttpRequest, number: int) -> HttpResponse:
    with transaction.atomic():
        Order.objects.create(number=number)
        bus.publish_on_commit(PLACED, Placed(aggregate_id=uuid4(), number=number))
    return HttpResponse("placed")


def place_durably(request: HttpRequest, number: int) -> HttpResponse:
    with transaction.atomic():
        Order.objects.create(number=number)
        outbox.publish(PLACED, Placed(aggregate_id=uuid4(), number=number))
    return HttpResponse("placed")


async def place_async(request: HttpRequest, number: int) -> HttpResponse:
    await Order.objects.acreate(number=number)
    await bus.apublish(PLACED, Placed(aggregate_id=uuid4(), number=number))
    return HttpResponse("placed")


urlpatterns = [
    path("place/<int:number>", place),
    path("oplace/<int:number>", place_durably),
    path("aplace/<int:number>", place_async),
]
