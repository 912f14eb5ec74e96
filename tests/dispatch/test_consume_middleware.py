from __future__ import annotations

import inspect
from typing import Any

import pytest

from bus_core import (
    Delivery,
    Envelope,
    FixedRetry,
    Handler,
    Message,
    NoRetry,
)
from bus_core.dispatch.middleware import compose
from support.buses import HAPPENED, Happened, happened, running_bus
from support.handlers import ignore
from support.inline_plugins import middleware_plugin, noting


async def test_consume_middleware_order() -> None:
    """Consume middleware wraps each attempt in exactly the order of the configuration."""
    notes: list[str] = []

    async def note(event: Happened) -> None:
        notes.append("handler")

    async with running_bus(
        plugins=[middleware_plugin(**{name: noting(name, notes) for name in "abc"})],
        middleware=["c", "a", "b"],
    ) as bus:
        bus.subscribe(HAPPENED, note)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert notes == ["c in", "a in", "b in", "handler", "b out", "a out", "c out"]


async def test_retry_is_outside_of_middleware() -> None:
    """A consume chain wraps one attempt, so that each retry passes it again, with its number."""
    attempts: list[tuple[str, int]] = []

    def watching(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            assert envelope.delivery is not None
            assert envelope.direction == "consume"
            attempts.append(("in", envelope.delivery.attempt))
            try:
                await call_next(envelope)
            except ValueError:
                attempts.append(("failed", envelope.delivery.attempt))
                raise
            attempts.append(("out", envelope.delivery.attempt))

        return handle

    async def fails_once(event: Happened, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError

    async with running_bus(plugins=[middleware_plugin(watch=watching)], middleware=["watch"]) as bus:
        bus.subscribe(HAPPENED, fails_once, retry=FixedRetry(attempts=2, delay=0.001))
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert attempts == [("in", 1), ("failed", 1), ("in", 2), ("out", 2)]


async def test_consume_middleware_may_handle_a_failure() -> None:
    """Where a middleware swallows an error, the attempt is a success; its own errors are failures."""

    def swallowing(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            try:
                await call_next(envelope)
            except ValueError:
                return
            raise LookupError("nothing failed")

        return handle

    async def fail_on_zero(event: Happened) -> None:
        if event.number == 0:
            raise ValueError

    async with running_bus(plugins=[middleware_plugin(swallow=swallowing)], middleware=["swallow"]) as bus:
        subscription = bus.subscribe(HAPPENED, fail_on_zero, retry=NoRetry())
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        assert (subscription.state.handled, subscription.state.dead_lettered) == (1, 1)
        (letter,) = await bus.dead_letters.list()
        assert letter.attempts[0].error == "LookupError: nothing failed"


async def test_consume_middleware_replaces_the_event() -> None:
    """The handler gets the event that the middleware passes on; a retry begins with the original again."""
    seen: list[int] = []

    def adding(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            event = envelope.event
            assert isinstance(event, Happened)
            envelope.event = happened(event.number + 1)
            await call_next(envelope)

        return handle

    async def fails_once(event: Happened, delivery: Delivery) -> None:
        seen.append(event.number)
        if delivery.attempt == 1:
            raise ValueError

    async with running_bus(plugins=[middleware_plugin(add=adding)], middleware=["add"]) as bus:
        bus.subscribe(HAPPENED, fails_once, retry=FixedRetry(attempts=2, delay=0.001))
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
    assert seen == [2, 2]


async def test_consume_middleware_is_composed_once_per_subscription() -> None:
    """A middleware is called once for each subscription, never per event."""
    composed: list[Handler] = []

    def counting(call_next: Handler) -> Handler:
        composed.append(call_next)
        return call_next

    async with running_bus(plugins=[middleware_plugin(count=counting)], middleware=["count"]) as bus:
        bus.subscribe(HAPPENED, ignore, name="one")
        bus.subscribe("test.#", ignore, name="two")
        for _ in range(10):
            await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert len(composed) == 2


def test_an_empty_chain_is_no_chain() -> None:
    """Without middleware nothing is wrapped: the endpoint itself is what is called."""

    async def endpoint(envelope: Envelope) -> None: ...

    assert compose((), endpoint) is endpoint


@pytest.mark.parametrize(
    "middleware", [{}, {"middleware": []}, {"middleware": {"consume": [], "publish": []}}]
)
async def test_an_empty_chain_runs_the_handler_directly(middleware: dict[str, Any]) -> None:
    """With an empty chain, as without one, no frame lies between a worker's loop and the handler."""
    frames: list[str] = []

    async def look_around(event: Happened) -> None:
        frame = inspect.currentframe()
        while frame is not None and (frame := frame.f_back) is not None:
            if "bus_core" in frame.f_code.co_filename:
                frames.append(frame.f_code.co_name)

    async with running_bus(**middleware) as bus:
        bus.subscribe(HAPPENED, look_around)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert frames == ["_work"]


async def test_messages_pass_the_middleware_decoded() -> None:
    """Where events are serialized, middleware sees events, not messages."""
    seen: list[Any] = []

    def watching(call_next: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            seen.append(envelope.event)
            await call_next(envelope)

        return handle

    async with running_bus(
        plugins=[middleware_plugin(watch=watching)],
        middleware={"consume": ["watch"], "publish": ["watch"]},
        memory={"serialize": True},
    ) as bus:
        bus.subscribe(HAPPENED, ignore)
        published = happened(3)
        await bus.publish(HAPPENED, published)
        await bus.drain()
    assert seen == [published, published]
    assert not any(isinstance(item, Message) for item in seen)
