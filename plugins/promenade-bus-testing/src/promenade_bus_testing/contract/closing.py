"""Contract tests of draining and closing, idle and under traffic, and of the next bus."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, cast

import pytest

from bus_core import (
    Adapter,
    BusClosed,
    CalledFromHandler,
    CountingAdapter,
    FixedRetry,
    HealthStatus,
    Postpone,
    PublishError,
    RetryLater,
    SubscriptionSpec,
    SystemClock,
)
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import OTHER, THING, happened
from promenade_bus_testing.contract.harness import FAR, Call, Harness, Listener
from promenade_bus_testing.contract.outcomes import raising
from promenade_bus_testing.contract.running import contract

__all__ = ["ClosingTests"]


class ClosingTests:
    """Draining and closing."""

    @contract()
    async def test_drain_waits_for_all_that_follows(self, harness: Harness) -> None:
        """A drain waits for the events accepted before it, their retries, and their handlers' events."""
        bus = await harness.bus()

        async def publish_after_retry(call: Call) -> None:
            if call.attempt == 1:
                raise RetryLater(after=2)
            await bus.publish(OTHER, happened(call.number))

        async def postpone_once(call: Call) -> None:
            if len(others.calls) <= 10:
                raise Postpone(after=1)

        things = await harness.listen(bus, THING, "things", publish_after_retry)
        others = await harness.listen(bus, OTHER, "others", postpone_once)
        await harness.publish(bus, *range(10))
        await harness.drain()
        assert_once(things.done, range(10))
        assert_once(others.done, range(10))
        assert bus.state().unsettled == 0

    @contract()
    async def test_drain_of_nothing(self, harness: Harness) -> None:
        """A drain of an idle bus returns, with subscriptions and without."""
        bus = await harness.bus()
        await harness.drain()
        await harness.listen(bus)
        await harness.drain()

    @contract()
    async def test_drain_is_bounded(self, harness: Harness) -> None:
        """A drain that takes too long raises ``TimeoutError``, loses nothing, and can be repeated."""
        bus = await harness.bus()
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        listener = await harness.listen(bus, act=wait)
        await harness.publish(bus, 1)
        await harness.until(lambda: listener.calls, "the handler runs")
        with pytest.raises(TimeoutError):
            await harness.finish(bus.drain(5), "the drain gives up")
        gate.set()
        await harness.drain()
        assert_once(listener.done, [1])

    @contract()
    async def test_drains_at_once(self, harness: Harness) -> None:
        """Several drains at once, under traffic, all end, each after the events accepted before it."""
        bus = await harness.bus()
        listener = await harness.listen(bus)

        async def publish_and_drain(first: int) -> bool:
            mine = [*range(first, first + 20)]
            for number in mine:
                await bus.publish(THING, happened(number))
            await bus.drain()
            return {*mine} <= {*listener.done}

        async def all_of_them() -> list[bool]:
            return await asyncio.gather(*(publish_and_drain(20 * index) for index in range(10)))

        assert all(await harness.finish(all_of_them(), "all drains end"))
        assert_once(listener.done, range(200))

    @contract("groups", without="in_process")
    async def test_backlog_is_counted_for_each(self, harness: Harness) -> None:
        """The backlog of a subscription is its unsettled events; a request for many returns one for each."""
        bus = await harness.bus(service="contract")
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        topics = {"busy": THING.name, "idle": "contract.idle.happened", "all": "contract.#"}
        specs = [
            SubscriptionSpec(name=name, group=f"contract.{name}", topic=topic)
            for name, topic in topics.items()
        ]
        for spec in specs:
            await harness.listen(bus, spec.topic, spec.name, wait)
        await harness.publish(bus, 1, 2)
        await harness.publish(bus, 3, topic=OTHER)
        adapter = cast("Adapter", bus.adapter)

        async def counts() -> list[int]:
            alone = [await adapter.backlog(spec) for spec in specs]
            if isinstance(adapter, CountingAdapter):
                assert [*await adapter.backlogs([])] == []
                assert [*await adapter.backlogs(specs)] == alone
                assert [*await adapter.backlogs([*reversed(specs), specs[0]])] == [*reversed(alone), alone[0]]
            return alone

        assert await harness.finish(counts(), "the backlog is counted") == [2, 0, 3]
        gate.set()
        await harness.drain()
        assert await harness.finish(counts(), "the backlog is counted") == [0, 0, 0]

    @contract()
    async def test_handlers_cannot_wait_for_themselves(self, harness: Harness) -> None:
        """Draining or closing the bus in one of its handlers raises, and the bus goes on."""
        bus = await harness.bus()
        refused: list[str] = []

        async def wait_for_itself(call: Call) -> None:
            for doing in (bus.drain, bus.close):
                try:
                    await doing()
                except CalledFromHandler as error:
                    refused.append(str(error))

        listener = await harness.listen(bus, act=wait_for_itself)
        await harness.publish(bus, 1, 2)
        await harness.until(lambda: len(listener.done) >= 2, "the events are handled")
        assert len(refused) == 4
        assert bus.status == "open"

    @contract()
    async def test_close_finishes_what_runs(self, harness: Harness) -> None:
        """Closing waits for the running handlers, and reports that everything is done."""
        bus = await harness.bus()
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        listener = await harness.listen(bus, act=wait)
        await harness.publish(bus, 1, 2)
        await harness.until(lambda: listener.running >= 2, "the handlers run")
        closing = asyncio.ensure_future(bus.close())
        await harness.advance(1)
        assert not closing.done()
        gate.set()
        await harness.until(closing.done, "the bus closes")
        report = await closing
        assert (report.completed, report.abandoned) == (True, ())
        assert_once(listener.done, [1, 2])

    @contract(without="durable")
    async def test_close_drains(self, harness: Harness) -> None:
        """On an adapter that is not durable, closing handles all accepted events, including retries."""
        bus = await harness.bus(worker_pool_size=1)
        gate = harness.gate()
        fail = raising(ValueError("once"), ValueError("twice"))

        async def wait_and_fail(call: Call) -> None:
            await gate.wait()
            fail(call)

        listener = await harness.listen(bus, act=wait_and_fail)
        await harness.publish(bus, *range(50))
        closing = asyncio.ensure_future(bus.close())
        await harness.advance(0)
        gate.set()
        await harness.until(closing.done, "the bus closes")
        report = await closing
        assert (report.completed, report.abandoned) == (True, ())
        assert_once(listener.done, range(50))

    @contract(without="durable")
    async def test_close_reports_what_it_abandons(self, harness: Harness) -> None:
        """On an adapter that is not durable, closing reports each event that is not done in time."""
        bus = await harness.bus(worker_pool_size=2)
        forever = asyncio.Event()

        async def misbehave(call: Call) -> None:
            if call.number == 0:
                await forever.wait()
            raise RetryLater(after=FAR / 2)

        listener = await harness.listen(bus, act=misbehave)
        paused = await harness.listen(bus, OTHER, "paused")
        paused.subscription.pause()
        events = await harness.publish(bus, 0, 1)
        await harness.until(lambda: len(listener.calls) >= 2, "both events have begun")
        events += await harness.publish(bus, 2, topic=OTHER)
        report = await harness.close(bus, 5)
        assert not report.completed
        assert {(item.event_id, item.state) for item in report.abandoned} == {
            (str(events[0].event_id), "running"),
            (str(events[1].event_id), "waiting for retry"),
            (str(events[2].event_id), "queued"),
        }
        assert report.seconds == pytest.approx(5)
        assert listener.running == 0

    @contract()
    async def test_close_many_times(self, harness: Harness) -> None:
        """Closing from many tasks at once, and again later, closes once and returns the same report."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        await harness.publish(bus, *range(20))

        async def close_all() -> list[Any]:
            return await asyncio.gather(*(bus.close() for _ in range(10)))

        reports = await harness.finish(close_all(), "all of them return")
        assert all(report is reports[0] for report in reports)
        assert await bus.close() is reports[0]
        assert listener.running == 0

    @contract()
    async def test_close_buses_at_once(self, harness: Harness) -> None:
        """Many buses of one transport that close at the same time do not affect each other."""
        buses = [await harness.bus(service=f"service-{index}") for index in range(8)]
        listeners = [await harness.listen(bus, name="listener") for bus in buses]
        await harness.publish(buses[0], *range(30))
        await harness.until(lambda: min(len(each.done) for each in listeners) >= 30, "all are handled")

        async def close_all() -> list[Any]:
            return await asyncio.gather(*(bus.close() for bus in buses))

        reports = await harness.finish(close_all(), "all of them close")
        assert all(report.completed for report in reports)
        for listener in listeners:
            assert_once(listener.numbers, range(30), listener.subscription.group)

    @contract()
    async def test_closed_bus_refuses(self, harness: Harness) -> None:
        """A closed bus accepts no event and no subscription, cannot start again, and is unhealthy."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        assert (await bus.health()).status is HealthStatus.HEALTHY
        await harness.close(bus)
        with pytest.raises(BusClosed):
            await bus.publish(THING, happened())
        with pytest.raises(BusClosed):
            bus.subscribe(OTHER, listener.plain, name="late", mode=harness.default_mode)
        with pytest.raises(BusClosed):
            await bus.start()
        with pytest.raises(BusClosed):
            await bus.drain()
        with pytest.raises(BusClosed):
            await bus.dead_letters.list()
        assert (await bus.health()).status is HealthStatus.UNHEALTHY

    @contract()
    async def test_close_under_traffic(self, harness: Harness) -> None:
        """While a bus closes under traffic each publish is refused or accepted, and none hangs or repeats."""
        count = harness.scale(300, 5_000)
        bus = await harness.bus(buffer_size=20, worker_pool_size=2)

        async def give_way(_call: Call) -> None:
            await asyncio.sleep(0)

        listener = await harness.listen(bus, act=give_way)
        accepted: list[int] = []
        refused = 0

        async def publish(number: int) -> None:
            nonlocal refused
            try:
                await bus.publish(THING, happened(number))
            except BusClosed:
                refused += 1
            else:
                accepted.append(number)
                harness.progress += 1

        publishing = [asyncio.ensure_future(publish(number)) for number in range(count)]
        await harness.until(lambda: len(listener.done) >= 30, "some are handled")
        closing = asyncio.ensure_future(bus.close())
        await harness.until(lambda: closing.done() and all(task.done() for task in publishing), "all ends")
        assert (await closing).completed
        assert len(accepted) + refused == count
        assert len({*listener.numbers}) == len(listener.numbers)
        assert {*listener.numbers} <= {*accepted}
        if harness.suite.features.durable:
            # The next bus handles accepted events that this bus did not start.
            rest = await harness.listen(await harness.bus(), act=give_way)
            await harness.until(lambda: len(listener.done) + len(rest.done) >= len(accepted), "the rest is")
            await harness.drain()
            assert_once([*listener.done, *rest.done], accepted)
        else:
            assert_once(listener.done, accepted)

    # --- what the next bus finds --------------------------------------------------------------------------

    @contract("durable", "groups")
    async def test_close_releases_what_it_did_not_begin(self, harness: Harness) -> None:
        """Events that a closing bus did not start are handled by the next bus, once, as a first attempt."""
        bus = await harness.bus(worker_pool_size=1)
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        first = await harness.listen(bus, name="worker", act=wait)
        await harness.publish(bus, *range(30))
        await harness.until(lambda: first.calls, "a handler runs")
        closing = asyncio.ensure_future(bus.close())
        await harness.advance(0)
        gate.set()
        await harness.until(closing.done, "the bus closes")
        assert (await closing).completed
        second = await harness.listen(await harness.bus(), name="worker")
        await harness.until(lambda: len(first.done) + len(second.done) >= 30, "the rest is handled")
        await harness.drain()
        assert_once([*first.done, *second.done], range(30), "the group")
        assert {call.attempt for call in second.calls} == {1}
        assert second.calls

    @contract("durable", "groups")
    async def test_release_counts_no_attempt(self, harness: Harness) -> None:
        """A handler that the end of the shutdown timeout cancels has not used up an attempt."""
        bus = await harness.bus()

        async def hang(_call: Call) -> None:
            await asyncio.Event().wait()

        first = await harness.listen(bus, name="worker", act=hang)
        (event,) = await harness.publish(bus, 1)
        await harness.until(lambda: first.calls, "the handler runs")
        await harness.close(bus, 2)
        assert first.running == 0
        next_bus = await harness.bus()
        second = await harness.listen(next_bus, name="worker")
        await harness.until(lambda: second.done, "the next bus handles the event")
        await harness.drain()
        (call,) = second.calls
        assert call.event == event
        assert call.delivery is not None
        assert (call.delivery.attempt, call.delivery.redelivered) == (1, True)
        assert not await next_bus.dead_letters.list()

    @contract("durable", "groups")
    async def test_attempts_outlive_the_bus(self, harness: Harness) -> None:
        """An event that waits for its retry when the bus closes is retried by the next bus, still counted."""
        policy = FixedRetry(attempts=3, delay=0.5)
        bus = await harness.bus()
        first = await harness.listen(
            bus, name="worker", act=raising(*(ValueError("no") for _ in range(9))), retry=policy
        )
        await harness.publish(bus, 1)
        await harness.until(lambda: bus.state().waiting_retries, "the event waits for its retry")
        await harness.close(bus, 0)
        attempts_before = len(first.calls)
        next_bus = await harness.bus()
        second = await harness.listen(
            next_bus, name="worker", act=raising(*(ValueError("no") for _ in range(9))), retry=policy
        )
        await harness.until(lambda: second.subscription.state.dead_lettered, "the retries are exhausted")
        assert attempts_before + len(second.calls) == 3
        assert [call.attempt for call in [*first.calls, *second.calls]] == [1, 2, 3]

    @contract("durable", "groups", "delayed")
    async def test_closing_brings_no_retry_forward(self, harness: Harness) -> None:
        """A retry that waits when its bus closes is not begun by the next bus before its time."""
        delay = 1.0
        begun: list[tuple[int, float]] = []

        def fail_at_first(call: Call) -> None:
            begun.append((call.attempt, time.monotonic()))
            if call.attempt == 1:
                raise ValueError("no")

        policy = FixedRetry(attempts=3, delay=delay)
        # The storage measures the time between two buses, which no virtual clock can move.
        bus = await harness.start(harness.new_bus(clock=SystemClock()))
        await harness.listen(bus, name="worker", act=fail_at_first, retry=policy)
        await harness.publish(bus, 1)
        await harness.until(lambda: bus.state().waiting_retries, "the event waits for its retry")
        await harness.close(bus, 0)
        next_bus = await harness.start(harness.new_bus(clock=SystemClock()))
        await harness.listen(next_bus, name="worker", act=fail_at_first, retry=policy)
        await harness.until(lambda: len(begun) == 2, "the next bus retries")
        (first, failed_at), (second, retried_at) = begun
        assert (first, second) == (1, 2)
        assert retried_at - failed_at >= delay * 0.99

    @contract("durable", "groups")
    async def test_rolling_restarts(self, harness: Harness) -> None:
        """Restarting the consumers repeatedly under traffic loses nothing and repeats nothing."""
        count, restarts = harness.scale(200, 5_000), harness.scale(4, 30)
        publisher = await harness.bus(service="publisher")
        listeners: list[Listener] = []

        async def publish_all() -> None:
            for number in range(count):
                await publisher.publish(THING, happened(number))
                harness.progress += 1

        def enough(restart: int) -> bool:
            handled = sum(len(each.done) for each in listeners)
            return handled >= count * (restart + 1) // (2 * restarts)

        bus = await harness.bus()
        listeners.append(await harness.listen(bus, name="worker"))
        publishing = asyncio.ensure_future(publish_all())
        for restart in range(restarts):
            await harness.until(partial(enough, restart), "some are handled")
            await harness.close(bus)
            bus = await harness.bus()
            listeners.append(await harness.listen(bus, name="worker"))
        await harness.until(publishing.done, "all events are published")
        await publishing
        await harness.until(lambda: sum(len(each.done) for each in listeners) >= count, "all are handled")
        await harness.drain()
        assert_once([number for each in listeners for number in each.done], range(count), "the group")
        assert {call.attempt for each in listeners for call in each.calls} == {1}

    @contract("durable")
    async def test_publisher_alone(self, harness: Harness) -> None:
        """Events accepted before any subscription exists are kept for a subscription in the next process."""
        publisher = await harness.bus(service="publisher")
        await harness.publish(publisher, *range(30))
        await harness.close(publisher)
        listener = await harness.listen(await harness.bus(service="subscriber"))
        await harness.until(lambda: len(listener.done) >= 30, "all events are handled")
        await harness.drain()
        assert_once(listener.numbers, range(30))

    @contract("durable", hook="interrupt")
    async def test_reconnect(self, harness: Harness) -> None:
        """When every connection is cut repeatedly, publishing and handling go on, and nothing is lost."""
        count, cuts = harness.scale(200, 5_000), harness.scale(3, 30)
        bus = await harness.bus(worker_pool_size=4)
        listener = await harness.listen(bus)
        accepted: list[int] = []

        async def publish(numbers: range) -> None:
            for number in numbers:
                event = happened(number)
                for _ in range(20):
                    try:
                        await bus.publish(THING, event)
                    except PublishError:
                        continue
                    accepted.append(number)
                    harness.progress += 1
                    break

        def reached(some: int) -> bool:
            return len(accepted) >= some

        for cut in range(cuts):
            publishing = asyncio.ensure_future(publish(range(cut * count // cuts, (cut + 1) * count // cuts)))
            some = (cut * count + count // 3) // cuts
            await harness.until(partial(reached, some), "some are published")
            await harness.suite.interrupt(harness.place)
            await harness.until(publishing.done, "the rest is published")
            await publishing
        await harness.until(lambda: {*accepted} <= {*listener.done}, "what was accepted is handled")
        assert len(accepted) == count
