"""Messages that are prepared now, and published later, unchanged."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    Envelope,
    Event,
    EventTypeMismatch,
    Handler,
    InvalidTopic,
    Message,
    PublishError,
    PublishFailed,
    PublishManyError,
    SerializationError,
    Topic,
    UnknownTopic,
    event,
    open_bus,
)
from support.remote import Server, make_remote_bus, running_remote_bus


@event
class Moved(Event):
    """Something moved."""

    number: int = 0


MOVED = Topic("prepared.thing.moved", Moved)


def moved(number: int = 0) -> Moved:
    return Moved(aggregate_id=uuid4(), number=number)


def memory(**options: Any) -> Bus:
    return open_bus({"bus": {"adapter": "memory", "memory": options}})


@pytest.mark.parametrize("serialize", [False, True])
async def test_a_prepared_message_arrives_as_the_event_that_it_was(serialize: bool) -> None:
    """Another bus has prepared it, which was never started; id, time, fields and headers are the same."""
    got: list[tuple[Event, Delivery]] = []
    first = moved(1)
    message = await memory().prepare(MOVED, first, headers={"trace": "1"})
    assert message is not None
    assert (message.id, message.key) == (str(first.event_id), str(first.aggregate_id))
    async with memory(serialize=serialize) as bus:

        @bus.subscribe(MOVED, name="looking")
        async def look(event: Moved, delivery: Delivery) -> None:
            got.append((event, delivery))

        await bus.publish_prepared([message])
        await bus.drain()
        assert bus.published() == {MOVED.name: 1}
    [(event, delivery)] = got
    assert event == first
    assert event.occurred_at == first.occurred_at
    assert (delivery.message_id, delivery.headers) == (message.id, {"trace": "1"})


async def test_prepared_messages_reach_an_adapter_unchanged_and_in_order() -> None:
    """Their bytes are those that were prepared, and their topics need not be known."""
    server = Server()
    messages = [message for number in range(50) if (message := memory().prepare_nowait(MOVED, moved(number)))]
    async with running_remote_bus(server) as bus:
        await bus.publish_prepared(messages)
    assert server.log == messages


async def test_a_subscription_that_is_opening_misses_no_prepared_message() -> None:
    """The bus waits for its own subscriptions, as for any publish."""
    server, got = Server(), []
    message = memory().prepare_nowait(MOVED, moved(7))
    assert message is not None
    async with running_remote_bus(server) as bus:

        @bus.subscribe(MOVED, name="looking")
        async def look(event: Moved) -> None:
            got.append(event.number)

        await bus.publish_prepared([message])
        await bus.drain()
    assert got == [7]


async def test_the_publish_middleware_takes_part_once_when_a_message_is_prepared() -> None:
    """And not again when it is published."""
    seen: list[str] = []

    def middleware(inner: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            seen.append(envelope.direction)
            envelope.headers["seen"] = "1"
            await asyncio.sleep(0)
            await inner(envelope)

        return handle

    bus = memory()
    bus.instrument(publish=middleware)
    async with bus:
        message = await bus.prepare(MOVED, moved())
        assert message is not None
        assert message.headers == {"seen": "1"}
        await bus.publish_prepared([message])
        with pytest.raises(PublishFailed, match=r"a publish middleware waited .* await prepare\(\)"):
            bus.prepare_nowait(MOVED, moved())
    assert seen == ["publish", "publish"]


async def test_threads_prepare_at_the_same_time() -> None:
    """A plain call from any thread, while the bus works on its loop."""
    async with memory() as bus:
        messages = await asyncio.gather(
            *(asyncio.to_thread(bus.prepare_nowait, MOVED, moved(number)) for number in range(20))
        )
        await bus.publish_prepared([message for message in messages if message is not None])
        assert bus.published() == {MOVED.name: 20}


async def test_mistakes_are_told_when_a_message_is_prepared() -> None:
    """They are those of publish."""
    bus = memory()
    with pytest.raises(UnknownTopic):
        await bus.prepare("prepared.thing.mvoed", moved())
    wrong: Any = Event(aggregate_id=uuid4())
    with pytest.raises(EventTypeMismatch):
        bus.prepare_nowait(MOVED, wrong)


async def test_an_event_is_checked_without_being_published() -> None:
    """For whoever publishes it later: no middleware sees it, and the bus need not be started."""
    seen: list[str] = []

    def middleware(inner: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            seen.append(envelope.topic)
            await inner(envelope)

        return handle

    bus = memory()
    bus.instrument(publish=middleware)
    bus.check_event(MOVED, moved(), headers={"trace": "1"})
    await asyncio.to_thread(bus.check_event, MOVED, moved())
    with pytest.raises(UnknownTopic):
        bus.check_event("prepared.thing.mvoed", moved())
    wrong: Any = Event(aggregate_id=uuid4())
    with pytest.raises(EventTypeMismatch):
        bus.check_event(MOVED, wrong)
    headers: Any = {"trace": 1}
    with pytest.raises(TypeError):
        bus.check_event(MOVED, moved(), headers=headers)
    keyless = Topic("prepared.thing.kept", BaseEvent, key=lambda _: "\ud800")
    with pytest.raises(SerializationError):
        bus.check_event(keyless, BaseEvent("thing.kept", uuid4()))
    assert seen == []


async def test_each_message_has_a_result_of_its_own() -> None:
    """Some errors refuse for good, some do not, and some events are stored."""
    server = Server()

    def publish(messages: list[Message]) -> list[PublishError | None]:
        return [PublishFailed("too large") if b'"number":1}' in each.body else None for each in messages]

    server.faults["publish"] = publish
    prepared = [message for number in range(3) if (message := memory().prepare_nowait(MOVED, moved(number)))]
    wrong = Message("1", "No Topic", "k", b"{}")
    async with running_remote_bus(server) as bus:
        with pytest.raises(PublishManyError) as caught:
            await bus.publish_prepared([*prepared, wrong])
    first, refused, third, unfit = caught.value.results
    assert (first, third) == (None, None)
    assert isinstance(refused, PublishFailed)
    assert not refused.transient
    assert isinstance(unfit, InvalidTopic)


async def test_a_message_that_was_given_up_may_succeed_later() -> None:
    """The error is transient, when the adapter's was."""
    server = Server()
    server.faults["publish"] = lambda messages: [PublishFailed("full", transient=True) for _ in messages]
    message = memory().prepare_nowait(MOVED, moved())
    assert message is not None
    async with running_remote_bus(server, publish_timeout="20ms") as bus:
        with pytest.raises(PublishManyError) as caught:
            await bus.publish_prepared([message])
    [error] = caught.value.results
    assert isinstance(error, PublishFailed)
    assert error.transient


async def test_only_an_open_bus_publishes_what_was_prepared() -> None:
    """Before start and after close it raises, and no result is needed."""
    message = memory().prepare_nowait(MOVED, moved())
    assert message is not None
    bus = make_remote_bus(Server())
    with pytest.raises(BusNotStarted):
        await bus.publish_prepared([message])
    async with bus:
        pass
    with pytest.raises(BusClosed):
        await bus.publish_prepared([message])
