from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from bus_core.dispatch.engine import Engine
from bus_core.dispatch.invocation import Invocation
from bus_core.dispatch.lane import Lane
from promenade_bus_testing import VirtualClock
from support.account import Load
from support.buses import close_now

pytestmark = pytest.mark.timeout(60)

either_way = pytest.mark.parametrize("serialize", [False, True], ids=["objects", "serialized"])


@either_way
@pytest.mark.parametrize("seed", range(6))
async def test_every_event_comes_to_one_end(virtual_clock: VirtualClock, seed: int, serialize: bool) -> None:
    """Under random load each event is handled, skipped or dead-lettered once by each of its subscriptions."""
    load = Load(seed, virtual_clock, serialize=serialize)
    try:
        await load.run()
        await load.finish()
        assert load.verdict() == []
    finally:
        await close_now(load.bus, virtual_clock)


@either_way
@pytest.mark.parametrize("seed", range(100, 106))
async def test_closing_tells_the_rest(virtual_clock: VirtualClock, seed: int, serialize: bool) -> None:
    """When a bus is closed under load, what came to no end is in the report, and nothing else is."""
    load = Load(seed, virtual_clock, serialize=serialize)
    await load.run()
    report = await load.close(load.chance.choice([0, 0.5, 5]))
    assert load.verdict(report) == []


async def sabotaged(clock: VirtualClock, seed: int) -> list[str]:
    load = Load(seed, clock, serialize=True, faults=0)
    try:
        await load.run()
        await load.finish()
        return load.verdict()
    finally:
        await close_now(load.bus, clock)


def lose_one(accept: Callable[[Lane, Any], None]) -> Callable[[Lane, Any], None]:
    def losing(lane: Lane, job: Any) -> None:
        nonlocal count
        count += 1
        if count == 20:
            cast(Engine, lane.engine).buffer.delivery_settled(job.pending)
        else:
            accept(lane, job)

    count = 0
    return losing


def deliver_twice(accept: Callable[[Lane, Any], None]) -> Callable[[Lane, Any], None]:
    def doubling(lane: Lane, job: Any) -> None:
        nonlocal count
        count += 1
        if count == 20 and job.pending is not None:
            job.pending.remaining += 1
            accept(lane, job)
        accept(lane, job)

    count = 0
    return doubling


@pytest.mark.parametrize(("sabotage", "found"), [(lose_one, "lost 1 of"), (deliver_twice, "1 too many of")])
async def test_the_account_catches_planted_bugs(
    virtual_clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[Callable[[Lane, Any], None]], Callable[[Lane, Any], None]],
    found: str,
) -> None:
    """The account of these tests notices when the engine loses an event or delivers it twice."""
    monkeypatch.setattr(Lane, "accept", sabotage(Lane.accept))
    wrong = await sabotaged(virtual_clock, 3)
    assert any(found in each for each in wrong), wrong


async def test_the_account_catches_an_early_acknowledgement(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account notices when a failing handler is taken for a successful one."""

    def limited(invocation: Invocation) -> Callable[..., Any]:
        call = original(invocation)

        async def careless(*arguments: Any) -> None:
            try:
                await call(*arguments)
            except (Exception, asyncio.CancelledError):
                pass

        return careless

    original = Invocation._limited
    monkeypatch.setattr(Invocation, "_limited", limited)
    load = Load(3, virtual_clock, serialize=True)
    try:
        await load.run()
        await load.finish()
        assert any("lost 1 of" in each for each in load.verdict())
    finally:
        await close_now(load.bus, virtual_clock)
