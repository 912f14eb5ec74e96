"""FastStream's subscriber of a stream in a group; the name ``batch`` asks for its batch subscriber."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, Publish, Stamped


def _broker(address: str) -> Any:
    # Imported by name, here and in the other modules: it is there for benchmarks only.
    broker = import_module("faststream.redis").RedisBroker
    return broker(f"redis://{address}", logger=None, log_level=logging.CRITICAL)


@asynccontextmanager
async def consumer(address: str, name: str, meter: Meter) -> AsyncIterator[None]:
    options: dict[str, Any] = {"batch": True, "max_records": 100} if name == "batch" else {}
    stream = import_module("faststream.redis").StreamSub(
        name, group="benchmark", consumer=str(os.getpid()), **options
    )
    broker = _broker(address)

    async def one(body: dict[str, Any]) -> None:
        meter.note(body["data"]["number"])

    async def batch(bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            meter.note(body["data"]["number"])

    broker.subscriber(stream=stream)(batch if options else one)
    async with broker:
        await broker.start()
        yield


@asynccontextmanager
async def producer(address: str, name: str, body: Stamped) -> AsyncIterator[Publish]:
    async with _broker(address) as broker:
        yield lambda number: broker.publish(body(number), stream=name)
