"""Time that passes only when a test says so."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from bus_core import Clock
from promenade_bus_testing import VirtualClock


async def sleep(clock: VirtualClock, seconds: float) -> float:
    """Waits on the clock; returns its time then."""
    woken = asyncio.Event()
    clock.call_later(seconds, woken.set)
    await woken.wait()
    return clock.monotonic()


async def test_it_is_a_clock() -> None:
    """It is what the bus takes for a clock, and begins at a time of its own."""
    clock = VirtualClock(datetime(2030, 1, 1, tzinfo=UTC))
    assert isinstance(clock, Clock)
    await clock.advance(timedelta(minutes=1))
    assert clock.now() == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)
    assert repr(clock) == "<VirtualClock at 60 s, 0 timers>"


async def test_timers_fire_in_order_at_their_time(virtual_clock: VirtualClock) -> None:
    """``advance`` fires what is due, each at its own time, and what is set on the way; no other."""
    fired: list[float] = []

    def fire() -> None:
        fired.append(virtual_clock.monotonic())
        if len(fired) < 3:
            virtual_clock.call_later(2, fire)

    virtual_clock.call_later(9, fire)
    virtual_clock.call_later(1, fire)
    virtual_clock.call_later(0.5, fire).cancel()
    await virtual_clock.advance(6)
    assert fired == [1, 3, 5]
    assert virtual_clock.timers == [3]


async def test_run_takes_as_long_as_it_takes(virtual_clock: VirtualClock) -> None:
    """``run`` lets time pass until what it is given is done, and gives its result or raises its error."""

    async def work() -> str:
        await sleep(virtual_clock, 3600)
        await asyncio.to_thread(lambda: None)
        await sleep(virtual_clock, 60)
        return "done"

    async def fail() -> None:
        await sleep(virtual_clock, 1)
        raise KeyError("x")

    virtual_clock.call_later(100_000, lambda: None)
    assert await virtual_clock.run(sleep(virtual_clock, 5)) == 5
    virtual_clock.fire_all()
    virtual_clock = VirtualClock()
    assert await virtual_clock.run(work()) == "done"
    assert virtual_clock.monotonic() == 3660
    with pytest.raises(KeyError):
        await virtual_clock.run(fail())


async def test_run_gives_up(virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that no timer and nothing else ends fails with an error, and is cancelled."""
    monkeypatch.setattr("promenade_bus_testing.virtual_clock._PATIENCE", 0.05)
    waiting = asyncio.ensure_future(asyncio.Event().wait())
    with pytest.raises(
        AssertionError, match=r"no timer is left at 0 s, and for 0\.05 s of real time nothing"
    ):
        await virtual_clock.run(waiting)
    await asyncio.sleep(0)
    assert waiting.cancelled()


async def test_settle_waits_for_work_elsewhere(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``settle`` waits for threads that it was told of, but not for ever."""
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    virtual_clock.wait_for_work_elsewhere(thread.is_alive)
    asyncio.get_running_loop().call_later(0.01, gate.set)
    await virtual_clock.settle()
    assert not thread.is_alive()
    monkeypatch.setattr("promenade_bus_testing.virtual_clock._PATIENCE", 0.01)
    virtual_clock.wait_for_work_elsewhere(lambda: True)
    with pytest.raises(AssertionError, match=r"a handler has been running in a thread for 0\.01 s"):
        await virtual_clock.settle()


async def test_settle_notices_what_never_rests(virtual_clock: VirtualClock) -> None:
    """Something that is always ready to run is an error, not a hang."""

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - never to rest is the point
            await asyncio.sleep(0)

    spinning = asyncio.ensure_future(spin())
    with pytest.raises(AssertionError, match="something is still busy after 50 turns of the event loop"):
        await virtual_clock.settle(50)
    spinning.cancel()


async def test_settle_bounds_time_and_not_turns(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many turns work takes, it is waited for; what is busy for 10 s is an error all the same."""
    turns = 0

    async def work() -> None:
        nonlocal turns
        for turns in range(3000):  # noqa: B007 - is looked at below
            await asyncio.sleep(0)

    working = asyncio.ensure_future(work())
    await virtual_clock.settle()
    assert working.done()
    assert turns == 2999
    monkeypatch.setattr("promenade_bus_testing.virtual_clock._PATIENCE", 0.01)

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - never to rest is the point
            await asyncio.sleep(0)

    spinning = asyncio.ensure_future(spin())
    with pytest.raises(AssertionError, match=r"something has been busy for 0\.01 s, without a pause"):
        await virtual_clock.settle()
    spinning.cancel()


async def test_another_event_loop(virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that does not show what is ready, such as uvloop's, is refused with the reason."""
    monkeypatch.setattr("asyncio.get_running_loop", lambda: SimpleNamespace())
    with pytest.raises(RuntimeError, match="needs asyncio's own event loop"):
        await virtual_clock.settle()
