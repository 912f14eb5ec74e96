"""Celery: a worker of 10 threads, and a producer that sends one after the other; results are ignored."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, Publish, Stamped


def _task(address: str, meter: Meter) -> tuple[Any, Any]:
    app = import_module("celery").Celery("benchmark", broker=f"redis://{address}/0")
    app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=10)

    def handler(body: dict[str, Any]) -> None:
        meter.note(body["data"]["number"])

    return app, app.task(handler, name="handler")


@asynccontextmanager
async def consumer(address: str, _name: str, meter: Meter) -> AsyncIterator[None]:
    app, _ = _task(address, meter)
    worker = app.WorkController(app=app, pool_cls="threads", concurrency=10, loglevel="CRITICAL")
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    yield
    worker.stop()
    thread.join(10)


@asynccontextmanager
async def producer(address: str, _name: str, body: Stamped) -> AsyncIterator[Publish]:
    _, task = _task(address, Meter())

    async def publish(number: str) -> None:
        task.delay(body(number))

    yield publish
