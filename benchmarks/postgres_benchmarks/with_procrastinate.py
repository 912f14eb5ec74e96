"""The same with procrastinate, as its how-tos say.

``batch_defer_async`` by a hundred, a worker with the ``concurrency`` of its example (30), a pool of one
connection more, and ``delete_jobs="always"``, which keeps its table small.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from promenade_benchmarks.batches import BATCH, ORDER_PLACED, SERIALIZER, OrderPlaced, order

__all__ = ["consume", "prepare", "publish"]

_CONCURRENCY = 30
_LEFT = "SELECT count(*) AS left FROM procrastinate_jobs"


def _app(url: str, handled: Callable[[], None], connections: int = 1) -> tuple[Any, Any]:
    """The application, and its task; so many connections are open from the start."""
    procrastinate: Any = import_module("procrastinate")  # which only this environment has
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=connections, max_size=_CONCURRENCY + 1)
    app = procrastinate.App(connector=connector)

    async def handle(body: str) -> None:
        assert isinstance(SERIALIZER.decode(body.encode(), event_class=OrderPlaced), OrderPlaced)
        handled()

    return app, app.task(name="handle", queue="orders")(handle)


def prepare(url: str) -> None:
    """Creates the tables."""

    async def create() -> None:
        app, _ = _app(url, lambda: None)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    asyncio.run(create())


def publish(url: str, count: int, ready: Callable[[], None]) -> None:
    """Defers a job for each event."""

    def body(number: int) -> str:
        return SERIALIZER.encode(order(number), topic=ORDER_PLACED.name, source="benchmark").decode()

    async def run() -> None:
        app, task = _app(url, lambda: None)
        async with app.open_async():
            ready()
            for first in range(0, count, BATCH):
                await task.batch_defer_async(
                    *({"body": body(number)} for number in range(first, first + BATCH))
                )

    asyncio.run(run())


def consume(url: str, count: int, ready: Callable[[], None]) -> float:
    """Runs a worker until all jobs are done and deleted; that moment, on the clock of the machine."""

    async def run() -> float:
        handled = 0
        over = asyncio.Event()

        def note() -> None:
            nonlocal handled
            handled += 1
            if handled == count:
                over.set()

        app, _ = _app(url, note, _CONCURRENCY + 1)
        async with app.open_async():
            ready()
            working = asyncio.create_task(
                app.run_worker_async(
                    concurrency=_CONCURRENCY, delete_jobs="always", install_signal_handlers=False
                )
            )
            await over.wait()
            while (await app.connector.execute_query_one_async(_LEFT))["left"]:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
            ended = time.monotonic()
            working.cancel()
            await asyncio.wait([working])
            return ended

    return asyncio.run(run())
