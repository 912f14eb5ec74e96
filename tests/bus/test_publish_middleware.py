from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    BusClosed,
    Delivery,
    Envelope,
    Event,
    EventTypeMismatch,
    Handler,
    Middleware,
    event,
)
from support.buses import HAPPENED, OTHER, Happened, happened, running_bus
from support.handlers import listen
from support.inline_plugins import middleware_plugin, noting


@event
class Unrelated(Event):
    """No class of any topic here."""


async def test_publish_middleware_order() -> None:
    """Publish middleware runs in the order of the configuration, the first outermost, around accepting."""
    notes: list[str] = []
    async with running_bus(
        plugins=[middleware_plugin(**{name: noting(name, notes) for name in "abc"})],
        middleware={"publish": ["b", "c", "a"]},
    ) as bus:
        listen(bus)
        await bus.publish(HAPPENED, happened())
    assert notes == ["b in", "c in", "a in", "a out", "c out", "b out"]


def rewriting(change: Callable[[Envelope], None]) -> Middleware:
    """A middleware that changes the envelope on its way in."""

    def wrap(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            change(envelope)
            await call_next(envelope)

        return handle

    return wrap


def _set(**values: Any) -> Callable[[Envelope], None]:
    def change(envelope: Envelope) -> None:
        for name, value in values.items():
            setattr(envelope, name, value)

    return change


@pytest.mark.parametrize("serialize", [False, True])
async def test_publish_middleware_replaces(serialize: bool) -> None:
    """Publish middleware may replace the event by another one of the class, and change the headers."""
    replacement = happened(99)

    def change(envelope: Envelope) -> None:
        assert envelope.direction == "publish"
        assert envelope.topic == "test.thing.happened"
        envelope.event = replacement
        envelope.headers["trace"] = envelope.headers["trace"] + "2"

    got: list[tuple[Happened, str]] = []

    async def note(event: Happened, delivery: Delivery) -> None:
        got.append((event, delivery.headers["trace"]))

    async with running_bus(
        plugins=[middleware_plugin(change=rewriting(change))],
        middleware={"publish": ["change"]},
        memory={"serialize": serialize},
    ) as bus:
        bus.subscribe(HAPPENED, note, name="note")
        await bus.publish(HAPPENED, happened(1), headers={"trace": "1"})
        await bus.drain()
    assert got == [(replacement, "12")]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_set(event=Unrelated(aggregate_id=uuid4())), EventTypeMismatch),
        (_set(event=None), EventTypeMismatch),
        (_set(headers={"a": 1}), TypeError),
    ],
    ids=["class", "none", "headers"],
)
async def test_publish_middleware_is_checked(
    change: Callable[[Envelope], None], error: type[Exception]
) -> None:
    """An event from publish middleware is checked like one from the caller."""
    async with running_bus(
        plugins=[middleware_plugin(change=rewriting(change))], middleware={"publish": ["change"]}
    ) as bus:
        received = listen(bus)
        with pytest.raises(error):
            await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert received == []
        assert bus.state().published == 0


async def test_publish_middleware_raises() -> None:
    """An error of publish middleware reaches the caller, and the event is not published."""

    def refuse(envelope: Envelope) -> None:
        raise PermissionError("not allowed")

    async with running_bus(
        plugins=[middleware_plugin(refuse=rewriting(refuse))], middleware={"publish": ["refuse"]}
    ) as bus:
        received = listen(bus)
        with pytest.raises(PermissionError, match="not allowed"):
            await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert received == []


async def test_publish_middleware_keeps_an_event_back() -> None:
    """A publish middleware that does not pass an event on has decided that it is not published."""

    def filtering(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            if getattr(envelope.event, "number", 0) % 2:
                await call_next(envelope)

        return handle

    async with running_bus(
        plugins=[middleware_plugin(odd=filtering)], middleware={"publish": ["odd"]}
    ) as bus:
        received = listen(bus)
        for number in range(6):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        assert [event.number for event in received] == [1, 3, 5]
        assert bus.state().published == 3


async def test_publish_middleware_is_composed_once_per_topic() -> None:
    """A middleware is called once per topic, never per event, so that it may keep what it learnt."""
    composed: list[str] = []

    def counting(call_next: Handler) -> Handler:
        composed.append("composed")
        seen = 0

        async def handle(envelope: Envelope) -> None:
            nonlocal seen
            seen += 1
            envelope.headers["seen"] = str(seen)
            await call_next(envelope)

        return handle

    seen: list[str] = []

    async def note(_event: Happened, delivery: Delivery) -> None:
        seen.append(delivery.headers["seen"])

    async with running_bus(
        plugins=[middleware_plugin(count=counting)],
        middleware={"publish": ["count"]},
        strict_topics=False,
    ) as bus:
        bus.subscribe("test.#", note, name="note")
        for _ in range(3):
            await bus.publish(HAPPENED, happened())
            bus.publish_nowait(HAPPENED, happened())
            await bus.publish("test.free.noted", BaseEvent("noted", uuid4()))
        bus.subscribe(OTHER, note, name="another")
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert len(composed) == 2
    assert seen == ["1", "2", "1", "3", "4", "2", "5", "6", "3", "7"]


async def test_closing_while_publish_middleware_waits() -> None:
    """An event that is still in the publish middleware when the bus closes is refused, not swallowed."""
    begun, finish = asyncio.Event(), asyncio.Event()

    def wait(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            begun.set()
            await finish.wait()
            await call_next(envelope)

        return handle

    async with running_bus(plugins=[middleware_plugin(wait=wait)], middleware={"publish": ["wait"]}) as bus:
        received = listen(bus)
        publishing = asyncio.create_task(bus.publish(HAPPENED, happened()))
        await begun.wait()
        await bus.close()
        finish.set()
        with pytest.raises(BusClosed):
            await publishing
        assert received == []
