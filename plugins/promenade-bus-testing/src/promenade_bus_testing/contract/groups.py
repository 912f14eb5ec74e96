"""Contract tests of groups and broadcast with several instances of a service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

from bus_core import PermanentError
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import THING, happened
from promenade_bus_testing.contract.harness import Call, Harness, Listener
from promenade_bus_testing.contract.outcomes import raising
from promenade_bus_testing.contract.running import contract

__all__ = ["GroupTests"]

_LEASE = 0.6
"""Seconds of real time."""


def numbers_of(*listeners: Listener) -> list[int]:
    """Returns the numbers handled by several instances of a subscription together."""
    return [number for listener in listeners for number in listener.done]


def _is_over(moment: float) -> bool:
    return time.monotonic() > moment


def _stepped(clock: Callable[[], float], step: float) -> float:
    return clock() + step


class GroupTests:
    """Groups and broadcast."""

    @contract("groups")
    async def test_instances_of_a_group_compete(self, harness: Harness) -> None:
        """Subscriptions with the same name and service are one group: one of them handles each event."""
        count = harness.scale(200, 10_000)
        buses = [await harness.bus() for _ in range(3)]
        listeners = [await harness.listen(bus, name="worker") for bus in buses]
        for number in range(count):
            await harness.publish(buses[number % 2], number)
        await harness.until(lambda: len(numbers_of(*listeners)) >= count, "all events are handled")
        await harness.drain()
        assert_once(numbers_of(*listeners), range(count), "the group")

    @contract("groups")
    async def test_groups_are_isolated(self, harness: Harness) -> None:
        """Different names or services make different groups, and each group receives every event."""
        shop = await harness.bus(service="shop")
        crm = await harness.bus(service="crm")
        mail = await harness.listen(shop, name="mail")
        audit = await harness.listen(shop, name="audit")
        of_crm = await harness.listen(crm, name="mail")
        await harness.publish(shop, *range(20))
        await harness.publish(crm, *range(20, 40))
        await harness.until(lambda: len(numbers_of(mail, audit, of_crm)) >= 120, "all events are handled")
        await harness.drain()
        for who, listener in {"mail": mail, "audit": audit, "mail of another service": of_crm}.items():
            assert_once(listener.numbers, range(40), who)

    @contract("groups")
    async def test_failures_stay_in_their_group(self, harness: Harness) -> None:
        """An event that one group retries or dead-letters is not delivered to another group again."""
        one, two = await harness.bus(service="one"), await harness.bus(service="two")
        flaky = await harness.listen(one, name="worker", act=raising(ValueError("a"), PermanentError("b")))
        steady = await harness.listen(two, name="worker")
        await harness.publish(one, *range(10))
        await harness.until(lambda: len(steady.done) >= 10 and len(flaky.done) >= 9, "all are handled")
        await harness.drain()
        assert_once(steady.numbers, range(10))
        assert len(flaky.calls) == 11
        assert len(await one.dead_letters.list(subscription="worker")) == 1

    @contract("groups")
    async def test_groups_of_several_instances(self, harness: Harness) -> None:
        """Two groups of two instances, under concurrent publishers: each group receives each event once."""
        count = harness.scale(200, 5_000)
        buses = [await harness.bus() for _ in range(2)]
        groups = {
            name: [await harness.listen(bus, name=name, plain=name == "second") for bus in buses]
            for name in ("first", "second")
        }

        async def publish(bus_index: int) -> None:
            for number in range(bus_index, count, 2):
                await buses[bus_index].publish(THING, happened(number))
                harness.progress += 1

        async def publish_all() -> None:
            await asyncio.gather(publish(0), publish(1))

        await harness.finish(publish_all(), "all events are published")
        await harness.until(
            lambda: all(len(numbers_of(*listeners)) >= count for listeners in groups.values()),
            "all events are handled",
        )
        await harness.drain()
        for name, listeners in groups.items():
            assert_once(numbers_of(*listeners), range(count), f"the {name} group")

    @contract("groups")
    async def test_retries_of_a_group(self, harness: Harness) -> None:
        """An event that fails in a group is retried by the group, not once by each instance."""
        buses = [await harness.bus() for _ in range(2)]
        attempts: list[tuple[int, int]] = []

        def fail(call: Call) -> None:
            attempts.append((call.number, call.attempt))
            raise ValueError("no")

        for bus in buses:
            await harness.listen(bus, name="worker", act=fail)
        await harness.publish(buses[0], *range(6))
        await harness.until(lambda: len(attempts) >= 18, "all attempts are made")
        await harness.drain()
        assert sorted(attempts) == [(number, attempt) for number in range(6) for attempt in (1, 2, 3)]

    @contract("groups")
    async def test_instance_joins(self, harness: Harness) -> None:
        """An instance that joins its group under traffic loses no event and repeats none."""
        first_bus, second_bus = await harness.bus(), await harness.bus()
        first = await harness.listen(first_bus, name="worker")
        await harness.publish(first_bus, *range(100))
        second = await harness.listen(second_bus, name="worker")
        await harness.publish(first_bus, *range(100, 200))
        await harness.until(lambda: len(numbers_of(first, second)) >= 200, "all events are handled")
        await harness.drain()
        assert_once(numbers_of(first, second), range(200), "the group")

    @contract("groups")
    async def test_instance_leaves(self, harness: Harness) -> None:
        """An instance that closes under traffic finishes its handlers; the others handle the rest, once."""
        count = harness.scale(300, 5_000)
        staying_bus, leaving_bus = await harness.bus(), await harness.bus()

        async def give_way(_call: Call) -> None:
            await asyncio.sleep(0)

        staying = await harness.listen(staying_bus, name="worker", act=give_way)
        leaving = await harness.listen(leaving_bus, name="worker", act=give_way)
        await harness.publish(staying_bus, *range(count // 3))
        closing = asyncio.ensure_future(leaving_bus.close())
        await harness.publish(staying_bus, *range(count // 3, count))
        await harness.until(closing.done, "the instance closes")
        assert (await closing).completed
        await harness.until(lambda: len(numbers_of(staying, leaving)) >= count, "all events are handled")
        await harness.drain()
        assert_once(numbers_of(staying, leaving), range(count), "the group")

    @contract("groups", "durable")
    async def test_group_outlives_its_instances(self, harness: Harness) -> None:
        """Events published while no instance of a group runs are kept for the next one."""
        publisher = await harness.bus(service="publisher")
        first_bus = await harness.bus()
        first = await harness.listen(first_bus, name="worker")
        await harness.publish(publisher, *range(20))
        await harness.until(lambda: len(first.done) >= 20, "the first instance handles its events")
        await harness.close(first_bus)
        await harness.publish(publisher, *range(20, 50))
        second = await harness.listen(await harness.bus(), name="worker")
        await harness.until(lambda: len(second.done) >= 30, "the next instance handles the rest")
        await harness.drain()
        assert_once(numbers_of(first, second), range(50), "the group")
        assert {call.attempt for call in second.calls} == {1}

    @contract("durable", "groups", hook="with_lease")
    async def test_blocking_handler_keeps_its_lease(self, harness: Harness) -> None:
        """An instance keeps its messages while a handler blocks its event loop beyond the lease."""
        harness.shorten_leases(_LEASE)
        rival = harness.new_sync_bus()
        taken: list[int] = []

        def block(call: Call) -> None:
            if call.number == 0:
                rival.start()
                rival.subscribe(THING, lambda event: taken.append(event.number), name="worker")
                time.sleep(3 * _LEASE)

        bus = await harness.bus()
        listener = await harness.listen(bus, name="worker", act=block)
        await harness.publish(bus, *range(5))
        try:
            await harness.until(lambda: len(listener.done) + len(taken) >= 5, "all events are handled")
            await harness.drain()
        finally:
            await asyncio.to_thread(rival.close)
        assert_once([*listener.numbers, *taken], range(5), "the group")

    @contract("durable", "groups", hook="with_lease")
    async def test_time_of_day_ends_no_lease(self, harness: Harness) -> None:
        """A system's clock that is set, both ways, takes no event from a handler that runs."""
        harness.shorten_leases(_LEASE)
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        bus = await harness.bus()
        first = await harness.listen(bus, name="worker", act=wait)
        await harness.publish(bus, 1)
        await harness.until(lambda: first.calls, "the handler runs")
        rivals = [await harness.listen(await harness.bus(), name="worker")]
        real = time.time
        for step in (3600.0, -3600.0):
            with mock.patch("time.time", partial(_stepped, real, step)):
                rivals.append(await harness.listen(await harness.bus(), name="worker"))
                await harness.until(partial(_is_over, time.monotonic() + 2 * _LEASE), "leases are over")
                assert [each.calls for each in rivals] == [[]] * len(rivals)
        gate.set()
        await harness.until(lambda: first.done, "the handler ends")
        await harness.drain()
        assert first.numbers == [1]

    @contract("broadcast")
    async def test_broadcast_reaches_each_instance(self, harness: Harness) -> None:
        """A broadcast subscription receives each event once in every instance."""
        buses = [await harness.bus() for _ in range(3)]
        listeners = [await harness.listen(bus, name="cache", mode="broadcast") for bus in buses]
        for number in range(60):
            await harness.publish(buses[number % 3], number)
        await harness.until(lambda: min(len(each.done) for each in listeners) >= 60, "all are handled")
        await harness.drain()
        for index, listener in enumerate(listeners):
            assert_once(listener.numbers, range(60), f"instance {index}")

    @contract("broadcast")
    async def test_broadcast_retries_stay_in_their_instance(self, harness: Harness) -> None:
        """An event that one instance of a broadcast subscription retries is not delivered to others again."""
        buses = [await harness.bus() for _ in range(2)]
        flaky = await harness.listen(buses[0], name="cache", mode="broadcast", act=raising(ValueError()))
        steady = await harness.listen(buses[1], name="cache", mode="broadcast")
        await harness.publish(buses[1], 1, 2)
        await harness.until(lambda: len(flaky.done) + len(steady.done) >= 4, "all are handled")
        await harness.drain()
        assert len(flaky.calls) == 3
        assert_once(steady.numbers, [1, 2])

    @contract("groups", "broadcast")
    async def test_groups_and_broadcast_side_by_side(self, harness: Harness) -> None:
        """On one topic a group handles each event once, and broadcast subscriptions receive it everywhere."""
        buses = [await harness.bus() for _ in range(2)]
        workers = [await harness.listen(bus, name="worker") for bus in buses]
        caches = [await harness.listen(bus, name="cache", mode="broadcast") for bus in buses]
        await harness.publish(buses[0], *range(40))
        await harness.until(lambda: len(numbers_of(*workers, *caches)) >= 120, "all are handled")
        await harness.drain()
        assert_once(numbers_of(*workers), range(40), "the group")
        for cache in caches:
            assert_once(cache.numbers, range(40), "a broadcast subscription")

    @contract("groups")
    async def test_redrive_goes_to_the_group(self, harness: Harness) -> None:
        """A letter of a group is redriven to the group, once, and to no other group."""
        buses = [await harness.bus() for _ in range(2)]
        broken = True
        handled: list[int] = []

        def fail_while_broken(call: Call) -> None:
            if broken:
                raise PermanentError("no")
            handled.append(call.number)

        for bus in buses:
            await harness.listen(bus, name="fragile", act=fail_while_broken)
        other = await harness.listen(buses[1], name="other")
        await harness.publish(buses[0], *range(4))
        await harness.drain()
        broken = False
        letters = {bus: await bus.dead_letters.list(subscription="fragile") for bus in buses}
        assert len({letter.id for found in letters.values() for letter in found}) == 4
        for bus, found in letters.items():
            await bus.dead_letters.redrive(found)
        await harness.until(lambda: len(handled) >= 4, "the redriven events are handled")
        await harness.drain()
        assert_once(handled, range(4), "the group")
        assert_once(other.numbers, range(4), "another group")
