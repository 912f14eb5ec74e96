# ruff: noqa: PT012 - what is tested is how a block ends
from __future__ import annotations

import asyncio
import contextvars
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    Bus,
    BusClosed,
    BusNotStarted,
    BusStateError,
    EventTypeMismatch,
    PublishManyError,
    SerializationError,
    SyncBus,
    Topic,
    UnknownTopic,
)
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus
from support.handlers import listen


class Rollback(Exception):
    """The error of a failed transaction."""


def numbers(received: list[Any]) -> list[int]:
    return [event.number for event in received]


async def test_held_until_the_end() -> None:
    """Events of a block leave when it ends well, in order, however it was published."""
    async with running_bus() as bus:
        received = listen(bus, "test.#")
        async with bus.after_commit():
            await bus.publish(HAPPENED, happened(1))
            bus.publish_nowait(OTHER, happened(2))
            await bus.publish_many([(HAPPENED, happened(3)), (OTHER, happened(4))])
            await bus.publish(HAPPENED, happened(5), headers={"trace": "1"})
            await bus.drain()
            assert received == []
            assert bus.state().published == 0
        await bus.drain()
        assert numbers(received) == [1, 2, 3, 4, 5]
        await bus.publish(HAPPENED, happened(6))
        await bus.drain()
        assert numbers(received) == [1, 2, 3, 4, 5, 6]


async def test_dropped_when_the_block_raises() -> None:
    """When the block raises nothing of it is published, and the exception passes as it is."""
    async with running_bus() as bus:
        received = listen(bus)
        with pytest.raises(Rollback):
            async with bus.after_commit():
                await bus.publish(HAPPENED, happened(1))
                raise Rollback
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
    assert numbers(received) == [2]


async def test_dropped_when_the_block_is_cancelled() -> None:
    """A cancelled block is one that did not end well."""
    inside = asyncio.Event()
    async with running_bus() as bus:
        received = listen(bus)

        async def transaction() -> None:
            async with bus.after_commit():
                await bus.publish(HAPPENED, happened(1))
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(transaction())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bus.drain()
    assert received == []


async def test_nested_blocks_leave_with_the_outermost() -> None:
    """Events of an inner block wait for the outermost; those of an inner block that raised are dropped."""
    async with running_bus() as bus:
        received = listen(bus)
        async with bus.after_commit():
            await bus.publish(HAPPENED, happened(1))
            async with bus.after_commit():
                await bus.publish(HAPPENED, happened(2))
            with pytest.raises(Rollback):
                async with bus.after_commit():
                    await bus.publish(HAPPENED, happened(3))
                    raise Rollback
            await bus.publish(HAPPENED, happened(4))
            await bus.drain()
            assert received == []
        await bus.drain()
    assert numbers(received) == [1, 2, 4]


async def test_nested_blocks_are_dropped_with_the_outermost() -> None:
    """When the outer block raises, events of inner blocks that ended well are dropped, too."""
    async with running_bus() as bus:
        received = listen(bus)
        with pytest.raises(Rollback):
            async with bus.after_commit():
                async with bus.after_commit():
                    await bus.publish(HAPPENED, happened(1))
                raise Rollback
        await bus.drain()
    assert received == []


async def test_other_tasks_are_not_held() -> None:
    """Tasks that were not started inside of the block publish at once; so do handlers."""
    async with running_bus() as bus:
        received = listen(bus, OTHER)
        forwarded: list[Any] = []

        async def forward(event: Happened) -> None:
            forwarded.append(event)
            await bus.publish(OTHER, event)

        bus.subscribe(HAPPENED, forward)
        go_on = asyncio.Event()

        async def other_task() -> None:
            await go_on.wait()
            await bus.publish(HAPPENED, happened(1))

        other = asyncio.create_task(other_task())
        async with bus.after_commit():
            await bus.publish(OTHER, happened(2))
            go_on.set()
            await other
            await bus.drain()
            assert numbers(forwarded) == numbers(received) == [1]
        await bus.drain()
    assert numbers(received) == [1, 2]


async def test_tasks_of_the_block_are_held_with_it() -> None:
    """Events of a task that was started in the block belong to the block while it lasts."""
    async with running_bus() as bus:
        received = listen(bus)

        async def publish(number: int) -> None:
            await bus.publish(HAPPENED, happened(number))

        with pytest.raises(Rollback):
            async with bus.after_commit():
                await asyncio.gather(publish(1), publish(2))
                raise Rollback
        async with bus.after_commit():
            await asyncio.gather(publish(3), publish(4))
            await bus.drain()
            assert received == []
        await bus.drain()
    assert numbers(received) == [3, 4]


@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_tasks_that_outlive_the_block_publish_at_once(ends: str) -> None:
    """A task that outlives the block in which it was started publishes at once then: nothing is lost."""
    over = asyncio.Event()
    async with running_bus() as bus:
        received = listen(bus)

        async def publish_later() -> None:
            await over.wait()
            await bus.publish(HAPPENED, happened(1))

        task = None
        try:
            async with bus.after_commit():
                task = asyncio.create_task(publish_later())
                if ends == "badly":
                    raise Rollback
        except Rollback:
            pass
        over.set()
        assert task is not None
        await task
        await bus.drain()
    assert numbers(received) == [1]


async def test_a_task_that_outlives_the_inner_block_is_held_by_the_outer() -> None:
    """After the inner block is over, its tasks belong to the outer one."""
    over = asyncio.Event()
    async with running_bus() as bus:
        received = listen(bus)

        async def publish_later() -> None:
            await over.wait()
            await bus.publish(HAPPENED, happened(1))

        async with bus.after_commit():
            async with bus.after_commit():
                task = asyncio.create_task(publish_later())
            over.set()
            await task
            await bus.drain()
            assert received == []
        await bus.drain()
    assert numbers(received) == [1]


async def test_inside_of_a_handler() -> None:
    """A handler may use it: an attempt that fails publishes nothing, the one that succeeds publishes once."""
    async with running_bus(retry_delay="1ms") as bus:
        received = listen(bus, OTHER)
        attempts = 0

        async def transaction(event: Happened) -> None:
            nonlocal attempts
            attempts += 1
            async with bus.after_commit():
                await bus.publish(OTHER, happened(attempts))
                if attempts == 1:
                    raise Rollback

        bus.subscribe(HAPPENED, transaction)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert numbers(received) == [2]


async def test_two_buses() -> None:
    """A block of one bus holds nothing of another."""
    async with running_bus() as one, running_bus() as two:
        received_by_one, received_by_two = listen(one), listen(two)
        async with one.after_commit():
            await one.publish(HAPPENED, happened(1))
            await two.publish(HAPPENED, happened(2))
            await one.drain()
            await two.drain()
            assert (numbers(received_by_one), numbers(received_by_two)) == ([], [2])
        await one.drain()
    assert numbers(received_by_one) == [1]


@pytest.mark.parametrize(
    ("topic", "event", "error"),
    [
        ("unknown.topic", happened(), UnknownTopic),
        (HAPPENED, BaseEvent("happened", uuid4()), EventTypeMismatch),
        (
            Topic("test.anything.noted", BaseEvent),
            BaseEvent("noted", uuid4(), data={"what": 10**2000}),
            SerializationError,
        ),
    ],
    ids=["topic", "class", "bytes"],
)
async def test_errors_come_before_the_commit(topic: Any, event: Any, error: type[Exception]) -> None:
    """A bad topic or event, and one that cannot be encoded, are reported inside of the block."""
    async with running_bus(memory={"serialize": True}) as bus:
        received = listen(bus)
        async with bus.after_commit():
            await bus.publish(HAPPENED, happened(1))
            with pytest.raises(error):
                await bus.publish(topic, event)
        await bus.drain()
    assert numbers(received) == [1]


async def test_the_bus_closes_inside_of_the_block() -> None:
    """Events that were held when the bus was closed are reported, each, and not swallowed."""
    async with running_bus() as bus:
        received = listen(bus)
        with pytest.raises(PublishManyError, match="2 of 2 events not accepted") as caught:
            async with bus.after_commit():
                await bus.publish(HAPPENED, happened(1))
                await bus.publish(HAPPENED, happened(2))
                await bus.close()
        assert [type(result) for result in caught.value.results] == [BusClosed, BusClosed]
    assert received == []


async def test_an_empty_block_on_a_bus_that_closes() -> None:
    """A block that holds nothing ends well, whatever became of the bus."""
    async with running_bus() as bus:
        async with bus.after_commit():
            await bus.close()
        assert bus.status == "closed"


async def test_the_block_waits_for_room() -> None:
    """Events that were held pass through a buffer smaller than their number, and take no place while held."""
    async with running_bus(buffer_size=1) as bus:
        received = listen(bus)
        async with bus.after_commit():
            for number in range(100):
                await bus.publish(HAPPENED, happened(number))
            assert bus.state().unsettled == 0
        await bus.drain()
    assert numbers(received) == list(range(100))


@pytest.mark.parametrize("error", [BusNotStarted, BusClosed])
async def test_needs_an_open_bus(error: type[Exception]) -> None:
    """The block cannot be opened on a bus that is not open: the error comes before the transaction."""
    bus: Bus = make_bus()
    if error is BusClosed:
        await bus.close()
    entered = False
    with pytest.raises(error, match="cannot open after_commit"):
        async with bus.after_commit():
            entered = True
    assert not entered


async def test_a_block_that_is_left_in_another_context_says_so() -> None:
    """Where the two ends of a block run in different contexts, nothing in between is held: an error."""
    async with running_bus() as bus:
        received = listen(bus)
        block = bus.after_commit()
        await asyncio.create_task(block.__aenter__())
        with pytest.raises(BusStateError, match="left in another context than it was entered in"):
            await asyncio.create_task(block.__aexit__(None, None, None))
        assert bus._pipeline._fast_path_blocks == 0
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert numbers(received) == [1]


def test_a_block_for_threads_that_is_left_in_another_context_says_so() -> None:
    """As a web framework does that runs both ends of a generator in copies of the request's context."""
    with SyncBus(make_bus()) as bus:
        received: list[int] = []
        bus.subscribe(HAPPENED, lambda event: received.append(event.number))
        block = bus.after_commit()
        contextvars.copy_context().run(block.__enter__)
        with pytest.raises(BusStateError, match="open the block in the function that publishes"):
            contextvars.copy_context().run(block.__exit__, None, None, None)
        assert bus.bus._pipeline._fast_path_blocks == 0
        bus.publish(HAPPENED, happened(1))
        bus.drain()
        assert received == [1]
