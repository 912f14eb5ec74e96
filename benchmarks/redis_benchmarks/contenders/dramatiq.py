"""dramatiq: a worker of 8 threads, and a producer that sends one message after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, Publish, Stamped


def _actor(address: str, meter: Meter) -> tuple[Any, Any]:
    broker = import_module("dramatiq.brokers.redis").RedisBroker(url=f"redis://{address}")

    def handler(body: dict[str, Any]) -> None:
        meter.note(body["data"]["number"])

    return broker, import_module("dramatiq").actor(handler, broker=broker)


@asynccontextmanager
async def consumer(address: str, _name: str, meter: Meter) -> AsyncIterator[None]:
    broker, _ = _actor(address, meter)
    worker = import_module("dramatiq").Worker(broker)
    worker.start()
    yield
    worker.stop()


@asynccontextmanager
async def producer(address: str, _name: str, body: Stamped) -> AsyncIterator[Publish]:
    _, actor = _actor(address, Meter())

    async def publish(number: str) -> None:
        actor.send(body(number))

    yield publish
