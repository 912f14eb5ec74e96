"""What is measured: the bus in several shapes, and the two plain things it is compared with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from typing import Any, Final
from uuid import UUID

import attrs

from bus_core import (
    BuildContext,
    Bus,
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

__all__ = [
    "BUFFER_SIZE",
    "PING",
    "WORKERS",
    "Ping",
    "bare_loop",
    "bus_of",
    "bus_subject",
    "empty_handler",
    "queue_and_workers",
]

BUFFER_SIZE: Final = 1_000
WORKERS: Final = 10


@event
class Ping(Event):
    """An event without a payload."""


PING: Final = Ping(aggregate_id=UUID(int=1))


def empty_handler() -> Callable[[Any], Awaitable[None]]:
    """A new function that does nothing, so that no two subscriptions share one."""

    async def handler(event: Any) -> None:
        pass

    return handler


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
    """A plugin with the cheapest middleware there can be."""

    @hookimpl
    def promenade_bus_middleware(self) -> Mapping[str, Factory[Any, Middleware]]:
        factory = Factory(options=_NoOptions, build=_pass_through)
        return {"pass-one": factory, "pass-two": factory}


def bus_of(*, buffer_size: int = BUFFER_SIZE, workers: int = WORKERS, middleware: int = 0) -> Bus:
    """A bus on the memory adapter, with 0, 1 or 2 middlewares around its handlers."""
    chain = ["pass-one", "pass-two"][:middleware]
    bus: dict[str, Any] = {"adapter": "memory", "buffer_size": buffer_size, "worker_pool_size": workers}
    return open_bus({"bus": {**bus, "middleware": {"consume": chain}}}, plugins=[_PassThrough()])


class _Finish:
    """The last event of a segment, on a topic of its own: when it is handled, all before it are."""

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


async def bus_subject(
    stack: AsyncExitStack,
    name: str,
    title: str,
    *,
    deliveries: int,
    topics: int = 1,
    subscribers: int = 1,
    workers: int = WORKERS,
    middleware: int = 0,
    backlog: int = 0,
    many: bool = False,
) -> Contender:
    """An open bus that gets one event after the other, and handles all of them within the segment.

    The buffer is an ordinary one, so that the publisher waits for room again and again. With ``backlog``
    so many events are queued before the first of them is handled.
    """
    bus = bus_of(buffer_size=backlog + 1 if backlog else BUFFER_SIZE, workers=workers, middleware=middleware)
    declared = [Topic(f"benchmark.topic.n{number}", Ping) for number in range(topics)]
    for topic in declared:
        for number in range(subscribers):
            bus.subscribe(topic, empty_handler(), name=f"{topic.name}.{number}")
    await stack.enter_async_context(_accounted(bus))
    finish = _Finish(bus)
    events = max(1, deliveries // subscribers)
    burst = [declared[number % topics] for number in range(backlog or events)]
    bursts = max(1, events // len(burst))
    pairs = [(topic, PING) for topic in burst]

    async def one_by_one() -> None:
        publish = bus.publish
        for _ in range(bursts):
            for topic in burst:
                await publish(topic, PING)
            await finish()

    async def all_together() -> None:
        await bus.publish_many(pairs)
        await finish()

    segment = all_together if many else one_by_one
    return Contender(name, title, bursts * len(burst) * subscribers, segment)


@asynccontextmanager
async def _accounted(bus: Bus) -> AsyncIterator[None]:
    """Starts a bus, which must not have cut any corner: in the end every subscription has handled all.

    It is not closed: that is measured for itself (see closing.py), and a loop that ends stops its workers.
    """
    await bus.start()
    yield
    await bus.drain()
    state, published = bus.state(), bus.published()
    wrong = [each for each in state.subscriptions if each.handled != published.get(each.topic, 0)]
    if wrong or state.lost or state.unsettled:
        raise RuntimeError(f"the account of the benchmark does not add up: {state}")


def bare_loop(deliveries: int) -> Contender:
    """The floor: a ``for`` loop that awaits the handler."""
    handler = empty_handler()

    async def segment() -> None:
        for ping in repeat(PING, deliveries):
            await handler(ping)

    return Contender("bare-loop", "for loop that awaits the handler", deliveries, segment)


async def queue_and_workers(stack: AsyncExitStack, *, deliveries: int, subscribers: int = 1) -> Contender:
    """What people write by hand: ``asyncio.Queue(1000)`` and 10 tasks; one entry per delivery."""
    handlers = [empty_handler() for _ in range(subscribers)]
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
