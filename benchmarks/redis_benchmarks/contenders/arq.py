"""arq: a worker that polls every 10 ms and runs 100 jobs at once; results are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, Publish, Stamped


def _settings(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return import_module("arq.connections").RedisSettings(host=host, port=int(port))


@asynccontextmanager
async def consumer(address: str, _name: str, meter: Meter) -> AsyncIterator[None]:
    async def handler(_context: dict[str, Any], body: dict[str, Any]) -> None:
        meter.note(body["data"]["number"])

    worker = import_module("arq").Worker(
        functions=[import_module("arq").func(handler, name="handler", keep_result=0)],
        redis_settings=_settings(address),
        handle_signals=False,
        poll_delay=0.01,
        max_jobs=100,
    )
    running = asyncio.create_task(worker.async_run())
    yield
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await worker.close()


@asynccontextmanager
async def producer(address: str, _name: str, body: Stamped) -> AsyncIterator[Publish]:
    pool = await import_module("arq").create_pool(_settings(address))
    yield lambda number: pool.enqueue_job("handler", body(number))
    await pool.aclose()
