from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any, Literal
from uuid import uuid4

import attrs
import pytest

import promenade_bus_middleware
from bus_core import (
    AdapterError,
    BaseEvent,
    Bus,
    Clock,
    ConfigError,
    Delivery,
    Envelope,
    HealthStatus,
    Postpone,
    Store,
    SubscriptionSpec,
    UnknownPlugin,
    WatchedMiddleware,
)
from promenade_bus_middleware.config import MemoryStoreOptions
from promenade_bus_middleware.memory_store import MemoryStore
from promenade_bus_testing import VirtualClock, isolated_bus, recording
from promenade_bus_testing.buses import make_bus
from support.middleware import build, delivered, failing, faults_of, hang, succeed


class Faulty(MemoryStore):
    """Does not answer the calls that it is told."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(MemoryStoreOptions(), clock)
        self.broken: set[str] = set()

    async def claim(self, key: str, owner: str, seconds: float) -> Literal["mine", "taken", "marked"]:
        self._maybe_fail("claim")
        return await super().claim(key, owner, seconds)

    async def mark(self, key: str, seconds: float) -> None:
        self._maybe_fail("mark")
        await super().mark(key, seconds)

    async def release(self, key: str, owner: str) -> None:
        self._maybe_fail("release")
        await super().release(key, owner)

    def _maybe_fail(self, name: str) -> None:
        if name in self.broken:
            raise AdapterError("the server is away")


SPEC = SubscriptionSpec(name="mail", group="shop.mail", topic="identity.user.registered")


def idempotency(clock: VirtualClock, store: Store | None = None, **options: Any) -> WatchedMiddleware:
    made = build("idempotency", clock, store or Faulty(clock), **options)
    assert isinstance(made, WatchedMiddleware)
    return made


def handler_of(middleware: WatchedMiddleware, handler: Any, **spec: Any) -> Any:
    made = middleware.of_subscription(attrs.evolve(SPEC, **spec))
    return handler if made is None else made(handler)


async def test_duplicates_are_skipped(virtual_clock: VirtualClock) -> None:
    """A bus handles the copies of an event once in each subscription, and counts the others."""
    handled: dict[str, int] = {"one": 0, "two": 0}
    settings = {"strict_topics": False, "middleware": ["idempotency"]}
    async with isolated_bus(plugins=[promenade_bus_middleware], **settings) as bus:
        for name in handled:

            async def handle(event: BaseEvent, delivery: Delivery) -> None:
                handled[delivery.subscription] += 1

            bus.subscribe("sales.#", handle, name=name)
        event = BaseEvent("order.placed", uuid4())
        for _ in range(3):
            await bus.publish("sales.order.placed", event)
            await bus.drain()
        check = (await bus.health()).checks["middleware idempotency"]
    assert handled == {"one": 1, "two": 1}
    assert check.status is HealthStatus.HEALTHY
    assert check.figures == {"duplicate one": 2, "duplicate two": 2, "forgotten": 0}


async def test_copies_at_the_same_time(virtual_clock: VirtualClock) -> None:
    """A copy that comes while the first is handled is postponed, and skipped when that has succeeded."""
    settings = {"strict_topics": False, "middleware": [{"idempotency": {"retry": "1s"}}]}
    gate, attempts = asyncio.Event(), []
    async with isolated_bus(plugins=[promenade_bus_middleware], clock=virtual_clock, **settings) as bus:

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            await gate.wait()

        event = BaseEvent("order.placed", uuid4())
        for _ in range(2):
            await bus.publish("sales.order.placed", event)
        await virtual_clock.advance(3)
        gate.set()
        await bus_drained(bus, virtual_clock)
        counts = {each.outcome: each.events for each in bus.state().middleware}
        assert await bus.dead_letters.count() == 0
    assert attempts == [1]
    assert counts["duplicate"] == 1
    assert counts["postponed"] >= 3


async def bus_drained(bus: Bus, clock: VirtualClock) -> None:
    draining = asyncio.ensure_future(bus.drain())
    while not draining.done():
        await clock.advance(1)
    await draining


async def test_a_failed_attempt_is_made_again() -> None:
    """An attempt that fails leaves no claim: the retry handles the event, and a copy after it is skipped."""
    settings = {"strict_topics": False, "middleware": ["idempotency"]}
    attempts = []
    plugins = [promenade_bus_middleware]
    async with isolated_bus(plugins=plugins, **settings) as bus, recording(bus) as recorder:
        recorder.failures.expect(OSError)

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                raise OSError("no")

        event = BaseEvent("order.placed", uuid4())
        for _ in range(2):
            await bus.publish("sales.order.placed", event)
            await bus.drain()
    assert attempts == [1, 2]


async def test_a_redriven_event_is_handled_again(virtual_clock: VirtualClock) -> None:
    """An earlier mark does not count for a redrive or a replay, each of which is handled once."""
    calls: list[int] = []

    async def count(envelope: Envelope) -> None:
        calls.append(1)

    handler = handler_of(idempotency(virtual_clock), count)
    first = delivered(virtual_clock)
    assert first.delivery is not None
    times = [virtual_clock.now() + timedelta(minutes=minute) for minute in (1, 2)]
    again = [attrs.evolve(first, delivery=attrs.evolve(first.delivery, redriven_at=at)) for at in times]
    for envelope in (first, first, *again, *again):
        await handler(envelope)
    assert len(calls) == 3


async def test_a_long_handler_keeps_its_claim(virtual_clock: VirtualClock) -> None:
    """The claim is renewed while the handler runs, and ends when the attempt is cancelled."""
    middleware = idempotency(virtual_clock, claim="3s")
    running = asyncio.ensure_future(handler_of(middleware, hang)(delivered(virtual_clock)))
    await virtual_clock.advance(30)
    with pytest.raises(Postpone):
        await handler_of(middleware, succeed)(delivered(virtual_clock))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await handler_of(middleware, succeed)(delivered(virtual_clock))
    assert virtual_clock.timers == []
    assert middleware.counts() == {("mail", "postponed"): 1}


async def test_a_cancelled_mark_leaves_no_claim(virtual_clock: VirtualClock) -> None:
    """An attempt that is cancelled while it marks the event gives its claim back."""

    class Slow(Faulty):
        async def mark(self, key: str, seconds: float) -> None:
            await asyncio.Event().wait()

    middleware = idempotency(virtual_clock, Slow(virtual_clock))
    running = asyncio.ensure_future(handler_of(middleware, succeed)(delivered(virtual_clock)))
    await virtual_clock.advance(1)
    running.cancel()
    await asyncio.wait([running])
    again = asyncio.ensure_future(handler_of(middleware, hang)(delivered(virtual_clock)))
    await virtual_clock.advance(1)
    assert not again.done()
    again.cancel()
    await asyncio.wait([again])


async def test_a_mark_ends(virtual_clock: VirtualClock) -> None:
    """After ``keep`` a copy is handled again."""
    middleware = idempotency(virtual_clock, keep="1h")
    handled = []

    async def note(envelope: Any) -> None:
        handled.append(virtual_clock.monotonic())

    for seconds in (0, 3599, 1):
        await virtual_clock.advance(seconds)
        await handler_of(middleware, note)(delivered(virtual_clock))
    assert handled == [0, 3600]


async def test_a_store_that_does_not_answer(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the handler the event is postponed; after it, it is settled without a mark. Health tells."""
    caplog.set_level(logging.WARNING, "promenade.bus.events")
    store = Faulty(virtual_clock)
    middleware = idempotency(virtual_clock, store, retry="7s")
    handler = handler_of(middleware, succeed)
    store.broken = {"claim"}
    for _ in range(2):
        with pytest.raises(Postpone, check=lambda postponed: postponed.after == 7):
            await handler(delivered(virtual_clock))
    check = middleware.check()
    assert check is not None
    assert (check.status, check.summary) == (
        HealthStatus.DEGRADED,
        "the store does not answer: the server is away; events are postponed until it does",
    )
    store.broken = {"mark"}
    await handler(delivered(virtual_clock))
    assert middleware.counts() == {("mail", "postponed"): 2, ("mail", "unmarked"): 1}
    assert [record.getMessage().partition(";")[2] for record in caplog.records] == [
        " the event is postponed (subscription=mail)",
        " the event is unmarked (subscription=mail)",
    ]


async def test_a_claim_that_cannot_be_given_back(virtual_clock: VirtualClock) -> None:
    """The error of the handler is the outcome, and the claim ends by itself."""
    store = Faulty(virtual_clock)
    middleware = idempotency(virtual_clock, store, claim="3s")
    store.broken = {"release"}
    with pytest.raises(OSError, match="no"):
        await handler_of(middleware, failing(OSError("no")))(delivered(virtual_clock))
    with pytest.raises(Postpone):
        await handler_of(middleware, succeed)(delivered(virtual_clock))
    await virtual_clock.advance(3)
    await handler_of(middleware, succeed)(delivered(virtual_clock))


async def test_a_full_store_is_told(virtual_clock: VirtualClock) -> None:
    """Marks that were dropped before their time degrade health."""
    store = MemoryStore(MemoryStoreOptions(max_keys=1), virtual_clock)
    middleware = idempotency(virtual_clock, store)
    for name in ("mail", "audit"):
        await handler_of(middleware, succeed, name=name, group=f"shop.{name}")(delivered(virtual_clock))
    check = middleware.check()
    assert check is not None
    assert check.status is HealthStatus.DEGRADED
    assert check.summary.startswith("1 marks were dropped because the store was full")


async def test_chosen_subscriptions(virtual_clock: VirtualClock) -> None:
    """Subscriptions that are not listed are left alone."""
    middleware = idempotency(virtual_clock, subscriptions=["mail"])
    assert middleware.of_subscription(attrs.evolve(SPEC, name="audit")) is None
    assert middleware.of_subscription(SPEC) is not None


async def test_instances_of_a_broadcast(virtual_clock: VirtualClock) -> None:
    """Each instance of a broadcast handles each event, although they share a store."""
    store, handled = Faulty(virtual_clock), []

    async def note(envelope: Any) -> None:
        handled.append(envelope)

    for _ in range(2):
        instance = idempotency(virtual_clock, store)
        for _ in range(2):
            await handler_of(instance, note, mode="broadcast")(delivered(virtual_clock))
    assert len(handled) == 2


@pytest.mark.parametrize(
    ("middleware", "fault"),
    [
        ({"publish": ["idempotency"]}, "'idempotency' works in the chain 'consume' only"),
        ([{"idempotency": {"store": {"memory": {"max_keys": 0}}}}], "$.bus.middleware[0].idempotency.store"),
        ([{"idempotency": {"store": "memorx"}}], "unknown store 'memorx'; did you mean 'memory'?"),
    ],
)
def test_faults(middleware: Any, fault: str) -> None:
    """A chain or a store that does not fit is a fault with its path."""
    with pytest.raises((ConfigError, UnknownPlugin)) as error:
        make_bus(plugins=[promenade_bus_middleware], middleware=middleware)
    assert fault in str(error.value)


def test_faulty_options() -> None:
    """Times are longer than nothing."""
    assert len(faults_of("idempotency", keep=0, claim=0, retry=0)) == 3
