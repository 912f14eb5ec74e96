"""Costs that may not grow faster than what causes them; counted in calls, which no busy machine changes."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from bus_core import Bus, Topic
from support.buses import HAPPENED, Happened, happened, running_bus, state_of, until
from support.handlers import Collecting, ignore

pytestmark = pytest.mark.once


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


@pytest.mark.parametrize("names", ["no name", "one name", "a name each"])
async def test_a_topic_costs_the_same_among_many(names: str) -> None:
    """Each subscription, first publish, unsubscription and the close take as many steps among more topics."""
    await steps_per_topic(10, names)  # which fills caches
    assert_alike(*[await steps_per_topic(number, names) for number in (60, 600)])


@pytest.mark.parametrize("names", ["no name", "one name", "a name each"])
async def test_a_pattern_costs_the_same_among_many(names: str) -> None:
    """Each pattern that covers a few topics takes as many steps among more of them, and more topics."""
    assert_alike(*[await steps_per_pattern(number, names) for number in (10, 60)])


class Steps:
    """Counts the steps of a block per item: calls, lines, and rounds of loops."""

    def __init__(self) -> None:
        self.per_item: dict[str, float] = {}
        self._count = 0

    def _trace(self, _frame: object, kind: str, _argument: object) -> Any:
        self._count += kind in ("call", "line")
        return self._trace

    @contextmanager
    def of(self, what: str, items: Sequence[object]) -> Iterator[None]:
        self._count = 0
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)
        self.per_item[what] = self._count / len(items)


def assert_alike(few: dict[str, float], many: dict[str, float]) -> None:
    """The steps per item are equal, or nearly so."""
    assert all(many[what] <= 1.05 * steps for what, steps in few.items()), (few, many)


def name_for(names: str, text: str) -> str | None:
    return {"no name": None, "one name": "gateway"}.get(names, "of-" + re.sub("[*#]", "all", text))


async def steps_per_topic(number: int, names: str) -> dict[str, float]:
    """Of subscribing to so many topics beside 100 patterns, publishing on each, and leaving half of them."""
    steps = Steps()
    topics = [Topic(f"test.part{index % 10}.topic{index}", Happened) for index in range(number)]
    half = topics[::2]
    async with running_bus(buffer_size=10_000) as bus:
        for index in range(100):
            bus.subscribe(f"test.*.other{index}.#", ignore, name=f"pattern{index}")
        with steps.of("subscribe", topics):
            made = [bus.subscribe(each, ignore, name=name_for(names, each.name)) for each in topics]
        with steps.of("first publish", topics):
            for topic in topics:
                await bus.publish(topic, happened())
        await bus.drain()
        with steps.of("unsubscribe", half):
            for subscription in made[::2]:
                await subscription.unsubscribe()
        with steps.of("come and go", half):
            for topic in half:
                bus.subscribe(topic, ignore, name=name_for(names, topic.name))
                await bus.unsubscribe(topic, ignore)
        with steps.of("close", half):
            await bus.close()
    return steps.per_item


async def steps_per_pattern(number: int, names: str) -> dict[str, float]:
    """Of subscribing to so many patterns over ten times as many topics, publishing, and leaving."""
    steps = Steps()
    topics = [Topic(f"test.part{index % number}.topic{index}", Happened) for index in range(10 * number)]
    texts = [f"*.part{index}.#" for index in range(number)]
    async with running_bus(buffer_size=10_000) as bus:
        for topic in topics:
            bus.subscribe(topic, Collecting().collect)
        for topic in topics:
            await bus.publish(topic, happened())
        with steps.of("subscribe", texts):
            made = [bus.subscribe(text, ignore, name=name_for(names, text)) for text in texts]
        with steps.of("publish", topics):
            for topic in topics:
                await bus.publish(topic, happened())
        await bus.drain()
        with steps.of("unsubscribe", texts):
            for subscription in made:
                await subscription.unsubscribe()
    return steps.per_item


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
