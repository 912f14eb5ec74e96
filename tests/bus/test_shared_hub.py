from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bus_core import Bus, BusClosed, ConfigError, Factory, Topic, WrongEventLoop, open_bus
from promenade_bus_memory import MemoryHub, MemoryOptions
from promenade_bus_memory.adapter import MemoryAdapter
from support.buses import HAPPENED, OTHER, WITHIN, Happened, happened, make_bus, running_bus, until
from support.handlers import Collecting, ignore, outlast_cancellation
from support.inline_plugins import plugin


class Buses(AsyncExitStack):
    """Started buses that share one hub."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.hub = MemoryHub()
        self._options = options

    async def open(self, **options: Any) -> Bus:
        """One more bus."""
        memory = {"hub": self.hub}
        return await self.enter_async_context(running_bus(memory=memory, **self._options, **options))


async def drain(*buses: Bus) -> None:
    for bus in buses:
        await bus.drain()


async def test_groups_compete_over_buses() -> None:
    """Subscriptions of one name and service compete for events, in turn, wherever these were published."""
    async with Buses() as buses:
        one, two, three = [await buses.open() for _ in range(3)]
        collecting = [Collecting() for _ in range(3)]
        for bus, collector in zip((one, two, three), collecting, strict=True):
            bus.subscribe(HAPPENED, collector.collect, name="worker")
        for number in range(30):
            await (one, two)[number % 2].publish(HAPPENED, happened(number))
        await drain(one, two, three)
        assert sorted(number for item in collecting for number in item.numbers) == list(range(30))
        assert all(len(item.numbers) >= 5 for item in collecting)


async def test_broadcast_reaches_each_bus() -> None:
    """A broadcast subscription gets each event in every bus."""
    async with Buses() as buses:
        one, two = await buses.open(), await buses.open()
        first, second = Collecting(), Collecting()
        one.subscribe(HAPPENED, first.collect, name="cache", mode="broadcast")
        two.subscribe("test.#", second.collect, name="cache", mode="broadcast")
        for number in range(5):
            await one.publish(HAPPENED, happened(number))
        await drain(one, two)
    assert first.numbers == second.numbers == list(range(5))


async def test_different_groups_each_get_an_event() -> None:
    """Names that differ, and services that differ, are groups of their own."""
    async with Buses() as buses:
        shop, crm = await buses.open(service="shop"), await buses.open(service="crm")
        by_shop, by_crm, audit = Collecting(), Collecting(), Collecting()
        shop.subscribe(HAPPENED, by_shop.collect, name="mail")
        crm.subscribe(HAPPENED, by_crm.collect, name="mail")
        crm.subscribe(HAPPENED, audit.collect, name="audit")
        for number in range(5):
            await shop.publish(HAPPENED, happened(number))
        await drain(shop, crm)
    assert by_shop.numbers == by_crm.numbers == audit.numbers == list(range(5))


async def test_services_never_share_a_group() -> None:
    """Two services get each event, also where a dot, or what stands for one, makes their names look alike."""
    async with Buses() as buses:
        services = {"shop": "eu.mail", "shop.eu": "mail", "shop%2Eeu": "mail", "shop%252Eeu": "mail"}
        publisher, received = await buses.open(), list[Collecting]()
        groups: list[str] = []
        for service, name in services.items():
            bus, collecting = await buses.open(service=service), Collecting()
            groups.append(bus.subscribe(HAPPENED, collecting.collect, name=name).group)
            received.append(collecting)
        assert groups[:2] == ["shop.eu.mail", "shop%2Eeu.mail"]
        for number in range(5):
            await publisher.publish(HAPPENED, happened(number))
        for collecting in received:
            await until(lambda collecting=collecting: collecting.numbers == list(range(5)), "all arrive")


async def test_many_wait_for_room_in_two_buses() -> None:
    """Publishers that wait for room in the same two buses come to an end, whichever line they are in."""
    async with Buses(buffer_size=1) as buses:
        opened = [await buses.open() for _ in range(2)]
        collecting = [Collecting(), Collecting()]
        for bus, collector in zip(opened, collecting, strict=True):
            bus.subscribe(HAPPENED, collector.collect, mode="broadcast")
        publishing = [opened[number % 2].publish(HAPPENED, happened(number)) for number in range(20)]
        await asyncio.wait_for(asyncio.gather(*publishing), WITHIN)
        await drain(*opened)
        assert [sorted(collector.numbers) for collector in collecting] == [[*range(20)]] * 2


async def test_without_a_hub_nothing_is_shared() -> None:
    """Buses share events only through a hub that both were given."""
    async with running_bus() as one, running_bus(memory={"hub": MemoryHub()}) as two:
        received = Collecting()
        two.subscribe(HAPPENED, received.collect)
        await one.publish(HAPPENED, happened())
        await drain(one, two)
        assert received.numbers == []
        assert one.state().unrouted == 1


async def test_subscriptions_that_come_and_go() -> None:
    """A bus that published directly before notices the subscriptions of another bus at once."""
    async with Buses() as buses:
        one, two = await buses.open(), await buses.open()
        own, other = Collecting(), Collecting()
        one.subscribe(HAPPENED, own.collect, name="own")
        for number in range(3):
            await one.publish(HAPPENED, happened(number))
        subscription = two.subscribe(HAPPENED, other.collect, name="other")
        for number in range(3, 6):
            await one.publish(HAPPENED, happened(number))
        await subscription.unsubscribe()
        for number in range(6, 9):
            await one.publish(HAPPENED, happened(number))
        await drain(one, two)
    assert own.numbers == list(range(9))
    assert other.numbers == [3, 4, 5]


async def test_a_member_that_closes_leaves_its_group() -> None:
    """When a bus closes, it handles what it was given, and the others of its group get the rest."""
    async with Buses() as buses:
        one, two = await buses.open(), await buses.open()
        first, second = Collecting(), Collecting()
        one.subscribe(HAPPENED, first.collect, name="worker")
        two.subscribe(HAPPENED, second.collect, name="worker")
        for number in range(10):
            await one.publish(HAPPENED, happened(number))
        assert (await two.close()).completed
        for number in range(10, 20):
            await one.publish(HAPPENED, happened(number))
        await one.drain()
        assert sorted(first.numbers + second.numbers) == list(range(20))
        assert max(second.numbers) < 10


async def test_publishing_while_another_bus_closes() -> None:
    """An event that is published while another bus of the hub closes is handled somewhere: none is lost."""
    handled: Counter[int] = Counter()

    async def count(event: Happened) -> None:
        await asyncio.sleep(0)
        handled[event.number] += 1

    async with Buses() as buses:
        one, two = await buses.open(), await buses.open()
        one.subscribe(HAPPENED, count, name="worker")
        two.subscribe(HAPPENED, count, name="worker")
        closing: asyncio.Task[Any] | None = None
        for number in range(500):
            await one.publish(HAPPENED, happened(number))
            await asyncio.sleep(0)
            if number == 100:
                closing = asyncio.create_task(two.close())
        assert closing is not None
        report = await closing
        await one.drain()
        assert report.completed
        assert handled == Counter(range(500))


async def test_waiting_for_room_in_a_bus_that_closes() -> None:
    """A publisher that waits for room in another bus goes on when that one closes; its event is handled."""
    release = asyncio.Event()
    received: list[int] = []

    async def hold(event: Happened) -> None:
        await release.wait()
        received.append(event.number)

    async with Buses(buffer_size=1) as buses:
        one, two = await buses.open(), await buses.open()
        two.subscribe(HAPPENED, hold, name="worker")
        await one.publish(HAPPENED, happened(0))
        waiting = asyncio.create_task(one.publish(HAPPENED, happened(1)))
        await until(lambda: two.state().waiting_publishers == 1)
        closing = asyncio.create_task(two.close())
        await asyncio.wait_for(waiting, WITHIN)
        release.set()
        assert (await closing).completed
    assert received == [0, 1]


async def test_publishing_while_another_bus_gives_up() -> None:
    """While another bus abandons a handler that will not end, its group mates get the events."""
    begun, release = asyncio.Event(), asyncio.Event()
    received = Collecting()

    async def stubborn(event: Happened) -> None:
        begun.set()
        await outlast_cancellation(release)

    async with Buses() as buses:
        one, two = await buses.open(), await buses.open()
        two.subscribe(HAPPENED, stubborn, name="worker")
        await one.publish(HAPPENED, happened(0))
        await begun.wait()
        one.subscribe(HAPPENED, received.collect, name="worker")
        closing = asyncio.create_task(two.close(0))
        for number in range(1, 50):
            await one.publish(HAPPENED, happened(number))
            await asyncio.sleep(0)
        report = await closing
        await one.drain()
        release.set()
        given_up = len(report.abandoned) - 1
        assert len(received.numbers) + given_up == 49


async def test_the_buffer_of_the_bus_that_handles_counts() -> None:
    """An event takes a place in the buffer of each bus that handles it, and waits for room in all of them."""
    release = asyncio.Event()

    async def hold(event: Happened) -> None:
        await release.wait()

    async with Buses(buffer_size=1) as buses:
        one, two = await buses.open(), await buses.open()
        one.subscribe(HAPPENED, ignore, name="one")
        two.subscribe(HAPPENED, hold, name="two")
        received = Collecting()
        one.subscribe(OTHER, received.collect, name="other")
        await one.publish(HAPPENED, happened(0))
        waiting = asyncio.create_task(one.publish(HAPPENED, happened(1)))
        await until(lambda: two.state().waiting_publishers == 1)
        assert (one.state().unsettled, two.state().unsettled) == (0, 1)
        await asyncio.wait_for(one.publish(OTHER, happened(2)), WITHIN)
        await one.drain()
        assert received.numbers == [2]
        assert not waiting.done()
        release.set()
        await waiting
        await drain(one, two)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_place_that_is_not_needed_goes_to_the_next(cancelled: bool) -> None:
    """A publisher that got a place in one bus, and now waits for another bus, does not hold up the first."""
    open_own, open_other = asyncio.Event(), asyncio.Event()

    async def hold_own(event: Happened) -> None:
        await open_own.wait()

    async def hold_other(event: Happened) -> None:
        await open_other.wait()

    async with Buses(buffer_size=1, worker_pool_size=1) as buses:
        own, other = await buses.open(), await buses.open()
        own.subscribe(HAPPENED, hold_own, name="own")
        other.subscribe("test.#", hold_other, name="other")
        await own.publish(HAPPENED, happened(0))
        both = asyncio.create_task(own.publish(HAPPENED, happened(1)))
        await until(lambda: other.state().waiting_publishers == 1)
        only_other = asyncio.create_task(own.publish(OTHER, happened(2)))
        await until(lambda: other.state().waiting_publishers == 2)
        open_other.set()
        await asyncio.wait_for(only_other, WITHIN)
        assert not both.done()
        if cancelled:
            both.cancel()
        open_own.set()
        await asyncio.wait_for(asyncio.wait((both,)), WITHIN)
        await drain(own, other)


async def test_a_redrive_goes_back_to_the_group() -> None:
    """A dead letter of a group may be redriven by a bus of the hub that has the group."""
    broken = True
    received: list[int] = []

    async def fragile(event: Happened) -> None:
        if broken:
            raise ValueError
        received.append(event.number)

    async with Buses(retry_attempts=1) as buses:
        one, two = await buses.open(), await buses.open()
        one.subscribe(HAPPENED, fragile, name="fragile")
        two.subscribe(HAPPENED, ignore, name="other")
        await two.publish(HAPPENED, happened(4))
        await drain(one, two)
        (letter,) = await one.dead_letters.list()
        broken = False
        assert await one.dead_letters.redrive(letter) == 1
        await drain(one, two)
    assert received == [4]


async def test_a_hub_belongs_to_one_loop() -> None:
    """Publishing to a bus of the hub on another loop is refused, and leaves nothing half accepted."""
    hub = MemoryHub()
    ready, over = threading.Event(), threading.Event()
    states: list[Any] = []

    def elsewhere() -> None:
        async def main() -> None:
            async with running_bus(memory={"hub": hub}) as other:
                other.subscribe(HAPPENED, ignore)
                ready.set()
                await asyncio.to_thread(over.wait, WITHIN)
                states.append(other.state())

        asyncio.run(main())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(ready.wait, WITHIN)
    try:
        async with running_bus(memory={"hub": hub}) as bus:
            bus.subscribe(HAPPENED, ignore)
            with pytest.raises(WrongEventLoop):
                await bus.publish(HAPPENED, happened())
            assert (bus.state().published, bus.state().unsettled) == (0, 0)
    finally:
        over.set()
        await asyncio.to_thread(thread.join)
    assert states[0].unsettled == 0


async def test_a_closed_bus_lets_go_of_the_hub() -> None:
    """A bus that was closed, or never started, keeps nothing in the hub."""
    async with Buses() as buses:
        one = await buses.open()
        never = make_bus(memory={"hub": buses.hub})
        never.subscribe(HAPPENED, ignore)
        gone = make_bus(memory={"hub": buses.hub})
        async with gone:
            gone.subscribe(HAPPENED, ignore)
        await one.publish(HAPPENED, happened())
        assert one.state().unrouted == 1
        with pytest.raises(BusClosed):
            gone.subscribe(HAPPENED, ignore)
        assert len(buses.hub.__dict__["_watchers"]) == 1


# --- how a hub is given -----------------------------------------------------------------------------------


async def test_a_hub_from_a_plugin() -> None:
    """A hub may also be given by a plugin that offers an adapter of its own."""
    hub = MemoryHub()

    def build(options: MemoryOptions, _context: Any) -> MemoryAdapter:
        return MemoryAdapter(MemoryOptions(serialize=options.serialize, hub=hub))

    offering = plugin(adapters={"shared": Factory(MemoryOptions, build)})
    one, two = (open_bus({"bus": {"adapter": "shared"}}, plugins=[offering]) for _ in range(2))
    received = Collecting()
    async with one, two:
        two.subscribe(HAPPENED, received.collect)
        await one.publish(HAPPENED, happened(3))
        await drain(one, two)
    assert received.numbers == [3]


@pytest.mark.parametrize("hub", ["main", 5, {}])
def test_a_hub_is_given_in_code_only(hub: Any, tmp_path: Path) -> None:
    """A hub in a file is a fault that says so."""
    with pytest.raises(ConfigError, match=r"a MemoryHub can only be passed in code @ \$\.bus\.memory\.hub"):
        make_bus(memory={"hub": hub})


async def test_topics_are_known_per_bus() -> None:
    """A hub shares events, not the knowledge of topics."""
    async with Buses() as buses:
        one, two = await buses.open(), await buses.open()
        own = Topic("test.own.happened", Happened)
        received = Collecting()
        two.subscribe("test.own.*", received.collect)
        await one.publish(own, happened(1))
        await drain(one, two)
        assert own.name in one.topics
        assert own.name not in two.topics
    assert received.numbers == [1]
