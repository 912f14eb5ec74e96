from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest

import promenade_bus_middleware
from bus_core import (
    AdapterError,
    BaseEvent,
    Delivery,
    HealthStatus,
    Postpone,
    SubscriptionSpec,
    WatchedMiddleware,
)
from promenade_bus_middleware.config import MemoryStoreOptions
from promenade_bus_middleware.memory_store import MemoryStore
from promenade_bus_testing import VirtualClock, isolated_bus
from support.middleware import REGISTERED, build, delivered, faults_of, succeed

SPEC = SubscriptionSpec(name="mail", group="shop.mail", topic="identity.user.registered")


def rate_limit(clock: VirtualClock, store: Any = None, **options: Any) -> WatchedMiddleware:
    made = build("rate-limit", clock, store or MemoryStore(MemoryStoreOptions(), clock), **options)
    assert isinstance(made, WatchedMiddleware)
    return made


def handler_of(middleware: WatchedMiddleware, **spec: Any) -> Any:
    made = middleware.of_subscription(attrs.evolve(SPEC, **spec))
    return succeed if made is None else made(succeed)


async def test_the_rate_is_kept_without_burning_attempts(virtual_clock: VirtualClock) -> None:
    """Of many events at most the burst, and the rate in each second, begin; each in its first attempt."""
    began: list[tuple[float, int]] = []
    async with isolated_bus(
        plugins=[promenade_bus_middleware],
        clock=virtual_clock,
        strict_topics=False,
        worker_pool_size=2,
        middleware=[{"rate-limit": {"rate": 10, "burst": 3}}],
    ) as bus:

        @bus.subscribe("sales.#", name="mail")
        async def mail(event: BaseEvent, delivery: Delivery) -> None:
            began.append((virtual_clock.monotonic(), delivery.attempt))

        for _ in range(23):
            await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        await virtual_clock.advance(2.05)
        state = bus.state()
        check = (await bus.health()).checks["middleware rate-limit"]
    times = [time - began[0][0] for time, _ in began]
    assert len(times) == 23
    assert {attempt for _, attempt in began} == {1}
    for first in times:
        for seconds in (0.0, 0.5, 1.0):
            within = [time for time in times if first <= time <= first + seconds]
            assert len(within) <= 3 + 10 * seconds + 1e-6
    assert state.subscriptions[0].failed_attempts == 0
    assert [(each.subject, each.outcome) for each in state.middleware] == [("mail", "limited")]
    assert state.middleware[0].events <= 2 * 23
    assert check.status is HealthStatus.HEALTHY


async def test_a_bucket_for_each_aggregate(virtual_clock: VirtualClock) -> None:
    """With by: aggregate, one aggregate does not use up the tokens of another one."""
    middleware = rate_limit(virtual_clock, rate=1, per="1m", by="aggregate")
    handler = handler_of(middleware)
    other = delivered(virtual_clock)
    other.event = attrs.evolve(REGISTERED, aggregate_id=UUID(int=2))
    await handler(delivered(virtual_clock))
    await handler(other)
    with pytest.raises(Postpone):
        await handler(delivered(virtual_clock))


async def test_buckets_of_subscriptions(virtual_clock: VirtualClock) -> None:
    """Each subscription has its bucket; those that are not listed have none."""
    middleware = rate_limit(virtual_clock, rate=1, subscriptions=["mail", "audit"])
    for name in ("mail", "audit"):
        await handler_of(middleware, name=name, group=f"shop.{name}")(delivered(virtual_clock))
    assert middleware.of_subscription(attrs.evolve(SPEC, name="other")) is None
    with pytest.raises(Postpone, check=lambda error: error.after == 1):
        await handler_of(middleware)(delivered(virtual_clock))


async def test_a_long_wait_is_bounded(virtual_clock: VirtualClock) -> None:
    """No event waits longer than longest_wait before it asks again, and they do not all come at once."""
    middleware = rate_limit(virtual_clock, rate=1, longest_wait="10s")
    handler, waits = handler_of(middleware), []
    for _ in range(60):
        try:
            await handler(delivered(virtual_clock))
        except Postpone as postponed:
            waits.append(postponed.after)
    assert len(waits) == 59
    assert waits[:10] == [pytest.approx(number) for number in range(1, 11)]
    assert all(5 <= wait <= 10 for wait in waits[10:])
    assert len({*waits[10:]}) == 49


async def test_events_that_give_up_keep_no_place(virtual_clock: VirtualClock) -> None:
    """However many events were told to come back, a later one gets a token within the longest wait."""
    middleware = rate_limit(virtual_clock, rate=1, longest_wait="10s")
    handler = handler_of(middleware)
    for _ in range(1000):
        with suppress(Postpone):
            await handler(delivered(virtual_clock))
    await virtual_clock.advance(5)
    await handler(delivered(virtual_clock))
    with pytest.raises(Postpone, check=lambda error: error.after == pytest.approx(6)):
        await handler(delivered(virtual_clock))


async def test_a_store_without_the_option(virtual_clock: VirtualClock) -> None:
    """A store that knows only ``take`` works, too; the middleware bounds what it says."""

    class Plain:
        forgotten = 0

        def __init__(self) -> None:
            self.waits = iter([0.0, 4.0, 90.0])

        async def take(self, key: str, rate: float, burst: int) -> float:
            return next(self.waits)

    middleware = rate_limit(virtual_clock, Plain(), rate=1, longest_wait="10s")
    handler = handler_of(middleware)
    await handler(delivered(virtual_clock))
    for longest in (4.0, 10.0):
        with pytest.raises(Postpone, check=lambda error, longest=longest: error.after <= longest):
            await handler(delivered(virtual_clock))


async def test_a_store_that_does_not_answer(virtual_clock: VirtualClock) -> None:
    """Without an answer the event is postponed, and health is degraded until there is one."""

    class Broken(MemoryStore):
        broken = True

        async def take_within(self, key: str, rate: float, burst: int, longest: float) -> float:
            if self.broken:
                raise AdapterError("the server is away")
            return await super().take_within(key, rate, burst, longest)

    store = Broken(MemoryStoreOptions(), virtual_clock)
    middleware = rate_limit(virtual_clock, store, rate=1, retry="3s")
    handler = handler_of(middleware)
    with pytest.raises(Postpone, check=lambda error: error.after == 3):
        await handler(delivered(virtual_clock))
    check = middleware.check()
    assert check is not None
    assert check.status is HealthStatus.DEGRADED
    assert check.summary.startswith("the store does not answer: the server is away")
    store.broken = False
    await handler(delivered(virtual_clock))
    check = middleware.check()
    assert check is not None
    assert check.status is HealthStatus.HEALTHY


async def test_a_full_store_is_told(virtual_clock: VirtualClock) -> None:
    """Buckets that were dropped before they were full degrade health."""
    store = MemoryStore(MemoryStoreOptions(max_keys=1), virtual_clock)
    middleware = rate_limit(virtual_clock, store, rate=1)
    for name in ("mail", "audit"):
        await handler_of(middleware, name=name, group=f"shop.{name}")(delivered(virtual_clock))
    check = middleware.check()
    assert check is not None
    assert check.status is HealthStatus.DEGRADED
    assert check.summary.startswith("1 buckets or marks were dropped because the store was full")


def test_faulty_options() -> None:
    """A rate is needed, and has to be above 0."""
    assert len(faults_of("rate-limit")) == 1
    (fault,) = faults_of("rate-limit", rate=0)
    assert "rate must be a number above 0, got 0" in fault
