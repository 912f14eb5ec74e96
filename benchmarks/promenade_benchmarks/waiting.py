"""Handlers that wait, fail or block, each against what does the same without the bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, Final

from bus_core import Bus, Delivery, Topic
from promenade_benchmarks.segments import Contender
from promenade_benchmarks.shapes import KEYS, PLAIN, Shape
from promenade_benchmarks.subjects import (
    PING,
    WORKERS,
    Ping,
    bus_of,
    pings,
    queue_and_workers,
    subscribe,
)
from promenade_bus_testing import VirtualClock

__all__ = [
    "AT_ONCE",
    "WAITING_SHAPES",
    "at_once",
    "blocking",
    "fail_once",
    "failing",
    "settle_retries",
    "wait_once",
    "waiting_once",
]

AT_ONCE: Final = 1_000
"""Handlers that wait at the same time."""

PAUSE: Final = 0.01
"""Seconds that each of them waits."""

WAITING_SHAPES: Final = (
    Shape("waits_free", "a handler that waits once", 1.5),
    Shape("waits_concurrency", "a handler that waits once, concurrency=4", 2.0, options={"concurrency": 4}),
    Shape(
        "waits_ordered",
        f"a handler that waits once, ordered=True, {KEYS} keys",
        2.0,
        options={"ordered": True},
        keys=KEYS,
    ),
)

_TOPIC: Final = Topic("benchmark.topic.n0", Ping)


async def wait_once(event: Any) -> None:
    """Lets others run once."""
    await asyncio.sleep(0)


async def fail_once(event: Any, delivery: Delivery) -> None:
    """Fails at the first attempt."""
    if delivery.attempt == 1:
        raise ConnectionError


class _Countdown:
    """Tells when so many handlers are done."""

    def __init__(self) -> None:
        self._left = 0
        self._done = asyncio.Event()

    def expect(self, handlers: int) -> None:
        self._left = handlers
        self._done.clear()

    def note(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    async def wait(self, bus: Bus) -> None:
        """Returns when the last handler is done and its event settled."""
        await self._done.wait()
        while bus.state().unsettled:  # noqa: ASYNC110 - nobody tells when it is settled
            await asyncio.sleep(0)


async def waiting_once(stack: AsyncExitStack, deliveries: int) -> list[Contender]:
    """The queue and the bus in several shapes, with a handler that lets others run once."""
    by_hand = _counting(_Countdown(), wait_once)
    contenders = [await queue_and_workers(stack, deliveries=deliveries, make_handler=lambda: by_hand)]
    for shape in WAITING_SHAPES:
        countdown = _Countdown()
        bus = await stack.enter_async_context(bus_of(shape))
        subscribe(bus, shape, _TOPIC, _counting(countdown, wait_once))
        contenders.append(_published(bus, countdown, shape, deliveries))
    return contenders


def _counting(
    countdown: _Countdown, handler: Callable[[Any], Awaitable[None]]
) -> Callable[[Any], Awaitable[None]]:
    async def counting(event: Any) -> None:
        await handler(event)
        countdown.note()

    return counting


def _published(bus: Bus, countdown: _Countdown, shape: Shape, deliveries: int, title: str = "") -> Contender:
    events = pings(shape, deliveries)

    async def segment() -> None:
        countdown.expect(deliveries)
        for event in events:
            await bus.publish(_TOPIC, event)
        await countdown.wait(bus)

    return Contender(shape.name, title or f"the bus, {shape.title}", deliveries, segment)


async def at_once(stack: AsyncExitStack) -> list[Contender]:
    """A thousand handlers that wait 10 ms each, all at once: in the bus, and gathered."""

    async def pause(event: Any) -> None:
        await asyncio.sleep(PAUSE)

    by_hand = _counting(_Countdown(), pause)

    async def gathered() -> None:
        await asyncio.gather(*(by_hand(PING) for _ in range(AT_ONCE)))

    countdown = _Countdown()
    bus = await stack.enter_async_context(bus_of(workers=AT_ONCE))
    subscribe(bus, PLAIN, _TOPIC, _counting(countdown, pause))
    title = f"{AT_ONCE:,} handlers at once that wait {PAUSE * 1e3:g} ms"
    return [
        _published(bus, countdown, PLAIN, AT_ONCE, f"the bus, {title}"),
        Contender("gather", f"asyncio.gather, {title}", AT_ONCE, gathered),
    ]


async def failing(stack: AsyncExitStack, deliveries: int) -> list[Contender]:
    """The queue, and the bus with a handler whose first attempt fails, on a virtual clock.

    The log is off: a line of it costs more than all else.
    """
    clock = VirtualClock()

    logger = logging.getLogger("promenade.bus")
    stack.callback(setattr, logger, "disabled", logger.disabled)
    logger.disabled = True
    bus = await stack.enter_async_context(bus_of(clock=clock))
    subscribe(bus, PLAIN, _TOPIC, fail_once)

    async def segment() -> None:
        for _ in range(deliveries):
            await bus.publish(_TOPIC, PING)
        await settle_retries(bus, clock)

    return [
        await queue_and_workers(stack, deliveries=deliveries),
        Contender("retry", "the bus, an attempt that fails and its retry", deliveries, segment),
    ]


async def settle_retries(bus: Bus, clock: VirtualClock) -> None:
    """Lets retries be due until all is settled; it costs less than what the clock does for tests."""
    while bus.state().unsettled:
        clock.fire_all()
        await asyncio.sleep(0)


async def blocking(stack: AsyncExitStack, deliveries: int) -> list[Contender]:
    """The bus with a sync handler, and ten tasks that give the same function to an executor."""

    def handler(event: Any) -> None:
        pass

    executor = stack.enter_context(ThreadPoolExecutor(WORKERS))
    loop = asyncio.get_running_loop()

    async def by_hand(events: int) -> None:
        for _ in range(events):
            await loop.run_in_executor(executor, handler, PING)

    async def executed() -> None:
        await asyncio.gather(*(by_hand(deliveries // WORKERS) for _ in range(WORKERS)))

    bus = await stack.enter_async_context(bus_of())
    subscribe(bus, PLAIN, _TOPIC, handler)

    async def segment() -> None:
        for _ in range(deliveries):
            await bus.publish(_TOPIC, PING)
        await bus.drain()

    return [
        Contender("executor", f"run_in_executor in {WORKERS} tasks", deliveries, executed),
        Contender("sync", "the bus, a sync handler", deliveries, segment),
    ]
