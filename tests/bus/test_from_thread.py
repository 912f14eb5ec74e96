# ruff: noqa: PT012 - what is tested is how a block ends, too
"""``Bus.from_thread``: plain calls from other threads to a bus that runs on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bus_core import (
    Bus,
    BusClosed,
    BusNotStarted,
    EventTypeMismatch,
    PublishManyError,
    UnknownTopic,
    WrongEventLoop,
)
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, until
from support.remote import Server, running_remote_bus

pytestmark = pytest.mark.timeout(30)

CALLS: dict[str, Callable[[Bus], Any]] = {
    "publish": lambda bus: bus.from_thread.publish(HAPPENED, happened()),
    "publish_many": lambda bus: bus.from_thread.publish_many([(HAPPENED, happened())]),
    "after_commit": lambda bus: bus.from_thread.after_commit().__enter__(),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


async def test_threads_publish() -> None:
    """Events of threads arrive, with their headers, in the order of each thread."""
    seen: list[tuple[int, str]] = []
    async with running_bus() as bus:

        async def handle(event: Happened, delivery: Any) -> None:
            seen.append((event.number, delivery.headers.get("from", "")))

        bus.subscribe(HAPPENED, handle, name="handle")

        def work(first: int) -> None:
            for number in range(first, first + 50):
                bus.from_thread.publish(HAPPENED, happened(number), headers={"from": str(first)})
            bus.from_thread.publish_many([(HAPPENED, happened(first + 50)), (HAPPENED, happened(first + 51))])

        await asyncio.gather(*(asyncio.to_thread(work, first) for first in (0, 100, 200)))
        await bus.drain()
    for first in (0, 100, 200):
        of_thread = [number for number, _ in seen if first <= number < first + 100]
        assert of_thread == [*range(first, first + 52)]
        assert (first, str(first)) in seen


async def test_a_synchronous_handler_publishes() -> None:
    """A handler in a thread publishes as a handler: over a full buffer, and a drain waits for it."""
    seen: list[int] = []
    async with running_bus(worker_pool_size=1, buffer_size=1) as bus:

        def handle(event: Happened) -> None:
            for number in range(3):
                bus.from_thread.publish(OTHER, happened(number))

        bus.subscribe(HAPPENED, handle, name="handle")
        bus.subscribe(OTHER, lambda event: seen.append(event.number), name="other")
        await bus.publish(HAPPENED, happened())
        await bus.drain(10)
        assert seen == [0, 1, 2]


async def test_it_waits_for_room() -> None:
    """A thread waits for room in a full buffer, as any publisher does, and the loop goes on."""
    gate = asyncio.Event()
    async with running_bus(worker_pool_size=1, buffer_size=1) as bus:

        async def handle(event: Happened) -> None:
            await gate.wait()

        bus.subscribe(HAPPENED, handle, name="handle")
        await bus.publish(HAPPENED, happened())
        publishing = asyncio.create_task(asyncio.to_thread(bus.from_thread.publish, HAPPENED, happened()))
        await until(lambda: bus.state().waiting_publishers == 1)
        assert not publishing.done()
        gate.set()
        await publishing


async def test_errors_reach_the_thread() -> None:
    """A thread gets what the bus raises, of each item where there are several."""
    async with running_bus() as bus:
        with pytest.raises(UnknownTopic):
            await asyncio.to_thread(bus.from_thread.publish, "no.such.topic", happened())
        with pytest.raises(PublishManyError) as caught:
            wrong: Any = "no event"
            items = [(HAPPENED, happened()), (HAPPENED, wrong)]
            await asyncio.to_thread(bus.from_thread.publish_many, items)
        assert caught.value.results[0] is None
        assert isinstance(caught.value.results[1], EventTypeMismatch)


async def test_a_block_of_a_thread() -> None:
    """A block holds what its own thread publishes until it ends well; what others publish goes on its way."""
    async with running_bus() as bus:
        seen: list[int] = []
        bus.subscribe(HAPPENED, lambda event: seen.append(event.number), name="handle")
        inside, outside = threading.Event(), threading.Event()

        def held() -> None:
            with bus.from_thread.after_commit():
                bus.from_thread.publish(HAPPENED, happened(1))
                with bus.from_thread.after_commit():
                    bus.from_thread.publish_many([(HAPPENED, happened(2))])
                inside.set()
                assert outside.wait(10)

        def dropped() -> None:
            with pytest.raises(LookupError), bus.from_thread.after_commit():
                bus.from_thread.publish(HAPPENED, happened(3))
                raise LookupError

        holding = asyncio.create_task(asyncio.to_thread(held))
        assert await asyncio.to_thread(inside.wait, 10)
        await asyncio.to_thread(bus.from_thread.publish, HAPPENED, happened(4))
        await asyncio.to_thread(dropped)
        await bus.drain()
        assert seen == [4]
        outside.set()
        await holding
        await bus.drain()
        assert seen == [4, 1, 2]


async def test_a_block_ends_after_the_bus() -> None:
    """A block that ends well when the bus is closed raises for each event that it held."""
    bus = make_bus()
    await bus.start()
    inside, closed = threading.Event(), threading.Event()

    def held() -> None:
        with bus.from_thread.after_commit():
            bus.from_thread.publish(HAPPENED, happened())
            inside.set()
            assert closed.wait(10)

    holding = asyncio.create_task(asyncio.to_thread(held))
    assert await asyncio.to_thread(inside.wait, 10)
    await bus.close()
    closed.set()
    with pytest.raises(PublishManyError) as caught:
        await holding
    (result,) = caught.value.results
    assert isinstance(result, BusClosed)


@every_call
async def test_its_own_thread_is_refused(call: Callable[[Bus], Any]) -> None:
    """On the thread of the loop a call would wait for itself: it raises, and says what to do."""
    async with running_bus() as bus:
        with pytest.raises(WrongEventLoop, match=r"await the call of the bus itself"):
            call(bus)
        refused: list[BaseException] = []

        async def handle(event: Happened) -> None:
            try:
                call(bus)
            except WrongEventLoop as error:
                refused.append(error)

        bus.subscribe(HAPPENED, handle, name="handle")
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert len(refused) == 1


@every_call
async def test_before_and_after(call: Callable[[Bus], Any]) -> None:
    """Before the bus is started, and after it is closed, a call raises, and none hangs."""
    bus = make_bus()
    with pytest.raises(BusNotStarted, match="the bus is not started"):
        await asyncio.to_thread(call, bus)
    await bus.start()
    await bus.close()
    with pytest.raises(BusClosed):
        await asyncio.to_thread(call, bus)


@every_call
def test_a_loop_that_is_gone(call: Callable[[Bus], Any]) -> None:
    """The loop of a bus that nobody closed is gone: a call raises."""
    bus = make_bus()
    asyncio.run(bus.start())
    result: list[BaseException] = []

    def work() -> None:
        try:
            call(bus)
        except BusClosed as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert len(result) == 1


async def test_whoever_waits_when_it_closes() -> None:
    """A thread that waits for room when the bus is closed gets its answer."""
    gate = asyncio.Event()
    bus = make_bus(worker_pool_size=1, buffer_size=1)
    await bus.start()

    async def handle(event: Happened) -> None:
        await gate.wait()

    bus.subscribe(HAPPENED, handle, name="handle")
    await bus.publish(HAPPENED, happened())
    publishing = asyncio.create_task(asyncio.to_thread(bus.from_thread.publish, HAPPENED, happened()))
    await until(lambda: bus.state().waiting_publishers == 1)
    await bus.close(0)
    with pytest.raises(BusClosed):
        await publishing


def test_the_end_of_the_program_answers() -> None:
    """A program that ends while a thread waits for room cancels the call: the thread gets its answer."""
    result: list[BaseException] = []

    async def main() -> threading.Thread:
        bus = make_bus(worker_pool_size=1, buffer_size=1)
        await bus.start()

        async def handle(event: Happened) -> None:
            await asyncio.Event().wait()

        bus.subscribe(HAPPENED, handle, name="handle")
        await bus.publish(HAPPENED, happened())

        def work() -> None:
            try:
                bus.from_thread.publish(HAPPENED, happened())
            except BusClosed as error:
                result.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        await until(lambda: bus.state().waiting_publishers == 1)
        return thread

    asyncio.run(main()).join(10)
    assert len(result) == 1


async def test_outside_of_the_process() -> None:
    """A thread publishes to an adapter outside of the process, and returns when the event is stored."""
    server = Server()
    async with running_remote_bus(server, strict_topics=False) as bus:
        await asyncio.to_thread(bus.from_thread.publish, HAPPENED, happened(7))
        assert len(server.log) == 1
