"""streaQ: a worker that runs 16 tasks at once; results are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, Publish, Stamped


def _task(address: str, meter: Meter) -> tuple[Any, Any]:
    worker = import_module("streaq").Worker(redis_url=f"redis://{address}", handle_signals=False)

    async def handler(body: dict[str, Any]) -> None:
        meter.note(body["data"]["number"])

    return worker, worker.task(ttl=0, name="handler")(handler)


@asynccontextmanager
async def consumer(address: str, _name: str, meter: Meter) -> AsyncIterator[None]:
    worker, _ = _task(address, meter)
    running = asyncio.create_task(worker.run_async())
    await asyncio.sleep(1)
    yield
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def producer(address: str, _name: str, body: Stamped) -> AsyncIterator[Publish]:
    worker, task = _task(address, Meter())
    async with worker:

        async def publish(number: str) -> None:
            await task.enqueue(body(number))

        yield publish
