"""Costs as things grow: of subscribing, the first publish and closing by the number of topics or patterns.

What is walked once for each of the others shows here: the cost of one must not depend on how many there are.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import attrs

from bus_core import Bus, Event, Topic, event
from promenade_benchmarks.segments import Contender
from promenade_benchmarks.shapes import PLAIN, Shape
from promenade_benchmarks.subjects import PING, Ping, bus_of, empty_handler

__all__ = ["Once", "growing", "patterns_at", "payloads", "topics_at"]

TOPICS_PER_PATTERN = 10


@event
class Note(Event):
    """An event of any size."""

    text: str


@attrs.frozen
class Once:
    """Microseconds for each topic or pattern: to subscribe, to publish on a topic first, and to close."""

    subscribe: float
    first_publish: float
    close: float


async def topics_at(size: int, end: float) -> Once:
    """So many topics with a subscription each."""
    topics = [Topic(f"benchmark.topic.n{number}", Ping) for number in range(size)]
    return await _once(topics, topics, end)


async def patterns_at(size: int, end: float) -> Once:
    """So many patterns, each over ten topics of its own."""
    patterns = [f"benchmark.area{number}.*" for number in range(size)]
    topics = [
        Topic(f"benchmark.area{number}.n{place}", Ping)
        for place in range(TOPICS_PER_PATTERN)
        for number in range(size)
    ]
    return await _once(patterns, topics, end)


async def _once(subscribed: list[Any], topics: list[Topic[Ping]], end: float) -> Once:
    bus = bus_of(buffer_size=len(topics) + 1)
    handler = empty_handler()

    def check_time() -> None:
        if time.monotonic() > end:
            raise TimeoutError

    async def subscribe() -> None:
        for number, topic in enumerate(subscribed):
            check_time()
            bus.subscribe(topic, handler, name=f"handler-{number}")

    async def publish() -> None:
        for topic in topics:
            check_time()
            await bus.publish(topic, PING)

    async def close() -> None:
        await bus.close()

    gc.collect()
    await bus.start()
    subscribing = await _microseconds(subscribe)
    publishing = await _microseconds(publish)
    await bus.drain()
    closing = await _microseconds(close)
    many = len(subscribed)
    return Once(subscribing / many, publishing / len(topics), closing / many)


async def _microseconds(step: Callable[[], Awaitable[None]]) -> float:
    began = time.process_time_ns()
    await step()
    return (time.process_time_ns() - began) / 1e3


def growing(
    measure: Callable[[int, float], Coroutine[Any, Any, Once]], sizes: tuple[int, ...], seconds: float
) -> Iterator[tuple[int, Once]]:
    """The best of several runs for each size; ends with the one before what takes longer than there is time.

    Two sizes are measured in any case.
    """
    end = time.monotonic() + seconds
    for place, size in enumerate(sizes):
        limit = end if place > 1 else math.inf
        try:
            runs = [asyncio.run(measure(size, limit)) for _ in range(max(1, min(5, 2_000 // size)))]
        except TimeoutError:
            return
        yield (
            size,
            Once(
                min(run.subscribe for run in runs),
                min(run.first_publish for run in runs),
                min(run.close for run in runs),
            ),
        )


async def payloads(stack: AsyncExitStack, sizes: tuple[int, ...]) -> list[Contender]:
    """Events of several sizes, as they are and serialized."""
    shapes = (PLAIN, Shape("json", "serialize: true, json", serializer="json"))
    return [await _payload(stack, shape, size) for shape in shapes for size in sizes]


async def _payload(stack: AsyncExitStack, shape: Shape, size: int) -> Contender:
    events = max(5, min(1_000, 1_000_000 // size)) if shape.serializer else 5_000
    note = Note(aggregate_id=PING.aggregate_id, text="x" * size)
    topic = Topic("benchmark.topic.notes", Note)
    bus: Bus = await stack.enter_async_context(bus_of(shape))
    bus.subscribe(topic, empty_handler())

    async def segment() -> None:
        for _ in range(events):
            await bus.publish(topic, note)
        await bus.drain()

    return Contender(f"{shape.name}-{size}", f"{size:,} bytes, {shape.title}", events, segment)
