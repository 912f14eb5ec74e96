from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from bus_core import InvalidHandler, NoRetry, PermanentError
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of

pytestmark = pytest.mark.timeout(30)


class Hanging:
    """Waits for ever, and keeps how it was stopped."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def __call__(self, event: Happened) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("timeout", [5, 5.0, timedelta(seconds=5)])
async def test_is_cancelled_and_counted(virtual_clock: VirtualClock, timeout: Any) -> None:
    """An async handler that exceeds its timeout is cancelled, and has failed: it is retried by the policy."""
    async with running_bus(virtual_clock) as bus:
        handler = Hanging()
        bus.subscribe(HAPPENED, handler, name="hanging", timeout=timeout)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(4.9)
        assert handler.cancelled == 0
        await virtual_clock.advance(0.1)
        assert handler.cancelled == 1
        assert (state_of(bus).failed_attempts, state_of(bus).waiting_retries) == (1, 1)
        await virtual_clock.advance(60)
        assert handler.cancelled == 3
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "retries exhausted after 3 attempts"
        assert {attempt.error for attempt in letter.attempts} == {
            "HandlerTimeout: the handler of 'hanging' ran longer than its timeout of 5 s"
        }
        assert bus.state().unsettled == 0


async def test_bounds_each_attempt(virtual_clock: VirtualClock) -> None:
    """The timeout bounds one attempt: neither what an event waited before nor its retries count."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        began: list[float] = []

        async def handle(event: Happened) -> None:
            began.append(virtual_clock.monotonic())
            gate = asyncio.Event()
            virtual_clock.call_later(4, gate.set)
            await gate.wait()
            if len(began) == 1:
                raise ValueError("no")

        bus.subscribe(HAPPENED, handle, timeout=5, ordered=True)
        key = uuid4()
        for number in range(3):
            await bus.publish(HAPPENED, happened(number, key))
        await virtual_clock.advance(60)
        assert began == [pytest.approx(time) for time in (0, 4.1, 8.1, 12.1)]
        assert (state_of(bus).handled, state_of(bus).failed_attempts) == (3, 1)


async def test_leaves_no_timer(virtual_clock: VirtualClock) -> None:
    """A handler that ends in time, well or not, leaves no timer."""
    async with running_bus(virtual_clock) as bus:

        async def handle(event: Happened) -> None:
            if event.number:
                raise PermanentError("no")

        bus.subscribe(HAPPENED, handle, timeout=60)
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        assert virtual_clock.timers == []


async def test_swallowing_the_cancellation_is_a_failure(virtual_clock: VirtualClock) -> None:
    """A handler that swallows its cancellation has run too long all the same."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        others: list[int] = []

        async def swallow(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

        async def handle(event: Happened) -> None:
            await asyncio.sleep(0)
            others.append(event.number)

        bus.subscribe(HAPPENED, swallow, name="swallow", timeout=5, retry=NoRetry())
        bus.subscribe(OTHER, handle, name="other")
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
            await bus.publish(OTHER, happened(number))
        await virtual_clock.advance(60)
        assert others == [0, 1, 2]
        assert (state_of(bus, "swallow").dead_lettered, state_of(bus, "other").failed_attempts) == (3, 0)
        for letter in await bus.dead_letters.list():
            assert letter.attempts[0].error.startswith("HandlerTimeout: ")


async def test_what_it_raises_on_its_way_out(virtual_clock: VirtualClock) -> None:
    """An error that a cancelled handler raises on its way out is the one that counts."""
    async with running_bus(virtual_clock) as bus:

        async def fail(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise PermanentError("cleaning up failed")

        bus.subscribe(HAPPENED, fail, timeout=5)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(5)
        (letter,) = await bus.dead_letters.list()
        assert letter.attempts[0].error == "PermanentError: cleaning up failed"


async def test_slow_to_stop_keeps_its_worker(virtual_clock: VirtualClock) -> None:
    """A handler that takes its time to clean up keeps its worker until then, and fails only then."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        cleaned = asyncio.Event()

        async def slow(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await cleaned.wait()

        bus.subscribe(HAPPENED, slow, timeout=5, retry=NoRetry())
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert (state_of(bus).running, state_of(bus).failed_attempts) == (1, 0)
        cleaned.set()
        await virtual_clock.settle()
        assert (state_of(bus).running, state_of(bus).dead_lettered) == (0, 1)


@pytest.mark.parametrize("options", [{"ordered": True}, {"concurrency": 1}], ids=["ordered", "bounded"])
async def test_frees_what_it_held(virtual_clock: VirtualClock, options: Mapping[str, Any]) -> None:
    """After a timeout the key, or the place, is free for the next event."""
    async with running_bus(virtual_clock) as bus:
        done: list[int] = []

        async def handle(event: Happened) -> None:
            if event.number == 0:
                await asyncio.Event().wait()
            done.append(event.number)

        bus.subscribe(HAPPENED, handle, timeout=5, retry=NoRetry(), **options)
        key = uuid4()
        for number in range(3):
            await bus.publish(HAPPENED, happened(number, key))
        await virtual_clock.advance(5)
        assert done == [1, 2]


async def test_only_this_subscription(virtual_clock: VirtualClock) -> None:
    """The timeout of one subscription cancels no other handler of the same event."""
    async with running_bus(virtual_clock) as bus:
        gate = asyncio.Event()
        done: list[int] = []

        async def patient(event: Happened) -> None:
            await gate.wait()
            done.append(event.number)

        bus.subscribe(HAPPENED, patient, name="patient")
        bus.subscribe(HAPPENED, Hanging(), name="hanging", timeout=1, retry=NoRetry())
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.advance(60)
        gate.set()
        await virtual_clock.settle()
        assert done == [1]
        assert state_of(bus, "patient").failed_attempts == 0


async def test_ends_at_the_very_limit(virtual_clock: VirtualClock) -> None:
    """A handler that ends in the moment of its limit is either handled or failed, and the worker lives on."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:

        async def handle(event: Happened) -> None:
            gate = asyncio.Event()
            virtual_clock.call_later(5, gate.set)
            await gate.wait()

        async def other(event: Happened) -> None:
            await asyncio.sleep(0)

        bus.subscribe(HAPPENED, handle, name="limit", timeout=5, retry=NoRetry())
        bus.subscribe(OTHER, other, name="other")
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        virtual_clock.fire_all()
        await virtual_clock.settle()
        await bus.publish(OTHER, happened())
        await virtual_clock.settle()
        state = state_of(bus, "limit")
        assert state.handled + state.dead_lettered == 1
        assert state_of(bus, "other").handled == 1
        assert bus.state().unsettled == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5s", True, timedelta(0)])
def test_bad_timeout(timeout: Any) -> None:
    """A timeout is a positive number of seconds or a timedelta."""
    with pytest.raises(InvalidHandler, match="timeout must be a positive number of seconds"):
        make_bus().subscribe(HAPPENED, Hanging(), timeout=timeout)
