"""The time of an idle bus from publish to the handler, against waking a task through a future."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

from bus_core import Topic
from promenade_benchmarks.subjects import PING, Ping, bus_of

__all__ = ["latencies"]


class _Arrival:
    """Notes when the awaited thing happened, and tells the one who waits for it."""

    def __init__(self) -> None:
        self.at = 0
        self.seen = asyncio.Event()

    def note(self) -> None:
        self.at = time.perf_counter_ns()
        self.seen.set()

    async def since(self, began: int) -> int:
        await self.seen.wait()
        self.seen.clear()
        for _ in range(3):
            await asyncio.sleep(0)  # all that had to do with it goes to rest
        return self.at - began


async def latencies(samples: int) -> dict[str, tuple[float, float]]:
    """Microseconds on the wall clock, p50 and p99: of the ``bus``, and of a bare ``future``."""
    arrival = _Arrival()

    async def handler(event: Ping) -> None:
        arrival.note()

    async def wait_for(future: asyncio.Future[None]) -> None:
        await future
        arrival.note()

    loop = asyncio.get_running_loop()
    taken: dict[str, list[int]] = {"bus": [], "future": []}
    topic = Topic("benchmark.topic.n0", Ping)
    async with bus_of() as bus:
        bus.subscribe(topic, handler)
        for _ in range(samples):
            began = time.perf_counter_ns()
            await bus.publish(topic, PING)
            taken["bus"].append(await arrival.since(began))

            future: asyncio.Future[None] = loop.create_future()
            waiting = loop.create_task(wait_for(future))
            await asyncio.sleep(0)
            began = time.perf_counter_ns()
            future.set_result(None)
            taken["future"].append(await arrival.since(began))
            await waiting
    return {name: _p50_and_p99(times) for name, times in taken.items()}


def _p50_and_p99(nanoseconds: list[int]) -> tuple[float, float]:
    cuts = quantiles(nanoseconds, n=100, method="inclusive")
    return cuts[49] / 1e3, cuts[98] / 1e3
