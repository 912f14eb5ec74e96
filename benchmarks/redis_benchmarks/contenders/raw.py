"""redis-py by hand: 50 tasks that publish, and a loop that reads, decodes and acknowledges 100 at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import redis

from redis_benchmarks.protocol import Meter, Publish, Stamped
from redis_benchmarks.subjects import OrderPlaced, client_of, fields_of, order, serializer_of

GROUP = "benchmark"


@asynccontextmanager
async def consumer(address: str, name: str, meter: Meter) -> AsyncIterator[None]:
    decode = serializer_of("json").decode
    async with client_of(address, retries=False) as client:
        with suppress(redis.ResponseError):  # another process was first
            await client.xgroup_create(name, GROUP, "0", mkstream=True)

        async def read() -> None:
            ids: list[bytes] = []
            while True:
                pipeline = client.pipeline(transaction=False)
                if ids:
                    pipeline.xack(name, GROUP, *ids)
                block = None if ids else 1_000  # what is handled is acknowledged at once
                pipeline.xreadgroup(GROUP, str(os.getpid()), {name: ">"}, count=100, block=block)
                found = (await pipeline.execute())[-1]
                ids = []
                for _, entries in found or ():
                    for entry_id, fields in entries:
                        event = decode(fields[b"body"], event_class=OrderPlaced)
                        assert isinstance(event, OrderPlaced), "it is what was asked for"
                        meter.note(event.number)
                        ids.append(entry_id)

        reading = asyncio.create_task(read())
        yield
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def producer(address: str, name: str, _body: Stamped) -> AsyncIterator[Publish]:
    serializer = serializer_of("json")
    async with client_of(address) as client:

        async def publish(number: str) -> None:
            await client.xadd(name, fields_of(order(number), serializer))

        yield publish
