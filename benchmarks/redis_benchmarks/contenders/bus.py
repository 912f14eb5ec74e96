"""The bus; the name is that of the serializer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis_benchmarks.protocol import Meter, Publish, Stamped
from redis_benchmarks.subjects import ORDER_PLACED, OrderPlaced, bus_on, order


@asynccontextmanager
async def consumer(address: str, name: str, meter: Meter) -> AsyncIterator[None]:
    async with bus_on(address, name, prefix=f"process-{name}") as bus:

        async def handler(event: OrderPlaced) -> None:
            meter.note(event.number)

        await bus.subscribe(ORDER_PLACED, handler, name="benchmark").ready()
        yield


@asynccontextmanager
async def producer(address: str, name: str, _body: Stamped) -> AsyncIterator[Publish]:
    async with bus_on(address, name, prefix=f"process-{name}") as bus:

        async def publish(number: str) -> None:
            await bus.publish(ORDER_PLACED, order(number))

        yield publish
