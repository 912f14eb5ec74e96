"""The subjects of the measurement: the bus in every shape, and the two plain things it is compared with."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, islice, repeat
from typing import Any, Final
from uuid import UUID

import attrs

import promenade_bus_memory
import promenade_bus_middleware
import promenade_bus_msgspec
from bus_core import (
    BuildContext,
    Bus,
    Clock,
    Envelope,
    Event,
    Factory,
    Handler,
    Middleware,
    Topic,
    event,
    hookimpl,
    open_bus,
)
from promenade_benchmarks.segments import Contender
from promenade_benchmarks.shapes import PLAIN, Shape

__all__ = [
    "BUFFER_SIZE",
    "PING",
    "WORKERS",
    "Ping",
    "bare_loop",
    "bus_of",
    "bus_subject",
    "empty_handler",
    "pings",
    "publisher_of",
    "queue_and_workers",
    "subscribe",
]

# The middleware is switched off: without any level it would write to stderr.
logging.getLogger("promenade.bus.events").setLevel(logging.WARNING)

BUFFER_SIZE: Final = 1_000
WORKERS: Final = 10
SEGMENT: Final = 6_000_000
"""Nanoseconds that a segment takes, or longer where a few events do."""


@event
class Ping(Event):
    """An event without a payload."""


PING: Final = Ping(aggregate_id=UUID(int=1))


def pings(shape: Shape, events: int) -> list[Ping]:
    """So many events, all the same unless the shape asks for several keys."""
    keys = [Ping(aggregate_id=UUID(int=1 + number)) for number in range(shape.keys)]
    return list(islice(cycle(keys), events))


def empty_handler() -> Callable[[Any], Awaitable[None]]:
    """A new function that does nothing, so that no two subscriptions share one."""

    async def handler(event: Any) -> None:
        pass

    return handler


def _handler_of(shape: Shape) -> Callable[..., Awaitable[None]]:
    if not shape.delivery:
        return empty_handler()

    async def with_delivery(event: Any, delivery: Any) -> None:
        pass

    return with_delivery


@attrs.frozen
class _NoOptions:
    """The middleware below has nothing to choose."""


def _pass_through(options: _NoOptions, context: BuildContext) -> Middleware:
    def middleware(handler: Handler) -> Handler:
        async def passing(envelope: Envelope) -> None:
            await handler(envelope)

        return passing

    return middleware


class _PassThrough:
    """A plugin with the cheapest middleware there can be, under several names."""

    @hookimpl
    def promenade_bus_middleware(self) -> Mapping[str, Factory[Any, Middleware]]:
        factory = Factory(options=_NoOptions, build=_pass_through)
        return {f"pass-{number}": factory for number in range(1, 6)}


_PLUGINS: Final = (promenade_bus_memory, promenade_bus_middleware, promenade_bus_msgspec, _PassThrough())
"""Finding those that are installed takes longer than many a measurement."""


def bus_of(
    shape: Shape = PLAIN,
    *,
    buffer_size: int = BUFFER_SIZE,
    workers: int = WORKERS,
    clock: Clock | None = None,
) -> Bus:
    """A bus on the memory adapter, configured as the shape says."""
    config: dict[str, Any] = {
        "adapter": "memory",
        "buffer_size": buffer_size,
        "worker_pool_size": workers,
        "middleware": {"consume": list(shape.middleware)},
    }
    if shape.serializer:
        config |= {"serializer": shape.serializer, "memory": {"serialize": True}}
    return open_bus({"bus": config}, plugins=_PLUGINS, installed=False, clock=clock)


def subscribe(
    bus: Bus, shape: Shape, topic: Topic[Ping], handler: Callable[..., Any] | None = None, name: str = ""
) -> None:
    """Subscribes as many handlers as the shape has subscribers."""
    for number in range(shape.subscribers):
        bus.subscribe(
            "benchmark.topic.*" if shape.pattern else topic,
            handler or _handler_of(shape),
            name=f"{name or topic.name}.{number}",
            **shape.options,
        )


def publisher_of(bus: Bus, shape: Shape) -> Callable[[Topic[Ping], Ping], Awaitable[None]]:
    """A function that publishes one event, with headers where the shape has some."""
    if not shape.headers:
        return bus.publish

    def publish(topic: Topic[Ping], event: Ping) -> Awaitable[None]:
        return bus.publish(topic, event, headers=shape.headers)

    return publish


class _Finish:
    """Waits until all is settled: by an event on a topic of its own, which comes after all before it.

    Where a subscription holds events back it can come before the last of them; then the rest is waited for.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._topic = Topic("benchmark.segment.finished", Ping)
        self._reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bus.subscribe(self._topic, self._handle, name="finish")

    async def _handle(self, event: Ping) -> None:
        self._reached.set_result(None)

    async def __call__(self) -> None:
        self._reached = asyncio.get_running_loop().create_future()
        await self._bus.publish(self._topic, PING)
        await self._reached
        while self._bus.state().unsettled:  # noqa: ASYNC110 - nobody tells when the last one is settled
            await asyncio.sleep(0)


async def bus_subject(
    stack: AsyncExitStack,
    shape: Shape,
    *,
    deliveries: int,
    name: str = "",
    title: str = "",
    topics: int = 1,
    workers: int = WORKERS,
    backlog: int = 0,
) -> Contender:
    """An open bus that gets one event after the other, and handles all of them within the segment.

    The buffer is an ordinary one, so that the publisher waits for room again and again. Where ``deliveries``
    take no time, there are more of them. With ``backlog``
    so many events are queued before the first of them is handled.
    """
    bus = bus_of(shape, buffer_size=backlog + 1 if backlog else BUFFER_SIZE, workers=workers)
    declared = [Topic(f"benchmark.topic.n{number}", Ping) for number in range(topics)]
    for topic in declared:
        subscribe(bus, shape, topic)
    await stack.enter_async_context(_accounted(bus, shape.subscribers))
    finish = _Finish(bus)
    events = max(1, deliveries // shape.subscribers)
    bursts = max(1, events // backlog) if backlog else 1
    pairs = list(zip(cycle(declared), pings(shape, backlog or events)))

    async def one_by_one() -> None:
        publish = publisher_of(bus, shape)
        for _ in range(bursts):
            for topic, ping in pairs:
                await publish(topic, ping)
            await finish()

    async def all_together() -> None:
        await bus.publish_many(pairs)
        await finish()

    segment = all_together if shape.many else one_by_one
    if not backlog:
        pairs *= await _times_to(SEGMENT, segment)
    made = bursts * len(pairs) * shape.subscribers
    return Contender(name or shape.name, title or f"the bus, {shape.title}", made, segment)


async def _times_to(nanoseconds: int, segment: Callable[[], Awaitable[None]]) -> int:
    """The factor by which a segment may grow to take about that long."""
    await segment()  # what is done once is done
    began = time.process_time_ns()
    await segment()
    return max(1, min(10, nanoseconds // max(1, time.process_time_ns() - began)))


@asynccontextmanager
async def _accounted(bus: Bus, subscribers: int) -> AsyncIterator[None]:
    """Starts a bus, which must not have cut any corner: in the end every subscription has handled all.

    It is not closed: that is measured for itself (see growth.py), and a loop that ends stops its workers.
    """
    await bus.start()
    yield
    await bus.drain()
    state, published = bus.state(), bus.published()
    handled = sum(each.handled for each in state.subscriptions if each.name != "finish")
    due = subscribers * sum(n for topic, n in published.items() if topic.startswith("benchmark.topic."))
    if handled != due or state.lost or state.unsettled:
        raise RuntimeError(f"the account of the benchmark does not add up: {due} are due, {state}")


def bare_loop(deliveries: int) -> Contender:
    """The floor: a ``for`` loop that awaits the handler."""
    handler = empty_handler()

    async def segment() -> None:
        for ping in repeat(PING, deliveries):
            await handler(ping)

    return Contender("bare-loop", "for loop that awaits the handler", deliveries, segment)


async def queue_and_workers(
    stack: AsyncExitStack,
    *,
    deliveries: int,
    subscribers: int = 1,
    make_handler: Callable[[], Callable[[Any], Awaitable[None]]] = empty_handler,
) -> Contender:
    """The handwritten alternative: ``asyncio.Queue(1000)`` and 10 tasks; one entry per delivery."""
    handlers = [make_handler() for _ in range(subscribers)]
    queue: asyncio.Queue[tuple[Callable[[Any], Awaitable[None]], Ping]] = asyncio.Queue(BUFFER_SIZE)

    async def work() -> None:
        while True:
            handler, event = await queue.get()
            await handler(event)
            queue.task_done()

    for _ in range(WORKERS):
        stack.callback(asyncio.create_task(work()).cancel)
    entries = [(handler, PING) for _ in range(deliveries // subscribers) for handler in handlers]

    async def segment() -> None:
        put = queue.put
        for entry in entries:
            await put(entry)
        await queue.join()

    return Contender("queue", "asyncio.Queue(1000), 10 worker tasks", len(entries), segment)
