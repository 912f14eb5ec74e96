"""The same with the bus: everything that it promises, and its defaults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bus_core import Bus, open_bus
from promenade_benchmarks.batches import BATCH, ORDER_PLACED, OrderPlaced, order

__all__ = ["consume", "open_on", "prepare", "publish", "put"]


def open_on(url: str, **options: Any) -> Bus:
    """A bus in a database; ``options`` are those of the adapter."""
    section = {"adapter": "postgres", "postgres": {"url": url, **options}}
    return open_bus({"app": {"name": "benchmark"}, "bus": section})


def prepare(url: str) -> None:
    """Creates the tables, and the subscription."""

    async def create() -> None:
        async with open_on(url, migrate=True) as bus:
            await bus.subscribe(ORDER_PLACED, _handle, name="orders").ready()

    asyncio.run(create())


async def _handle(event: OrderPlaced) -> None:
    assert isinstance(event, OrderPlaced)


async def put(bus: Bus, first: int) -> None:
    """Publishes a batch in one call."""
    await bus.publish_many([(ORDER_PLACED, order(number)) for number in range(first, first + BATCH)])


def publish(url: str, count: int, ready: Callable[[], None]) -> None:
    """Stores so many events."""

    async def run() -> None:
        async with open_on(url) as bus:
            ready()
            for first in range(0, count, BATCH):
                await put(bus, first)

    asyncio.run(run())


def consume(url: str, count: int, ready: Callable[[], None]) -> float:
    """Handles so many events; the moment of the last one, on the clock of the machine."""

    async def run() -> float:
        handled = 0
        over = asyncio.Event()

        async def handle(event: OrderPlaced) -> None:
            nonlocal handled
            assert isinstance(event, OrderPlaced)
            handled += 1
            if handled == count:
                over.set()

        async with open_on(url) as bus:
            await bus.subscribe(ORDER_PLACED, handle, name="orders").ready()
            ready()
            await over.wait()
            await bus.drain()
            return time.monotonic()

    return asyncio.run(run())
