"""Contract tests of full buffers, many subscriptions, many topics, and many threads."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest

from bus_core import BufferFull, BusClosed, Topic, UnsupportedFeature
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import OTHER, THING, Happened, happened
from promenade_bus_testing.contract.harness import Call, Harness
from promenade_bus_testing.contract.running import contract

__all__ = ["LoadTests"]


class LoadTests:
    """Load and back-pressure."""

    @contract("in_process")
    async def test_buffer_bounds_what_is_unsettled(self, harness: Harness) -> None:
        """Publishers wait while the buffer is full of unsettled events, and go on in their order."""
        bus = await harness.bus(buffer_size=5, worker_pool_size=2)
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        listener = await harness.listen(bus, act=wait)
        await harness.publish(bus, *range(5))
        accepted: list[int] = []

        async def publish(number: int) -> None:
            await bus.publish(THING, happened(number))
            accepted.append(number)

        waiting = [asyncio.ensure_future(publish(number)) for number in range(5, 20)]
        await harness.until(lambda: bus.state().waiting_publishers >= 15, "the publishers wait")
        assert (bus.state().unsettled, accepted) == (5, [])
        with pytest.raises(BufferFull):
            bus.publish_nowait(THING, happened(99))
        gate.set()
        await harness.until(lambda: all(task.done() for task in waiting), "the publishers go on")
        await harness.drain()
        assert_once(listener.numbers, range(20))
        assert accepted == [*range(5, 20)]

    @contract("in_process")
    async def test_handlers_go_over_the_bound(self, harness: Harness) -> None:
        """A handler that publishes into a full buffer does not wait; beyond the overflow it gets an error."""
        bus = await harness.bus(buffer_size=1, overflow_size=10, worker_pool_size=1)
        full: list[int] = []

        async def publish_many(call: Call) -> None:
            for number in range(20):
                try:
                    await bus.publish(OTHER, happened(number))
                except BufferFull:
                    full.append(number)

        await harness.listen(bus, THING, "publishing", publish_many)
        others = await harness.listen(bus, OTHER, "others")
        await harness.publish(bus, 1)
        await harness.drain()
        assert full == [*range(10, 20)]
        assert_once(others.numbers, range(10))
        assert bus.state().overflowed == 10

    @contract("in_process")
    async def test_closing_tells_publishers_that_wait(self, harness: Harness) -> None:
        """When the bus closes, waiting publishers are refused, and their events were not accepted."""
        bus = await harness.bus(buffer_size=1)
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        listener = await harness.listen(bus, act=wait)
        await harness.publish(bus, 0)
        waiting = [asyncio.ensure_future(bus.publish(THING, happened(number))) for number in range(1, 4)]
        await harness.until(lambda: bus.state().waiting_publishers >= 3, "the publishers wait")
        closing = asyncio.ensure_future(bus.close())
        await harness.until(lambda: all(task.done() for task in waiting), "they are told")
        assert [type(task.exception()) for task in waiting] == [BusClosed] * 3
        gate.set()
        await harness.until(closing.done, "the bus closes")
        assert listener.numbers == [0]

    @contract(without="in_process")
    async def test_nowait_needs_an_in_process_adapter(self, harness: Harness) -> None:
        """``publish_nowait`` is refused on an adapter outside the process."""
        bus = await harness.bus()
        with pytest.raises(UnsupportedFeature, match="publish_nowait"):
            bus.publish_nowait(THING, happened())

    @contract()
    async def test_many_subscriptions(self, harness: Harness) -> None:
        """A thousand subscriptions of one topic each receive each event once, and close in time."""
        bus = await harness.bus(buffer_size=10_000)
        counts: Counter[int] = Counter()

        def subscribe(index: int) -> None:
            async def count(event: Happened) -> None:
                counts[index] += 1
                harness.progress += 1

            bus.subscribe(THING, count, name=f"subscription-{index}", mode=harness.default_mode)

        for index in range(1000):
            subscribe(index)

        async def all_ready() -> None:
            for subscription in bus.subscriptions:
                await subscription.ready()

        await harness.finish(all_ready(), "all subscriptions are open")
        await harness.publish(bus, 1, 2, 3)
        await harness.until(lambda: counts.total() >= 3000, "all of them have handled all events")
        await harness.drain()
        assert counts == Counter(dict.fromkeys(range(1000), 3))

    @contract()
    async def test_many_topics(self, harness: Harness) -> None:
        """With a thousand topics, a subscription for each, and a pattern, each event arrives once."""
        bus = await harness.bus(buffer_size=10_000)
        topics = [Topic(f"contract.many.topic{index}", Happened) for index in range(1000)]
        got: Counter[tuple[int, int]] = Counter()
        pattern = await harness.listen(bus, "contract.many.*", "pattern")

        def subscribe(index: int) -> None:
            async def count(event: Happened) -> None:
                got[index, event.number] += 1
                harness.progress += 1

            bus.subscribe(topics[index], count, name=f"subscription-{index}", mode=harness.default_mode)

        for index in range(1000):
            subscribe(index)

        async def all_ready() -> None:
            for subscription in bus.subscriptions:
                await subscription.ready()

        await harness.finish(all_ready(), "all subscriptions are open")
        for index, topic in enumerate(topics):
            await harness.publish(bus, index, topic=topic)
        await harness.until(lambda: got.total() >= 1000 and len(pattern.done) >= 1000, "all are handled")
        await harness.drain()
        assert got == Counter({(index, index): 1 for index in range(1000)})
        assert_once(pattern.numbers, range(1000), "the pattern")

    @contract()
    async def test_publishing_from_threads(self, harness: Harness) -> None:
        """When many threads publish on one bus, each event is handled once, in threads and on the loop."""
        threads, each = 8, harness.scale(40, 1_000)
        bus = harness.new_sync_bus()
        in_threads: list[int] = []
        on_loop: list[int] = []
        errors: list[BaseException] = []

        def handle(event: Happened) -> None:
            in_threads.append(event.number)

        async def handle_on_loop(event: Happened) -> None:
            on_loop.append(event.number)

        def publish(first: int) -> None:
            try:
                for number in range(first, first + each):
                    bus.publish(THING, happened(number))
            except BaseException as error:
                errors.append(error)

        def run() -> None:
            with bus:
                for name, handler in {"threads": handle, "loop": handle_on_loop}.items():
                    bus.subscribe(THING, handler, name=name, mode=harness.default_mode).ready()
                publishers = [
                    threading.Thread(target=publish, args=(index * each,), daemon=True)
                    for index in range(threads)
                ]
                for thread in publishers:
                    thread.start()
                for thread in publishers:
                    thread.join()
                bus.drain(harness.suite.deadline)

        await asyncio.to_thread(run)
        assert errors == []
        assert_once(in_threads, range(threads * each), "the handler in threads")
        assert_once(on_loop, range(threads * each), "the handler on the loop")

    @contract()
    async def test_fast_handlers_leave_turns_to_others(self, harness: Harness) -> None:
        """While thousands of fast handlers run, other tasks on the loop get their turn."""
        count = harness.scale(3_000, 50_000)
        bus = await harness.bus(buffer_size=count + 1)
        turns = 0
        over = False

        async def take_turns() -> None:
            nonlocal turns
            # No more than are asked for: it would occupy a processor while the bus waits for a server.
            while not over and turns < 3:
                await asyncio.sleep(0)
                turns += 1

        listener = await harness.listen(bus, plain=True)
        other = asyncio.ensure_future(take_turns())
        await harness.publish(bus, *range(count))
        await harness.until(lambda: len(listener.done) >= count, "all events are handled")
        over = True
        await other
        assert turns >= 3
        assert_once(listener.numbers, range(count))
