"""Consuming a backlog to the acknowledgement, with a handler that does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from promenade_benchmarks.segments import Contender
from redis_benchmarks.subjects import (
    ORDER,
    ORDER_PLACED,
    OrderPlaced,
    bus_on,
    client_of,
    fields_of,
    serializer_of,
)

__all__ = ["backlogs"]

COUNT = 100
_FILLING = 500

Trim = Callable[[str], Awaitable[None]]
Fill = Callable[[str, int], Awaitable[None]]


async def backlogs(stack: AsyncExitStack, address: str, serializer: str, events: int) -> list[Contender]:
    """The bus, and a loop of XREADGROUP and XACK that decodes the same JSON to the same class."""
    client = await stack.enter_async_context(client_of(address, retries=False))

    async def fill(stream: str, count: int) -> None:
        fields: dict[Any, Any] = fields_of(ORDER, serializer_of(serializer))
        for first in range(0, count, _FILLING):
            pipeline = client.pipeline(transaction=False)
            for _ in range(min(_FILLING, count - first)):
                pipeline.xadd(stream, fields)
            await pipeline.execute()

    async def trim(stream: str) -> None:
        await client.xtrim(stream, maxlen=0, approximate=False)

    return [
        await _by_bus(stack, address, serializer, events, trim, fill),
        await _by_hand(client, serializer, events, trim, fill),
    ]


async def _by_bus(
    stack: AsyncExitStack,
    address: str,
    serializer: str,
    events: int,
    trim: Trim,
    fill: Fill,
) -> Contender:
    prefix = f"consume-{serializer}"
    bus = await stack.enter_async_context(bus_on(address, serializer, prefix=prefix))
    left = 0
    done = asyncio.Event()

    async def handler(_event: OrderPlaced) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    subscription = bus.subscribe(ORDER_PLACED, handler, name="benchmark")
    await subscription.ready()

    async def prepare() -> None:
        nonlocal left
        stream = f"{prefix}:{{{ORDER_PLACED.name}}}"
        subscription.pause()
        left = events
        done.clear()
        await trim(stream)
        # The read that waits on the server ends with the first event, and no other one follows.
        await fill(stream, 1)
        while not bus.state().unsettled:  # noqa: ASYNC110 - nobody tells when it has arrived
            await asyncio.sleep(0.001)
        await fill(stream, events - 1)

    async def segment() -> None:
        subscription.resume()
        await done.wait()
        while bus.state().unsettled:  # noqa: ASYNC110 - nobody tells when it is acknowledged
            await asyncio.sleep(0)

    return Contender(f"bus-{serializer}", f"the bus, {serializer}", events, segment, prepare)


async def _by_hand(client: Any, serializer: str, events: int, trim: Trim, fill: Fill) -> Contender:
    stream, group = f"raw-consume:{serializer}", "benchmark"
    decode = serializer_of(serializer).decode
    await client.xgroup_create(stream, group, "0", mkstream=True)

    async def handler(_event: Any) -> None:
        pass

    async def segment() -> None:
        handled = 0
        ids: list[bytes] = []
        while handled < events:
            pipeline = client.pipeline(transaction=False)
            if ids:
                pipeline.xack(stream, group, *ids)
            pipeline.xreadgroup(group, "consumer", {stream: ">"}, count=COUNT)
            ((_, entries),) = (await pipeline.execute())[-1]
            ids = []
            for entry_id, fields in entries:
                await handler(decode(fields[b"body"], event_class=OrderPlaced))
                ids.append(entry_id)
            handled += len(ids)
        await client.xack(stream, group, *ids)

    async def prepare() -> None:
        await trim(stream)
        await fill(stream, events)

    return Contender(
        f"raw-{serializer}",
        f"redis-py, {serializer}, XREADGROUP COUNT {COUNT} and XACK in one pipeline",
        events,
        segment,
        prepare,
    )
