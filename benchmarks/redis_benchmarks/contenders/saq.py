"""SAQ: a worker that runs 10 jobs at once; results are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, Publish, Stamped


def _queue(address: str) -> Any:
    return import_module("saq").Queue.from_url(f"redis://{address}", name="benchmark")


@asynccontextmanager
async def consumer(address: str, _name: str, meter: Meter) -> AsyncIterator[None]:
    async def handler(_context: dict[str, Any], *, body: dict[str, Any]) -> None:
        meter.note(body["data"]["number"])

    queue = _queue(address)
    await queue.connect()
    worker = import_module("saq").Worker(queue, functions=[("handler", handler)], concurrency=10)
    running = asyncio.create_task(worker.start())
    yield
    await worker.stop()
    await asyncio.gather(running, return_exceptions=True)
    await queue.disconnect()


@asynccontextmanager
async def producer(address: str, _name: str, body: Stamped) -> AsyncIterator[Publish]:
    queue = _queue(address)
    await queue.connect()
    yield lambda number: queue.enqueue("handler", body=body(number), ttl=-1)
    await queue.disconnect()
