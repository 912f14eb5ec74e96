"""taskiq-redis: a stream with acknowledgements; results are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, Publish, Stamped


def _broker(address: str) -> Any:
    return import_module("taskiq_redis").RedisStreamBroker(url=f"redis://{address}", queue_name="benchmark")


def _task(broker: Any, meter: Meter) -> Any:
    async def handler(body: dict[str, Any]) -> None:
        meter.note(body["data"]["number"])

    return broker.register_task(handler, task_name="handler")


@asynccontextmanager
async def consumer(address: str, _name: str, meter: Meter) -> AsyncIterator[None]:
    broker = _broker(address)
    broker.is_worker_process = True
    _task(broker, meter)
    receiving = asyncio.create_task(import_module("taskiq.api").run_receiver_task(broker, run_startup=True))
    await asyncio.sleep(1)
    yield
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)


@asynccontextmanager
async def producer(address: str, _name: str, body: Stamped) -> AsyncIterator[Publish]:
    broker = _broker(address)
    await broker.startup()
    task = _task(broker, Meter())
    yield lambda number: task.kiq(body(number))
    await broker.shutdown()
