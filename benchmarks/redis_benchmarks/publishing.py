"""Publishing: many tasks that each wait for their own event, and one alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from promenade_benchmarks.segments import Contender
from redis_benchmarks.subjects import ORDER, ORDER_PLACED, bus_on, client_of, fields_of, serializer_of

__all__ = ["alone", "together"]

TASKS = 50
PIPELINE = 100

Publish = Callable[[], Awaitable[object]]


def _in_tasks(publish: Publish, events: int) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        for _ in range(events // TASKS):
            await publish()

    async def segment() -> None:
        await asyncio.gather(*(work() for _ in range(TASKS)))

    return segment


def _one_by_one(publish: Publish, events: int) -> Callable[[], Awaitable[None]]:
    async def segment() -> None:
        for _ in range(events):
            await publish()

    return segment


async def _publishers(
    stack: AsyncExitStack, address: str, serializer: str
) -> tuple[Publish, Publish, Callable[[], Awaitable[None]]]:
    """Functions that publish one event by the bus and by redis-py, and one that empties the server."""
    bus = await stack.enter_async_context(bus_on(address, serializer))
    client = await stack.enter_async_context(client_of(address))
    encode = serializer_of(serializer)
    stream = f"raw:{serializer}"

    async def by_bus() -> None:
        await bus.publish(ORDER_PLACED, ORDER)

    async def by_hand() -> None:
        await client.xadd(stream, fields_of(ORDER, encode))

    async def clear() -> None:
        for key in [key async for key in client.scan_iter(_type="stream")]:
            await client.xtrim(key, maxlen=0, approximate=False)

    return by_bus, by_hand, clear


async def together(stack: AsyncExitStack, address: str, serializer: str, events: int) -> list[Contender]:
    """The bus, redis-py with as many tasks, and pipelines of redis-py, all with the same serializer."""
    by_bus, by_hand, clear = await _publishers(stack, address, serializer)
    client = await stack.enter_async_context(client_of(address, retries=False))
    encode = serializer_of(serializer)

    async def pipelines() -> None:
        for _ in range(events // PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(PIPELINE):
                pipeline.xadd(f"raw:{serializer}", fields_of(ORDER, encode))
            await pipeline.execute()

    return [
        Contender(
            f"bus-{serializer}",
            f"the bus, {serializer}, {TASKS} tasks",
            events,
            _in_tasks(by_bus, events),
            clear,
        ),
        Contender(
            f"tasks-{serializer}",
            f"redis-py, {serializer}, {TASKS} tasks",
            events,
            _in_tasks(by_hand, events),
            clear,
        ),
        Contender(
            f"pipelines-{serializer}",
            f"redis-py, {serializer}, pipelines of {PIPELINE}",
            events,
            pipelines,
            clear,
        ),
    ]


async def alone(stack: AsyncExitStack, address: str, events: int) -> list[Contender]:
    """One event after the other, each awaited."""
    by_bus, by_hand, clear = await _publishers(stack, address, "json")
    return [
        Contender("bus-alone", "the bus, one after the other", events, _one_by_one(by_bus, events), clear),
        Contender("raw-alone", "redis-py, one after the other", events, _one_by_one(by_hand, events), clear),
    ]
