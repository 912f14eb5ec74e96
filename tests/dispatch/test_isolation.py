from __future__ import annotations

import asyncio
import contextvars
import decimal
import gc
import logging
import time
import weakref
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from bus_core import Delivery, Event, Topic, event
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of, until

pytestmark = pytest.mark.timeout(30)

LANES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "bounded": {"concurrency": 1},
    "selective": {"where": lambda event: True},
}

variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")


class Peculiar:
    """A value whose comparison raises, like that of an array."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Agreeable:
    """A value that equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Exiting:
    """A value whose comparison ends the program."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit(1)

    __hash__ = None  # type: ignore[assignment]


# --- context variables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["text", None, Peculiar(), Agreeable(), Exiting()], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("kind", ["plain", "ordered"])
@pytest.mark.parametrize("ending", ["returns", "raises", "awaits"])
async def test_no_handler_sees_the_variables_of_another(
    virtual_clock: VirtualClock, value: object, kind: str, ending: str
) -> None:
    """Context variables of a handler are gone for every later handler, however it ends."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        leaked: list[object] = []
        calls = 0

        async def handle(event: Happened) -> None:
            nonlocal calls
            calls += 1
            if variable.get("nothing") != "nothing":
                leaked.append(event.number)
            variable.set(value)
            if ending == "awaits":
                await asyncio.sleep(0)
            if ending == "raises":
                raise ValueError("no")

        async def other(event: Happened) -> None:
            if variable.get("nothing") != "nothing":
                leaked.append(event.number)

        bus.subscribe(HAPPENED, handle, name="first", **LANES[kind])
        bus.subscribe(HAPPENED, other, name="second")
        bus.subscribe(HAPPENED, handle, name="third", **LANES[kind])
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.advance(60)
        assert leaked == []
        assert calls == (60 if ending == "raises" else 20)
        assert (bus.state().unsettled, bus.state().lost) == (0, 0)
        assert state_of(bus, "second").handled == 10


async def test_a_changed_variable_is_reset_too(virtual_clock: VirtualClock) -> None:
    """A handler that sets a variable and resets it leaves no trace, and needs no fresh worker."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        tasks: set[object] = set()

        async def handle(event: Happened) -> None:
            tasks.add(asyncio.current_task())
            token = variable.set(event.number)
            variable.reset(token)

        bus.subscribe(HAPPENED, handle)
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert len(tasks) == 1


async def test_decimal_context(virtual_clock: VirtualClock) -> None:
    """The decimal context that a handler changes is not that of the next one."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        precisions: list[int] = []

        async def handle(event: Happened) -> None:
            precisions.append(decimal.getcontext().prec)
            decimal.getcontext().prec = 3

        bus.subscribe(HAPPENED, handle)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert precisions == [decimal.DefaultContext.prec] * 5


async def test_nothing_is_inherited(virtual_clock: VirtualClock) -> None:
    """Handlers see no variable of whoever started the bus, subscribed, published, or waits for a retry."""
    variable.set("made")
    bus = make_bus(virtual_clock)
    seen: list[object] = []

    async def handle(event: Happened, delivery: Delivery) -> None:
        seen.append(variable.get(None))
        if delivery.attempt == 1:
            raise ValueError("no")

    def handle_in_thread(event: Happened) -> None:
        seen.append(variable.get(None))

    variable.set("started")
    async with bus:
        variable.set("subscribed")
        bus.subscribe(HAPPENED, handle)
        bus.subscribe(HAPPENED, handle_in_thread)
        variable.set("published")
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        await until(lambda: len(seen) == 3)
        assert seen == [None] * 3


async def test_worker_started_later_inherits_nothing(virtual_clock: VirtualClock) -> None:
    """A worker that takes the place of another inherits no variable of the handler before."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        seen: list[object] = []

        async def handle(event: Happened) -> None:
            seen.append(variable.get(None))
            variable.set("handler")
            await bus.publish(OTHER, happened(event.number))

        bus.subscribe(HAPPENED, handle)
        bus.subscribe(OTHER, handle)
        await bus.publish(HAPPENED, happened())
        for _ in range(10):
            await asyncio.sleep(0)
        assert seen[:3] == [None] * 3


async def test_tasks_of_a_handler_keep_its_variables(virtual_clock: VirtualClock) -> None:
    """A task that a handler starts sees the variables of that handler, also when it outlives it."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        seen: dict[int, object] = {}
        tasks: list[asyncio.Task[None]] = []
        gate = asyncio.Event()

        async def later(number: int) -> None:
            await gate.wait()
            seen[number] = variable.get(None)

        async def handle(event: Happened) -> None:
            variable.set(event.number)
            tasks.append(asyncio.create_task(later(event.number)))

        bus.subscribe(HAPPENED, handle)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        gate.set()
        await asyncio.gather(*tasks)
        assert seen == {number: number for number in range(5)}


async def test_changing_the_context_costs_no_worker(virtual_clock: VirtualClock) -> None:
    """However many handlers change their context, as many can run at once as before, and no more."""
    async with running_bus(virtual_clock, worker_pool_size=3) as bus:
        gate = asyncio.Event()

        async def handle(event: Happened) -> None:
            variable.set(event.number)
            if event.number % 3 == 0:
                await asyncio.sleep(0)
            if event.number % 5 == 0:
                raise ValueError("no")

        async def hold(event: Happened) -> None:
            await gate.wait()

        bus.subscribe(HAPPENED, handle)
        bus.subscribe(HAPPENED, handle)
        bus.subscribe(OTHER, hold, name="hold")
        for number in range(100):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.advance(60)
        assert bus.state().unsettled == 0
        for number in range(10):
            await bus.publish(OTHER, happened(number))
        await virtual_clock.settle()
        state = state_of(bus, "hold")
        assert (state.running, state.queued) == (3, 7)
        assert sum(task.get_name() == "promenade-worker" for task in asyncio.all_tasks()) == 3
        gate.set()
        await bus.drain()


# --- handlers of one event --------------------------------------------------------------------------------


@pytest.mark.parametrize("draining", [False, True], ids=["", "during a drain"])
@pytest.mark.parametrize("kinds", sorted({*permutations(["plain", "plain", "ordered"])}), ids="-".join)
async def test_a_handler_that_is_held_up_holds_up_nobody_else(
    virtual_clock: VirtualClock, kinds: tuple[str, ...], draining: bool
) -> None:
    """Each handler of an event runs, also while all the others of the same event wait for it."""
    async with running_bus(virtual_clock) as bus:
        arrived: list[int] = []
        everybody = asyncio.Event()

        def handler(index: int) -> Callable[[Happened], Any]:
            async def handle(event: Happened) -> None:
                arrived.append(index)
                if len(arrived) == len(kinds):
                    everybody.set()
                await everybody.wait()

            return handle

        gate = asyncio.Event()

        async def hold(event: Happened) -> None:
            await gate.wait()

        bus.subscribe(OTHER, hold)
        for index, kind in enumerate(kinds):
            bus.subscribe(HAPPENED, handler(index), name=f"{kind}-{index}", **LANES[kind])
        drain = None
        if draining:
            await bus.publish(OTHER, happened())
            drain = asyncio.ensure_future(bus.drain())
            await virtual_clock.settle()
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        assert sorted(arrived) == [*range(len(kinds))]
        gate.set()
        await virtual_clock.settle()
        assert bus.state().unsettled == 0
        assert drain is None or drain.done()


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, SystemExit])
async def test_a_crash_of_one_handler_reaches_no_other(
    virtual_clock: VirtualClock, at: int, error: type[BaseException]
) -> None:
    """Whichever of the handlers of an event crashes, each of the others gets it exactly once."""
    async with running_bus(virtual_clock, worker_pool_size=2) as bus:
        seen: list[list[int]] = [[] for _ in range(4)]

        def handler(index: int) -> Callable[[Happened], Any]:
            async def handle(event: Happened) -> None:
                seen[index].append(event.number)
                if index == at:
                    raise error

            return handle

        for index in range(4):
            bus.subscribe(HAPPENED, handler(index), name=f"handler-{index}")
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.advance(60)
        for index in range(4):
            assert sorted(seen[index]) == sorted([0, 1, 2] * (3 if index == at else 1))
        assert (bus.state().unsettled, bus.state().lost) == (0, 0)


async def test_crash_is_logged_without_its_text(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure is logged with ids and the class of the error, but not its text, which may be personal."""
    async with running_bus(virtual_clock) as bus:

        async def fail(event: Happened) -> None:
            raise ValueError("ada@example.org")

        bus.subscribe(HAPPENED, fail, name="failing")
        published = happened()
        await bus.publish(HAPPENED, published)
        await virtual_clock.advance(60)
        records = [record for record in caplog.records if record.name == "promenade.bus"]
        assert [record.levelno for record in records] == [logging.WARNING, logging.WARNING, logging.ERROR]
        for record in records:
            assert "ValueError" in record.message
            assert "failing" in record.message
            assert str(published.event_id) in record.message
            assert "ada@example.org" not in record.message


@pytest.mark.parametrize("error", [ValueError("filter"), SystemExit(1)], ids=repr)
async def test_log_that_raises(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """When the application's log raises, every failed event is dead-lettered or counted as lost."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:

        def refuse(record: logging.LogRecord) -> bool:
            raise error

        async def fail(event: Happened) -> None:
            raise ValueError("no")

        bus.subscribe(HAPPENED, fail)
        with monkeypatch.context() as patch:
            patch.setattr(logging.getLogger("promenade.bus"), "filters", [refuse])
            for number in range(3):
                await bus.publish(HAPPENED, happened(number))
            await virtual_clock.advance(60)
        state = bus.state()
        assert state.unsettled == 0
        assert state.lost + len(await bus.dead_letters.list()) == 3
        await bus.publish(HAPPENED, happened(4))
        await virtual_clock.advance(60)
        assert state_of(bus).dead_lettered >= 1


async def test_a_blocked_handler_leaves_the_other_workers(virtual_clock: VirtualClock) -> None:
    """As long as one worker is free, events are handled, however many handlers are held up."""
    async with running_bus(virtual_clock, worker_pool_size=4) as bus:
        gate = asyncio.Event()
        numbers: list[int] = []

        async def hold(event: Happened) -> None:
            await gate.wait()

        async def handle(event: Happened) -> None:
            await asyncio.sleep(0)
            numbers.append(event.number)

        bus.subscribe(HAPPENED, hold)
        bus.subscribe(OTHER, handle)
        for _ in range(3):
            await bus.publish(HAPPENED, happened())
        for number in range(20):
            await bus.publish(OTHER, happened(number))
        await virtual_clock.settle()
        assert numbers == [*range(20)]
        gate.set()
        await bus.drain()


async def test_flood_does_not_starve_the_loop(virtual_clock: VirtualClock) -> None:
    """During a flood of fast handlers the rest of the loop gets its turn, many times."""
    async with running_bus(virtual_clock, buffer_size=100_000) as bus:
        handled = 0

        async def handle(event: Happened) -> None:
            nonlocal handled
            handled += 1
            until = time.perf_counter() + 0.000_02  # as fast on a fast machine as on a slow one
            while time.perf_counter() < until:
                pass

        bus.subscribe(HAPPENED, handle)
        flood = happened()
        for _ in range(5000):
            await bus.publish(HAPPENED, flood)
        turns = 0
        while handled < 5000:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 3


# --- what is left behind ----------------------------------------------------------------------------------


@event
class Weighty(Event):
    """An event that can be watched."""

    number: int = 0


WEIGHTY = Topic("test.weighty.happened", Weighty)


@pytest.mark.parametrize("count", [1, 64, 100])
@pytest.mark.parametrize("kind", ["plain", "ordered"])
async def test_handled_events_are_let_go(virtual_clock: VirtualClock, kind: str, count: int) -> None:
    """A bus that is idle keeps none of the events that it has handled."""
    async with running_bus(virtual_clock) as bus:
        alive: list[weakref.ref[Weighty]] = []

        async def handle(event: Weighty) -> None:
            if event.number % 10 == 9:
                await asyncio.sleep(0)

        bus.subscribe(WEIGHTY, handle, **LANES[kind])
        for number in range(count):
            published = Weighty(aggregate_id=happened().aggregate_id, number=number)
            alive.append(weakref.ref(published))
            await bus.publish(WEIGHTY, published)
            del published
        await virtual_clock.settle()
        gc.collect()
        assert [ref() for ref in alive if ref() is not None] == []
