"""Buses on the memory adapter for tests, and what is published on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import promenade_bus_memory
from bus_core import Bus, Clock, Event, SubscriptionState, Topic, event, open_bus
from promenade_bus_testing import VirtualClock

WITHIN = 10.0
"""Seconds of real time after which a test gives up waiting for a condition."""


@event
class Happened(Event):
    """Something happened."""

    number: int = 0


HAPPENED = Topic("test.thing.happened", Happened)
OTHER = Topic("test.other.happened", Happened)


def happened(number: int = 0, key: UUID | None = None) -> Happened:
    """An event with a number, of an aggregate of its own unless told otherwise."""
    return Happened(aggregate_id=key or uuid4(), number=number)


def make_bus(
    clock: Clock | None = None,
    *,
    plugins: Iterable[object] = (),
    memory: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Bus:
    """A bus that is not started; ``settings`` are keys of ``bus``. Installed plugins are left alone."""
    config = {
        "app": {"name": "tests"},
        "bus": {"adapter": "memory", "memory": dict(memory or {}), **settings},
    }
    return open_bus(config, plugins=[promenade_bus_memory, *plugins], installed=False, clock=clock)


@asynccontextmanager
async def running_bus(clock: Clock | None = None, **options: Any) -> AsyncIterator[Bus]:
    """A started bus, stopped without further waiting at the end, whatever it still holds."""
    bus = make_bus(clock, **options)
    await bus.start()
    try:
        yield bus
    finally:
        await close_now(bus, clock)


async def close_now(bus: Bus, clock: Clock | None = None) -> None:
    """Closes a bus without waiting for anything that it holds."""
    closing = asyncio.ensure_future(bus.close(0))
    if isinstance(clock, VirtualClock):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.fire_all()
    await asyncio.wait_for(closing, WITHIN)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Returns when the condition holds; raises AssertionError when it does not come to hold in time."""
    deadline = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never came to hold: {what or condition}")
        await asyncio.sleep(0.001)


def state_of(bus: Bus, name: str | None = None) -> SubscriptionState:
    """The counters of the subscription of that name, or of the only one."""
    states = [state for state in bus.state().subscriptions if name in (None, state.name)]
    assert len(states) == 1, f"{len(states)} subscriptions are named {name!r}"
    return states[0]
