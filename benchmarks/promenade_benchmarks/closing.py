"""What closing a bus costs for each of its subscriptions: it should not matter how many there are."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from bus_core import Topic
from promenade_benchmarks.subjects import PING, Ping, bus_of, empty_handler

__all__ = ["closing_times"]


def closing_times(sizes: tuple[int, ...], rounds: int) -> dict[int, tuple[float, float]]:
    """Microseconds per subscription, each to a topic of its own: the least and the median by size."""
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            taken[size].append(asyncio.run(_close(size)) / size)
    return {size: (min(times), median(times)) for size, times in taken.items()}


async def _close(subscriptions: int) -> float:
    topics = [Topic(f"benchmark.topic.n{number}", Ping) for number in range(subscriptions)]
    bus = bus_of()
    for topic in topics:
        bus.subscribe(topic, empty_handler(), name=topic.name)
    await bus.start()
    for topic in topics:
        await bus.publish(topic, PING)
    await bus.drain()
    began = time.process_time_ns()
    await bus.close()
    return (time.process_time_ns() - began) / 1e3
