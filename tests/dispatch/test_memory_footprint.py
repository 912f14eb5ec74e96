from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable

import pytest

from bus_core import Bus, Delivery, Event
from support.buses import HAPPENED, Happened, happened, running_bus, until
from support.handlers import ignore

EVENTS = 5_000


@pytest.fixture(autouse=True)
def _a_sample() -> None:
    """The first event of each class is kept by conftest.py."""
    happened()


async def _ignore_with_delivery(event: Event, delivery: Delivery) -> None: ...


def _one(bus: Bus) -> None:
    bus.subscribe(HAPPENED, ignore)


def _ten(bus: Bus) -> None:
    for _ in range(10):
        bus.subscribe(HAPPENED, ignore)


def _with_delivery(bus: Bus) -> None:
    bus.subscribe(HAPPENED, _ignore_with_delivery)


def _pattern(bus: Bus) -> None:
    bus.subscribe("test.#", ignore)


def _ordered(bus: Bus) -> None:
    bus.subscribe(HAPPENED, ignore, ordered=True)


async def bytes_per_queued_event(bus: Bus) -> float:
    """The memory that a queued event takes beyond the event itself."""
    events = [happened(number) for number in range(EVENTS)]
    await bus.publish(HAPPENED, events[0])
    await bus.drain()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for event in events:
            await bus.publish(HAPPENED, event)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bus.state().unsettled == EVENTS
    await bus.drain()
    return (after - before) / EVENTS


@pytest.mark.parametrize(
    ("subscribe", "bound"),
    [(_one, 150), (_ten, 150), (_with_delivery, 320), (_pattern, 320), (_ordered, 600)],
    ids=["plain", "fan-out", "delivery", "pattern", "ordered"],
)
async def test_a_queued_event(subscribe: Callable[[Bus], None], bound: int) -> None:
    """A queued event costs at most 150 bytes beyond itself, for however many plain handlers it is."""
    async with running_bus(buffer_size=2 * EVENTS) as bus:
        subscribe(bus)
        assert await bytes_per_queued_event(bus) <= bound


@pytest.mark.parametrize("subscribe", [_one, _ten, _with_delivery, _pattern])
async def test_a_handled_event_is_let_go(subscribe: Callable[[Bus], None]) -> None:
    """An idle bus keeps no event alive that it has handled."""
    async with running_bus() as bus:
        subscribe(bus)
        for number in range(100, 164):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        assert numbers_alive() == []


async def test_held_up_among_others() -> None:
    """A handler that waits keeps alive its own event, and none of those that came beside it."""
    async with running_bus() as bus:
        gate = asyncio.Event()

        async def wait_at_the_last(event: Happened) -> None:
            if event.number == 190:
                await gate.wait()

        subscription = bus.subscribe(HAPPENED, wait_at_the_last)
        subscription.pause()
        for number in range(100, 200):
            await bus.publish(HAPPENED, happened(number))
        subscription.resume()
        await until(lambda: bus.state().unsettled == 1)
        assert numbers_alive() == [190]
        gate.set()
        await bus.drain()


def numbers_alive() -> list[int]:
    """Those of the events that were not let go."""
    gc.collect()
    return [thing.number for thing in gc.get_objects() if type(thing) is Happened and thing.number >= 100]
