from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import promenade_bus_memory
from bus_core import (
    BuildContext,
    Bus,
    ConfigError,
    DeadLetterFilter,
    Event,
    HealthStatus,
    PermanentError,
    SystemClock,
    UnknownSubscription,
    UnsupportedFeature,
)
from promenade_bus_memory import MemoryHub, MemoryOptions
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus

pytestmark = pytest.mark.timeout(30)


class Handler:
    """Keeps the numbers of its events, and gives up on all of them while it is told to."""

    def __init__(self, *, failing: bool = False) -> None:
        self.failing = failing
        self.numbers: list[int] = []

    async def __call__(self, event: Happened) -> None:
        self.numbers.append(event.number)
        if self.failing:
            raise PermanentError("no")


# --- options ----------------------------------------------------------------------------------------------


def test_offers_the_adapter() -> None:
    """The plugin offers one adapter, which keeps nothing outside of the process and can do all the rest."""
    ((name, factory),) = promenade_bus_memory.promenade_bus_adapters().items()
    adapter = factory.build(MemoryOptions(), BuildContext(service="tests", clock=SystemClock()))
    assert name == adapter.name == "memory"
    features = adapter.features
    assert (features.in_process, features.durable, features.replay) == (True, False, False)
    assert all((features.groups, features.broadcast, features.ordered, features.delayed))


def test_bad_options() -> None:
    """Each fault of the section is told with its path."""
    with pytest.raises(ConfigError) as caught:
        make_bus(memory={"serialise": True, "dead_letters": 0, "serialize": "yes"})
    text = str(caught.value)
    assert "'serialise', did you mean 'serialize'? @ $.bus.memory" in text
    assert "$.bus.memory.dead_letters" in text
    assert "$.bus.memory.serialize" in text


async def test_earliest_is_refused() -> None:
    """Nothing is retained, so that a subscription that begins at the earliest event is refused at start."""
    bus = make_bus()
    bus.subscribe(HAPPENED, Handler(), start="earliest", name="late")
    with pytest.raises(UnsupportedFeature, match=r"'late' .* needs start='earliest'"):
        await bus.start()


# --- serialize --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialize", [False, True])
async def test_serialize(virtual_clock: VirtualClock, serialize: bool) -> None:
    """With ``serialize`` each subscription gets an equal event of its own, otherwise the very object."""
    async with running_bus(virtual_clock, memory={"serialize": serialize}) as bus:
        seen: list[Event] = []

        async def handle(event: Happened) -> None:
            seen.append(event)

        bus.subscribe(HAPPENED, handle)
        bus.subscribe("test.#", handle, name="all")
        published = happened(7)
        await bus.publish(HAPPENED, published)
        await virtual_clock.settle()
        assert seen == [published, published]
        assert [event is published for event in seen] == [not serialize] * 2
        assert (seen[0] is seen[1]) is not serialize


# --- the store of dead letters ----------------------------------------------------------------------------


async def test_store_is_bounded(virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    """A full store drops its oldest letter, logs which one, counts it as lost, and health is degraded."""
    async with running_bus(virtual_clock, memory={"dead_letters": 3}) as bus:
        handler = Handler(failing=True)
        bus.subscribe(HAPPENED, handler, name="failing")
        events = [happened(number) for number in range(5)]
        for event in events[:3]:
            await bus.publish(HAPPENED, event)
        await virtual_clock.settle()
        assert (await bus.health()).status is HealthStatus.HEALTHY
        for event in events[3:]:
            await bus.publish(HAPPENED, event)
        await virtual_clock.settle()
        letters = await bus.dead_letters.list()
        assert [letter.event_id for letter in letters] == [event.event_id for event in events[2:]]
        assert bus.state().lost == 2
        assert (await bus.health()).status is HealthStatus.DEGRADED
        lost = [record for record in caplog.records if "lost a dead letter" in record.message]
        assert [record.levelno for record in lost] == [logging.ERROR] * 2
        for record, event in zip(lost, events, strict=False):
            assert str(event.event_id) in record.message


async def test_letters_that_are_settled_make_room(virtual_clock: VirtualClock) -> None:
    """Redriving and purging make room in the store."""
    async with running_bus(virtual_clock, memory={"dead_letters": 2}) as bus:
        handler = Handler(failing=True)
        bus.subscribe(HAPPENED, handler)
        for number in range(2):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        handler.failing = False
        assert await bus.dead_letters.redrive(DeadLetterFilter()) == 2
        await virtual_clock.settle()
        handler.failing = True
        for number in range(2):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert await bus.dead_letters.purge(DeadLetterFilter()) == 2
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        assert len(await bus.dead_letters.list()) == 1
        assert bus.state().lost == 0


# --- a shared hub -----------------------------------------------------------------------------------------


@asynccontextmanager
async def two_buses(
    clock: VirtualClock, hub: MemoryHub | None = None, **options: Any
) -> AsyncIterator[tuple[Bus, Bus]]:
    hub = hub or MemoryHub()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_bus(clock, memory={"hub": hub}, **options))
        second = await stack.enter_async_context(running_bus(clock, memory={"hub": hub}, **options))
        yield first, second


async def test_buses_are_apart(virtual_clock: VirtualClock) -> None:
    """Two buses without a common hub share nothing."""
    async with running_bus(virtual_clock) as first, running_bus(virtual_clock) as second:
        mine, theirs = Handler(), Handler()
        first.subscribe(HAPPENED, mine)
        second.subscribe(HAPPENED, theirs)
        await first.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert (mine.numbers, theirs.numbers) == ([1], [])
        assert second.state().published == 0


async def test_group_competes_over_buses(virtual_clock: VirtualClock) -> None:
    """On a common hub, each event reaches one member of a group, in turn, whoever publishes."""
    async with two_buses(virtual_clock) as (first, second):
        one, two, other = Handler(), Handler(), Handler()
        first.subscribe(HAPPENED, one, name="same")
        second.subscribe(HAPPENED, two, name="same")
        second.subscribe(HAPPENED, other, name="other")
        for number in range(10):
            await (first, second)[number % 2].publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert sorted(one.numbers + two.numbers) == [*range(10)]
        assert one.numbers
        assert two.numbers
        assert other.numbers == [*range(10)]


async def test_broadcast_over_buses(virtual_clock: VirtualClock) -> None:
    """On a common hub, a broadcast subscription gets each event in every bus."""
    async with two_buses(virtual_clock) as (first, second):
        one, two = Handler(), Handler()
        first.subscribe(HAPPENED, one, name="same", mode="broadcast")
        second.subscribe(HAPPENED, two, name="same", mode="broadcast")
        for number in range(3):
            await first.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert one.numbers == two.numbers == [0, 1, 2]


async def test_bus_that_closes_hands_its_part_over(virtual_clock: VirtualClock) -> None:
    """When one bus of a hub closes, the members of its groups in the other bus get everything."""
    async with two_buses(virtual_clock) as (first, second):
        one, two = Handler(), Handler()
        first.subscribe(HAPPENED, one, name="same")
        second.subscribe(HAPPENED, two, name="same")
        report = await first.close()
        assert report.completed
        for number in range(4):
            await second.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert (one.numbers, two.numbers) == ([], [0, 1, 2, 3])


async def test_redrive_of_a_broadcast_subscription(virtual_clock: VirtualClock) -> None:
    """A letter of a broadcast subscription goes back to the bus where it failed, and nowhere else."""
    async with two_buses(virtual_clock) as (first, second):
        one, two = Handler(), Handler(failing=True)
        first.subscribe(HAPPENED, one, name="same", mode="broadcast")
        subscription = second.subscribe(HAPPENED, two, name="same", mode="broadcast")
        await first.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert await first.dead_letters.list() == []
        two.failing = False
        assert await second.dead_letters.redrive(DeadLetterFilter()) == 1
        await virtual_clock.settle()
        assert (one.numbers, two.numbers) == ([1], [1, 1])
        two.failing = True
        await first.publish(HAPPENED, happened(2))
        await virtual_clock.settle()
        await subscription.unsubscribe()
        with pytest.raises(UnknownSubscription):
            await second.dead_letters.redrive(DeadLetterFilter())
        assert one.numbers == [1, 2]


async def test_redrive_of_a_group(virtual_clock: VirtualClock) -> None:
    """A letter of a group goes to the bus's own member, or to another one when that is gone."""
    async with two_buses(virtual_clock) as (first, second):
        one, two = Handler(), Handler(failing=True)
        first.subscribe(HAPPENED, one, name="same")
        subscription = second.subscribe(HAPPENED, two, name="same")
        for number in range(4):
            await first.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        failed = [*two.numbers]
        assert len(failed) == 2
        two.failing = False
        (letter, _) = await second.dead_letters.list()
        await second.dead_letters.redrive(letter)
        await virtual_clock.settle()
        assert two.numbers == [*failed, failed[0]]
        await subscription.unsubscribe()
        await second.dead_letters.redrive(DeadLetterFilter())
        await virtual_clock.settle()
        assert one.numbers[-1] == failed[1]


async def test_hub_keeps_no_closed_bus(virtual_clock: VirtualClock) -> None:
    """A hub that outlives its buses does not keep what was subscribed or watched by them."""
    hub = MemoryHub()
    async with two_buses(virtual_clock, hub) as (first, second):
        first.subscribe(HAPPENED, Handler())
        second.subscribe(OTHER, Handler())
    assert list(hub.route(HAPPENED.name)) == []
    assert list(hub.route(OTHER.name)) == []
    assert hub._watchers == []
