"""Costs that may not grow faster than what causes them; counted in calls, which no busy machine changes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bus_core import Bus
from support.buses import HAPPENED, Happened, happened, running_bus, state_of, until
from support.handlers import ignore


class Calls:
    """Counts the Python calls of a block, resumed generators included."""

    def __init__(self) -> None:
        self.count = 0

    def _profile(self, _frame: Any, kind: str, _argument: Any) -> None:
        self.count += kind == "call"

    def __enter__(self) -> Calls:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


async def calls_of_subscribing(bus: Bus, number: int) -> int:
    def subscribe() -> None:
        async def on_event(event: Happened) -> None: ...

        bus.subscribe(HAPPENED, on_event)

    with Calls() as calls:
        for _ in range(number):
            subscribe()
    return calls.count


async def calls_of_unsubscribing(bus: Bus, number: int) -> int:
    async def handle(event: Happened) -> None: ...

    subscription = bus.subscribe(HAPPENED, handle, ordered=True)
    subscription.pause()
    for _ in range(number):
        await bus.publish(HAPPENED, happened())
    with Calls() as calls:
        await subscription.unsubscribe()
    return calls.count


@pytest.mark.parametrize("measure", [calls_of_subscribing, calls_of_unsubscribing])
async def test_four_times_as_much_costs_four_times_as_much(
    measure: Callable[[Bus, int], Awaitable[int]],
) -> None:
    """Subscribing without names, and unsubscribing with a backlog, cost the same for each."""
    costs: list[int] = []
    for number in (100, 400):
        async with running_bus() as bus:
            costs.append(await measure(bus, number))
    assert costs[1] < 5 * costs[0], costs


async def test_a_look_at_the_state_costs_nothing_per_event() -> None:
    """However many events are queued, reading the state makes the same calls."""
    costs: list[int] = []
    for number in (10, 10, 1000):  # the first look fills caches
        async with running_bus(buffer_size=10_000) as bus:
            bus.subscribe(HAPPENED, ignore)
            for _ in range(number):
                await bus.publish(HAPPENED, happened())
            with Calls() as calls:
                assert bus.state().unsettled == number
            costs.append(calls.count)
    assert costs[1] == costs[2]


@pytest.mark.parametrize("restriction", [{}, {"concurrency": 1}, {"ordered": True}], ids=str)
async def test_a_look_at_the_state_changes_nothing(restriction: dict[str, Any]) -> None:
    """Queued, running and handled events are counted right, however often one asks meanwhile."""
    gate = asyncio.Event()
    handled = 0

    async def handle(event: Happened) -> None:
        nonlocal handled
        if event.number == 3:
            await gate.wait()
        handled += 1

    async with running_bus(worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, handle, name="handle", **restriction)
        for number in range(8):
            await bus.publish(HAPPENED, happened(number))
        assert state_of(bus) == state_of(bus)
        assert (state_of(bus).queued, state_of(bus).handled) == (8, 0)
        await until(lambda: handled == 3 and state_of(bus).running)
        state = state_of(bus)
        assert state == state_of(bus)
        assert (state.queued, state.running, state.handled) == (4, 1, 3)
        gate.set()
        await bus.drain()
        assert (state_of(bus).queued, state_of(bus).running, state_of(bus).handled) == (0, 0, 8)
