"""The probe ``dead-letters``: number, growth and age, for all subscriptions and for single ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

import promenade_bus_health
from bus_core import (
    AdapterError,
    Bus,
    CheckResult,
    DeadLetterFilter,
    DeadLetterTally,
    Event,
    HealthStatus,
    NoRetry,
    Topic,
    event,
)
from bus_core.config import read_settings
from promenade_bus_health import DeadLetterOptions
from promenade_bus_testing import VirtualClock
from support.buses import make_bus, until
from support.remote import RemoteAdapter, Server, make_remote_bus

HEALTHY, DEGRADED, UNHEALTHY = HealthStatus


@event
class Ordered(Event):
    number: int = 0


ORDERED = Topic("shop.order.placed", Ordered)


@asynccontextmanager
async def failing_bus(clock: VirtualClock | None = None, **thresholds: Any) -> AsyncIterator[Bus]:
    """A bus on which ``mail`` gives up on every event, and ``stock`` on those with even numbers."""
    health = {"probes": [{"dead-letters": thresholds}], "timeout": "5s"}
    bus = make_bus(clock, plugins=[promenade_bus_health], health=health)
    subscribe(bus)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close(0)


def subscribe(bus: Bus) -> None:
    async def give_up(event: Ordered) -> None:
        raise ValueError("no")

    bus.subscribe(ORDERED, give_up, name="mail", retry=NoRetry())
    bus.subscribe(ORDERED, give_up, name="stock", retry=NoRetry(), where=lambda event: event.number % 2 == 0)


async def fail(bus: Bus, *numbers: int) -> None:
    for number in numbers:
        await bus.publish(ORDERED, Ordered(aggregate_id=ORDER, number=number))
    await until(lambda: not bus.state().unsettled)


ORDER = UUID(int=1)


async def checked(bus: Bus) -> CheckResult:
    return (await bus.health()).checks["dead-letters"]


async def test_one_letter_is_enough() -> None:
    """Without letters all is well; by default one degrades, and the summary says what to do."""
    async with failing_bus() as bus:
        found = await checked(bus)
        assert (found.status, found.summary) == (HEALTHY, "there is no dead letter")
        assert found.figures["dead_letters"] == 0
        await fail(bus, 1, 2, 3)
        found = await checked(bus)
        assert found.status is DEGRADED
        assert found.summary == (
            "4 dead letters (the threshold is 1), most of all 'mail' with 3: "
            "look at them with 'promenade-bus dead-letters count --by error'"
        )
        assert {name: found.figures[name] for name in ("dead_letters", "growth")} == {
            "dead_letters": 4,
            "growth": 4,
        }
        assert (found.figures["dead_letters.mail"], found.figures["dead_letters.stock"]) == (3, 1)
        await bus.dead_letters.purge(DeadLetterFilter())
        assert (await checked(bus)).status is HEALTHY


@pytest.mark.parametrize(("number", "status"), [(2, HEALTHY), (3, DEGRADED), (5, UNHEALTHY)])
async def test_the_number_is_judged(number: int, status: HealthStatus) -> None:
    """From one number on the check is degraded, from another one on unhealthy."""
    async with failing_bus(degraded=3, unhealthy=5) as bus:
        await fail(bus, *([1] * number))
        assert (await checked(bus)).status is status


async def test_growth_is_judged(virtual_clock: VirtualClock) -> None:
    """Growth within the window counts, earlier growth does not."""
    options = {"degraded": None, "growth_degraded": 2, "growth_unhealthy": 4, "window": "1m"}
    async with failing_bus(virtual_clock, **options) as bus:
        assert (await checked(bus)).status is HEALTHY
        await fail(bus, 1)
        assert (await checked(bus)).status is HEALTHY
        await fail(bus, 1)
        found = await checked(bus)
        assert found.status is DEGRADED
        assert found.summary.startswith("2 more dead letters within 1m (the threshold is 2): ")
        await fail(bus, 1, 1)
        assert (await checked(bus)).status is UNHEALTHY
        await virtual_clock.advance(61)
        assert (await checked(bus)).status is HEALTHY
        await bus.dead_letters.purge(DeadLetterFilter())
        await checked(bus)
        await fail(bus, 1, 1)
        found = await checked(bus)
        assert (found.status, found.figures["growth"]) == (DEGRADED, 2)


async def test_the_oldest_is_judged(virtual_clock: VirtualClock) -> None:
    """A letter that nobody looks at for too long degrades, and later is unhealthy."""
    options = {"degraded": None, "oldest_degraded": "1h", "oldest_unhealthy": "1d"}
    async with failing_bus(virtual_clock, **options) as bus:
        await fail(bus, 1)
        assert (await checked(bus)).status is HEALTHY
        await virtual_clock.advance(3600)
        found = await checked(bus)
        assert found.status is DEGRADED
        assert found.summary.startswith("the oldest dead letter died 1h ago (the threshold is 1h): ")
        assert found.figures["oldest_s"] == pytest.approx(3600, abs=1)
        await virtual_clock.advance(23 * 3600)
        assert (await checked(bus)).status is UNHEALTHY


async def test_a_subscription_has_thresholds_of_its_own() -> None:
    """Its letters count for its own thresholds, and not for those of the others."""
    async with failing_bus(degraded=3, subscriptions={"stock": {"unhealthy": 2}}) as bus:
        await fail(bus, 1, 2)
        assert (await checked(bus)).status is HEALTHY
        await fail(bus, 4)
        found = await checked(bus)
        assert found.status is UNHEALTHY
        assert found.summary.startswith(
            "2 dead letters of 'stock' (the threshold is 2). "
            "3 dead letters (the threshold is 3), most of all 'mail' with 3: "
        )


async def test_it_is_told_what_is_wrong_with_thresholds() -> None:
    """Thresholds that are no numbers above 0, or in the wrong order, are faults with their path."""

    def faults_of(**options: Any) -> list[str]:
        faults: list[str] = []
        read_settings(DeadLetterOptions, options, "$.dead-letters", faults)
        return faults

    assert faults_of(degraded=None, window="1h", subscriptions={"mail": {"oldest_degraded": "2d"}}) == []
    assert faults_of(degraded=0) == ["degraded must be a number above 0, got 0 @ $.dead-letters.degraded"]
    assert faults_of(subscriptions={"mail": {"growth_degraded": 3, "growth_unhealthy": 2}}) == [
        "growth_degraded must be at most growth_unhealthy @ $.dead-letters.subscriptions.mail"
    ]


def remote_bus(server: Server, adapter: type[RemoteAdapter]) -> Bus:
    health = {"probes": [{"dead-letters": {"degraded": 3}}], "timeout": "5s"}
    bus = make_remote_bus(
        server, adapter=adapter, plugins=[promenade_bus_health], health=health, strict_topics=False
    )
    subscribe(bus)
    return bus


async def test_a_store_that_fails_is_unhealthy() -> None:
    """A store that cannot be asked is unhealthy, in its own words."""

    class Failing(RemoteAdapter):
        async def count(self, where: DeadLetterFilter) -> int:
            raise AdapterError("the server is gone")

    async with remote_bus(Server(), Failing) as bus:
        found = await checked(bus)
        assert found.status is UNHEALTHY
        assert found.summary == "the dead letters cannot be counted: the server is gone"


async def test_a_slow_tally_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check does not wait for a slow tally where it knows an earlier one; the number is always new."""
    monkeypatch.setattr("promenade_bus_health.dead_letters._SHARE", 0)  # however long the first one took
    gate = asyncio.Event()
    tallies: list[int] = []

    class Slow(RemoteAdapter):
        async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
            tallies.append(len(self.server.letters))
            if len(tallies) > 1:
                await gate.wait()
            return await super().tally(where)

    async with remote_bus(Server(), Slow) as bus:
        await fail(bus, 1, 2)
        first = await checked(bus)
        assert (first.figures["dead_letters"], first.figures["dead_letters.mail"]) == (3, 2)
        await fail(bus, 1)
        await until(lambda: len(bus.adapter.server.letters) == 4)  # type: ignore[union-attr]
        second = await checked(bus)
        assert second.status is DEGRADED
        assert (second.figures["dead_letters"], second.figures["dead_letters.mail"]) == (4, 2)
        assert len(tallies) == 2
        assert (await checked(bus)).figures["dead_letters.mail"] == 2
        assert len(tallies) == 2
        gate.set()
        await until(lambda: tallies and bus.parts.probes["dead-letters"]._known_count == 4)  # type: ignore[attr-defined]
        assert (await checked(bus)).figures["dead_letters.mail"] == 3
