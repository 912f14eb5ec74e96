"""From publish to the handler at a steady rate, against XADD and XREADGROUP BLOCK by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import quantiles
from typing import Any

from bus_core import Topic
from redis_benchmarks.subjects import (
    ORDER,
    ORDER_PLACED,
    OrderPlaced,
    bus_on,
    client_of,
    fields_of,
    serializer_of,
)

__all__ = ["MANY", "delays"]

MANY = 50
"""Subscriptions of the bus on which they share a wake-up."""

PAUSE = 0.005
"""Seconds between two events: 200 events a second."""

_AT_ONCE = 50

Sample = Callable[[], Awaitable[float]]


class _Arrival:
    """When the handler was called."""

    def __init__(self) -> None:
        self._arrived: asyncio.Future[float] | None = None

    def note(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(time.perf_counter())

    async def after(self, publish: Callable[[], Awaitable[object]]) -> float:
        """Microseconds from before the publish to the handler."""
        self._arrived = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        await publish()
        return (await self._arrived - began) * 1e6


async def delays(address: str, samples: int) -> dict[str, tuple[float, float]]:
    """Microseconds, p50 and p99: of the ``bus``, of one of ``many`` subscriptions, and ``raw``; in turn."""
    async with AsyncExitStack() as stack:
        ways: dict[str, Sample] = {
            "raw": await _by_hand(stack, address),
            "bus": await _by_bus(stack, address, 1),
            "many": await _by_bus(stack, address, MANY),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for sample in ways.values():
            for _ in range(20):
                await sample()
        for _ in range(max(1, samples // _AT_ONCE)):
            for name, sample in ways.items():
                for _ in range(_AT_ONCE):
                    await asyncio.sleep(PAUSE)
                    taken[name].append(await sample())
    found: dict[str, tuple[float, float]] = {}
    for name, times in taken.items():
        cuts = quantiles(times, n=100, method="inclusive")
        found[name] = cuts[49], cuts[98]
    return found


async def _by_bus(stack: AsyncExitStack, address: str, subscriptions: int) -> Sample:
    bus = await stack.enter_async_context(bus_on(address))
    arrival = _Arrival()
    topics = [Topic(f"shop.order.placed{number}", OrderPlaced) for number in range(subscriptions - 1)]

    async def handler(_event: OrderPlaced) -> None:
        arrival.note()

    for topic in topics:
        await bus.subscribe(topic, handler, name=topic.name).ready()
    await bus.subscribe(ORDER_PLACED, handler, name="benchmark").ready()
    return lambda: arrival.after(lambda: bus.publish(ORDER_PLACED, ORDER))


async def _by_hand(stack: AsyncExitStack, address: str) -> Sample:
    """A consumer that decodes and acknowledges as the bus does."""
    writer = await stack.enter_async_context(client_of(address))
    reader = await stack.enter_async_context(client_of(address))
    serializer = serializer_of("json")
    stream, group = "raw-delay", "benchmark"
    await reader.xgroup_create(stream, group, "0", mkstream=True)
    arrival = _Arrival()

    async def read() -> None:
        while True:
            for _, entries in await reader.xreadgroup(
                group, "consumer", {stream: ">"}, count=100, block=5000
            ):
                for _entry_id, fields in entries:
                    serializer.decode(fields[b"body"], event_class=OrderPlaced)
                    arrival.note()
                await reader.xack(stream, group, *(entry_id for entry_id, _ in entries))

    reading = asyncio.create_task(read())

    async def stop() -> None:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    stack.push_async_callback(stop)

    async def publish() -> Any:
        return await writer.xadd(stream, fields_of(ORDER, serializer))

    return lambda: arrival.after(publish)
