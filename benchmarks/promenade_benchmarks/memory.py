"""The bytes that an event takes while it waits in the queue, beyond the event itself."""

from __future__ import annotations

import gc
import tracemalloc
from uuid import UUID

from bus_core import Topic
from promenade_benchmarks.shapes import Shape
from promenade_benchmarks.subjects import Ping, bus_of, publisher_of, subscribe

__all__ = ["bytes_per_queued_event"]


async def bytes_per_queued_event(events: int, shape: Shape) -> float:
    """The bytes by tracemalloc while ``events`` ready-made events are published and none is handled."""
    topic = Topic("benchmark.topic.n0", Ping)
    waiting = [Ping(aggregate_id=UUID(int=number % shape.keys)) for number in range(events)]
    async with bus_of(shape, buffer_size=events + 1) as bus:
        subscribe(bus, shape, topic)
        publish = publisher_of(bus, shape)
        pairs = [(topic, event) for event in waiting[1:]]
        await publish(topic, waiting[0])  # what is made once, such as the route, exists from here on
        await bus.drain()
        await publish(topic, waiting[0])
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            if shape.many:
                await bus.publish_many(pairs)
            else:
                for _, event in pairs:
                    await publish(topic, event)  # finds room, so that no worker gets a turn
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        queued = bus.state().unsettled
        if queued != events:
            raise RuntimeError(f"{events} events should be queued, but {queued} are")
    return (after - before) / (events - 1)
