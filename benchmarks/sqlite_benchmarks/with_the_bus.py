"""The same with the bus: everything that it promises, and its defaults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bus_core import Bus, open_bus
from promenade_benchmarks.batches import BATCH, ORDER_PLACED, OrderPlaced, order

__all__ = ["consume", "prepare", "publish"]


def _bus(path: str, synchronous: str) -> Bus:
    options = {"path": path, "synchronous": synchronous}
    return open_bus({"app": {"name": "benchmark"}, "bus": {"adapter": "sqlite", "sqlite": options}})


def prepare(path: str) -> None:
    """Creates the tables, and the subscription."""

    async def create() -> None:
        async with _bus(path, "normal") as bus:
            await bus.subscribe(ORDER_PLACED, _handle, name="orders").ready()

    asyncio.run(create())


async def _handle(event: OrderPlaced) -> None:
    assert isinstance(event, OrderPlaced)


def publish(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> None:
    """Stores events, a hundred in each call."""

    async def run() -> None:
        async with _bus(path, synchronous) as bus:
            ready()
            for begin in range(0, count, BATCH):
                await bus.publish_many(
                    [(ORDER_PLACED, order(number)) for number in range(begin, begin + BATCH)]
                )

    asyncio.run(run())


def consume(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> float:
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

        async with _bus(path, synchronous) as bus:
            await bus.subscribe(ORDER_PLACED, handle, name="orders").ready()
            ready()
            await over.wait()
            await bus.drain()
            return time.monotonic()

    return asyncio.run(run())
