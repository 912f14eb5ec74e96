"""The same with pgqueuer, as its page on performance says.

It uses asyncpg, with a pool for the producer and a single connection for the consumer. ``enqueue`` takes
lists of a hundred. ``batch_size`` is 100, because the jobs are short. Autovacuum has its settings, and uvloop
runs it, as its command does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from promenade_benchmarks.batches import BATCH, ORDER_PLACED, SERIALIZER, OrderPlaced, order

__all__ = ["consume", "prepare", "publish"]

_LEFT = "SELECT count(*) FROM pgqueuer"


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        uvloop: Any = import_module("uvloop")
    except ImportError:  # there is none for Windows
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def _queuer_on(connection: Any) -> Any:
    pgqueuer: Any = import_module("pgqueuer")  # which only this environment has
    return pgqueuer.PgQueuer.from_asyncpg_connection(connection)


def prepare(url: str) -> None:
    """Creates the tables."""

    async def create() -> None:
        connection = await asyncpg.connect(url)
        queries = _queuer_on(connection).qm.queries
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()

    _run(create())


def publish(url: str, count: int, ready: Callable[[], None]) -> None:
    """Enqueues a job for each event."""

    def body(number: int) -> bytes:
        return SERIALIZER.encode(order(number), topic=ORDER_PLACED.name, source="benchmark")

    async def run() -> None:
        pgqueuer: Any = import_module("pgqueuer")
        async with asyncpg.create_pool(url, min_size=2, max_size=5) as pool:
            queries = pgqueuer.PgQueuer.from_asyncpg_pool(pool).qm.queries
            ready()
            for first in range(0, count, BATCH):
                bodies = [body(number) for number in range(first, first + BATCH)]
                await queries.enqueue(["orders"] * BATCH, bodies, [0] * BATCH)

    _run(run())


def consume(url: str, count: int, ready: Callable[[], None]) -> float:
    """Runs the queue manager until the queue is empty; that moment, on the clock of the machine."""

    async def run() -> float:
        handled = 0
        over = asyncio.Event()
        connection, looking = await asyncpg.connect(url), await asyncpg.connect(url)
        queuer = _queuer_on(connection)

        async def handle(job: Any) -> None:
            nonlocal handled
            assert isinstance(SERIALIZER.decode(job.payload, event_class=OrderPlaced), OrderPlaced)
            handled += 1
            if handled == count:
                over.set()

        queuer.entrypoint("orders")(handle)
        ready()
        working = asyncio.create_task(queuer.qm.run(batch_size=BATCH))
        await over.wait()
        queuer.shutdown.set()
        while await looking.fetchval(_LEFT):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
        ended = time.monotonic()
        await working
        await connection.close()
        await looking.close()
        return ended

    ended: float = _run(run())
    return ended
