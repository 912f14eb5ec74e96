"""Workers take events in walks, and count when somebody looks: whoever looks has to see the truth."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar

import pytest

from bus_core import BufferFull, Bus, Event, PublishManyError
from bus_core.dispatch.worker import current_worker
from bus_core.dispatch.worker_pool import WorkerPool
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, close_now, happened, running_bus, state_of, until
from support.handlers import Collecting, ignore

pytestmark = pytest.mark.timeout(30)

SEVERAL = 20
"""Fewer than a walk may have, and more than the first one has."""


async def publish_several(bus: Bus, number: int = SEVERAL) -> None:
    """Fills the queue while no worker has its turn."""
    await bus.publish_many([(HAPPENED, happened(each)) for each in range(number)])


async def settled(bus: Bus) -> None:
    """Waits until all is settled. A drain would give every event a counter of its own."""
    await until(lambda: bus.state().unsettled == 0)


async def warm_up(bus: Bus) -> None:
    """Lets the workers find that handlers are fast, so that they take long walks."""
    subscription = bus.subscribe(OTHER, ignore, name="warm-up")
    for _ in range(4):
        await bus.publish_many([(OTHER, happened())] * 500)
        await settled(bus)
    await subscription.unsubscribe()
    await until(lambda: "warm-up" not in [state.name for state in bus.state().subscriptions])


class Stopping:
    """A handler that waits at one event, and takes all others at once."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen: list[int] = []
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    async def __call__(self, event: Happened) -> None:
        self.seen.append(event.number)
        if event.number == self.at:
            self.reached.set()
            await self.gate.wait()


# --- looking from inside ----------------------------------------------------------------------------------


async def test_state_from_inside_of_several() -> None:
    """Of an event for several handlers the one that asks is running, and those after it are queued."""
    async with running_bus(worker_pool_size=1) as bus:
        told: list[list[tuple[int, int, int]]] = []

        async def handle(event: Happened) -> None:
            states = bus.state().subscriptions
            told.append([(state.handled, state.running, state.queued) for state in states])

        for name in ("first", "second", "third"):
            bus.subscribe(HAPPENED, handle if name == "second" else ignore, name=name)
        await publish_several(bus, 2)
        await settled(bus)
        assert told == [[(1, 0, 1), (0, 1, 1), (0, 0, 2)], [(2, 0, 0), (1, 1, 0), (1, 0, 1)]]


async def test_state_from_inside() -> None:
    """A handler that asks is told the truth at each event of a walk."""
    async with running_bus(worker_pool_size=3) as bus:
        told: list[tuple[int, ...]] = []

        async def handle(event: Happened) -> None:
            state = bus.state()
            mine = state.subscriptions[0]
            told.append((mine.handled, mine.running, mine.queued, state.unsettled, state.published))
            assert bus.published()[HAPPENED.name] == SEVERAL

        bus.subscribe(HAPPENED, handle)
        await publish_several(bus)
        await settled(bus)
        assert told == [
            (number, 1, SEVERAL - 1 - number, SEVERAL - number, SEVERAL) for number in range(SEVERAL)
        ]
        assert state_of(bus).handled == SEVERAL


async def test_unsettled_from_inside() -> None:
    """Finished events of a walk make room for a handler that publishes: the overflow stays untouched."""
    async with running_bus(worker_pool_size=1, buffer_size=SEVERAL) as bus:
        others = Collecting()

        async def handle(event: Happened) -> None:
            if event.number:
                await bus.publish(OTHER, happened(event.number), headers={"counted": "one by one"})

        bus.subscribe(HAPPENED, handle)
        bus.subscribe(OTHER, others.collect)
        await publish_several(bus)
        await until(lambda: len(others.numbers) == SEVERAL - 1)
        assert bus.state().overflowed == 0
        assert bus.state().unsettled == 0


async def test_room_from_inside() -> None:
    """``publish_nowait`` finds the room that the walk has made by now, and no more than that."""
    async with running_bus(worker_pool_size=1, buffer_size=4, overflow_size=0) as bus:
        outcomes: list[str] = []

        async def handle(event: Happened) -> None:
            if event.number < 4:
                for _ in range(2):
                    try:
                        bus.publish_nowait(HAPPENED, happened(9))
                        outcomes.append("accepted")
                    except BufferFull:
                        outcomes.append("full")

        bus.subscribe(HAPPENED, handle)
        await publish_several(bus, 4)
        await until(lambda: bus.state().unsettled == 0)
        assert outcomes == ["full", "full", *["accepted", "full"] * 3]
        assert state_of(bus).handled == bus.published()[HAPPENED.name] == 7


# --- held up ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 7, SEVERAL - 1])
async def test_held_up(at: int) -> None:
    """While a handler waits in the middle of a walk, the others go on, and the counters are exact."""
    async with running_bus(worker_pool_size=2) as bus:
        handler = Stopping(at)
        bus.subscribe(HAPPENED, handler)
        await warm_up(bus)
        await publish_several(bus)
        await handler.reached.wait()
        state = bus.state()
        assert (state.unsettled, state_of(bus).handled, state_of(bus).running) == (SEVERAL - at, at, 1)
        assert state_of(bus).queued == SEVERAL - at - 1
        await until(lambda: len(handler.seen) == SEVERAL)
        state = bus.state()
        assert handler.seen == [*range(SEVERAL)]
        assert (state.unsettled, state_of(bus).handled, state.running_handlers) == (1, SEVERAL - 1, 1)
        handler.gate.set()
        await settled(bus)
        assert (bus.state().unsettled, state_of(bus).handled) == (0, SEVERAL)


async def test_one_worker_held_up() -> None:
    """With the only worker held up the rest of its walk waits, and is counted as waiting."""
    async with running_bus(worker_pool_size=1) as bus:
        handler = Stopping(5)
        bus.subscribe(HAPPENED, handler)
        await warm_up(bus)
        await publish_several(bus)
        await handler.reached.wait()
        for _ in range(5):
            await asyncio.sleep(0)
            assert (state_of(bus).queued, state_of(bus).handled) == (SEVERAL - 6, 5)
            assert bus.state().unsettled == SEVERAL - 5
        handler.gate.set()
        await settled(bus)
        assert handler.seen == [*range(SEVERAL)]


async def test_publishers_get_the_room_of_a_walk() -> None:
    """A publisher that waits is told of the room that a walk made before it was held up."""
    async with running_bus(worker_pool_size=1, buffer_size=8) as bus:
        handler = Stopping(3)
        bus.subscribe(HAPPENED, handler)
        await warm_up(bus)
        await publish_several(bus, 8)
        waiting = [asyncio.create_task(bus.publish(HAPPENED, happened(100 + number))) for number in range(5)]
        await handler.reached.wait()
        await until(lambda: sum(task.done() for task in waiting) == 3)
        assert (bus.state().waiting_publishers, bus.state().unsettled) == (2, 8)
        handler.gate.set()
        await asyncio.gather(*waiting)
        await settled(bus)
        assert handler.seen == [*range(8), *range(100, 105)]


async def test_looking_takes_no_room_from_publishers() -> None:
    """Room that was counted because somebody looked is told to the publishers that wait, too."""
    async with running_bus(worker_pool_size=1, buffer_size=8) as bus:
        gate = asyncio.Event()

        async def handle(event: Happened) -> None:
            if event.number == 6:
                bus.publish_nowait(HAPPENED, happened(50))  # looks closer: six are done
                await gate.wait()

        bus.subscribe(HAPPENED, handle)
        await warm_up(bus)
        waiting = [asyncio.create_task(bus.publish(HAPPENED, happened(100 + number))) for number in range(3)]
        await publish_several(bus, 8)  # without a pause: the others find it full, and wait before it begins
        await asyncio.wait_for(asyncio.gather(*waiting), 10)
        assert bus.state().unsettled == 2 + 1 + 3
        gate.set()
        await settled(bus)


async def test_order_among_held_up_workers() -> None:
    """A worker that goes on takes what is left of another's walk before what was published later."""
    async with running_bus(worker_pool_size=2) as bus:
        seen: list[int] = []
        first, last = asyncio.Event(), asyncio.Event()

        async def handle(event: Happened) -> None:
            seen.append(event.number)
            if event.number == 0:
                await first.wait()
            if event.number == 1:
                await bus.publish(HAPPENED, happened(9))
                await last.wait()

        bus.subscribe(HAPPENED, handle)
        await warm_up(bus)
        await bus.publish(HAPPENED, happened(0))
        await until(lambda: seen == [0])
        for _ in range(3):
            await asyncio.sleep(0)
        for number in range(1, 5):
            await bus.publish(HAPPENED, happened(number))  # wakes the other worker
        first.set()  # and this one goes on in the same turn, after the other one is held up
        await until(lambda: len(seen) == 6)
        last.set()
        assert seen == [0, 1, 2, 3, 4, 9]


async def test_finished_events_are_let_go() -> None:
    """A handler that waits keeps its own event alive, and no other of its walk."""
    async with running_bus(worker_pool_size=1) as bus:
        handler = Stopping(SEVERAL - 1)
        bus.subscribe(HAPPENED, handler)
        await warm_up(bus)
        events = [happened(number) for number in range(SEVERAL)]
        alone = sys.getrefcount(events[0])
        await bus.publish_many([(HAPPENED, each) for each in events])
        await handler.reached.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [sys.getrefcount(events[number]) for number in range(SEVERAL - 1)] == [alone] * (SEVERAL - 1)
        assert sys.getrefcount(events[-1]) > alone
        handler.gate.set()
        await settled(bus)


# --- other ends of a walk --------------------------------------------------------------------------------


async def test_failures_in_the_middle(virtual_clock: VirtualClock) -> None:
    """An event that fails in a walk is not handled; those before and behind it are."""
    async with running_bus(virtual_clock, worker_pool_size=2, retry={"policy": "none"}) as bus:
        told: list[tuple[int, int]] = []

        async def handle(event: Happened) -> None:
            if event.number % 5 == 3:
                raise ValueError("no")
            if event.number % 5 == 4:
                told.append((state_of(bus).handled, state_of(bus).dead_lettered))

        bus.subscribe(HAPPENED, handle)
        await publish_several(bus)
        await settled(bus)
        assert told == [(3, 1), (7, 2), (11, 3), (15, 4)]
        state = state_of(bus)
        assert (state.handled, state.dead_lettered, bus.state().unsettled) == (16, 4, 0)


async def test_failures_after_a_pause(virtual_clock: VirtualClock) -> None:
    """An event whose handler was held up and then failed is not handled either."""
    async with running_bus(virtual_clock, worker_pool_size=2, retry={"policy": "none"}) as bus:

        async def handle(event: Happened) -> None:
            if event.number % 2:
                await asyncio.sleep(0)
            if event.number % 4 == 3:
                raise ValueError("no")

        bus.subscribe(HAPPENED, handle)
        await publish_several(bus)
        await settled(bus)
        state = state_of(bus)
        assert (state.handled, state.dead_lettered, bus.state().unsettled) == (15, 5, 0)


@pytest.mark.parametrize("pauses", [False, True], ids=["at once", "after a pause"])
async def test_cancelled_in_the_middle(pauses: bool) -> None:
    """A handler that cancels its worker ends no more than that: the rest of the walk is handled."""
    async with running_bus(worker_pool_size=1) as bus:
        seen: list[int] = []

        async def handle(event: Happened) -> None:
            seen.append(event.number)
            if event.number == 6:
                if pauses:
                    await asyncio.sleep(0)
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            if event.number == 7:
                await asyncio.sleep(0)  # here a worker that was cancelled would be told

        bus.subscribe(HAPPENED, handle)
        await warm_up(bus)
        await publish_several(bus)
        await settled(bus)
        assert seen == [*range(SEVERAL)]
        assert (state_of(bus).handled, state_of(bus).failed_attempts) == (SEVERAL, 0)
        assert (bus.state().unsettled, bus.state().lost) == (0, 0)


async def test_variables_changed_in_the_middle() -> None:
    """A handler that changes a context variable ends its worker, and the rest of its walk never sees it."""
    variable: ContextVar[int] = ContextVar("variable", default=0)
    async with running_bus(worker_pool_size=1) as bus:
        seen: list[tuple[int, int]] = []

        async def handle(event: Happened) -> None:
            seen.append((event.number, variable.get()))
            if event.number % 3 == 0:
                variable.set(1)

        bus.subscribe(HAPPENED, handle)
        await warm_up(bus)
        await publish_several(bus)
        await settled(bus)
        assert seen == [(number, 0) for number in range(SEVERAL)]
        assert (state_of(bus).handled, bus.state().unsettled) == (SEVERAL, 0)


async def test_drain_begins_in_the_middle() -> None:
    """A drain that begins while a walk is held up waits for all of it, and for what it causes."""
    async with running_bus(worker_pool_size=1) as bus:
        handler, caused = Stopping(5), Collecting()

        async def causing(event: Happened) -> None:
            await handler(event)
            await bus.publish(OTHER, happened(event.number))

        bus.subscribe(HAPPENED, causing, name="causing")
        await warm_up(bus)
        bus.subscribe(OTHER, caused.collect, name="caused")
        await publish_several(bus)
        await handler.reached.wait()
        draining = asyncio.create_task(bus.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        handler.gate.set()
        await draining
        assert handler.seen == [*range(SEVERAL)]
        assert caused.numbers == [*range(SEVERAL)]
        assert (state_of(bus, "causing").handled, bus.state().unsettled) == (SEVERAL, 0)


async def test_paused_in_the_middle() -> None:
    """A handler that pauses its subscription gets nothing more of its walk until it is resumed."""
    async with running_bus(worker_pool_size=2) as bus:
        seen: list[int] = []

        async def handle(event: Happened) -> None:
            seen.append(event.number)
            if event.number == 4:
                subscription.pause()

        subscription = bus.subscribe(HAPPENED, handle)
        await warm_up(bus)
        await publish_several(bus)
        await until(lambda: state_of(bus).handled == 5)
        assert seen == [*range(5)]
        assert (state_of(bus).queued, state_of(bus).running) == (SEVERAL - 5, 0)
        assert bus.state().unsettled == SEVERAL - 5
        subscription.resume()
        await settled(bus)
        assert seen == [*range(SEVERAL)]
        assert (state_of(bus).handled, bus.state().unsettled) == (SEVERAL, 0)


async def test_left_in_the_middle() -> None:
    """A subscription that is ended while its walk is held up still gets what was accepted for it."""
    async with running_bus(worker_pool_size=1) as bus:
        handler = Stopping(5)
        subscription = bus.subscribe(HAPPENED, handler)
        await warm_up(bus)
        await publish_several(bus)
        await handler.reached.wait()
        leaving = asyncio.create_task(subscription.unsubscribe())
        await asyncio.sleep(0)
        handler.gate.set()
        await leaving
        assert handler.seen == [*range(SEVERAL)]
        assert bus.state().unsettled == 0


@pytest.mark.parametrize("at", [0, 5])
async def test_closed_in_the_middle(virtual_clock: VirtualClock, at: int) -> None:
    """Events abandoned with a walk are reported, and not handled."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        handler = Stopping(at)
        bus.subscribe(HAPPENED, handler)
        await publish_several(bus)
        await virtual_clock.settle()
        closing = asyncio.create_task(bus.close(1))
        await virtual_clock.advance(1)
        report = await closing
        assert [item.state for item in report.abandoned] == ["running", *["queued"] * (SEVERAL - at - 1)]
        assert (state_of(bus).handled, state_of(bus).queued) == (at, 0)


async def test_engine_error_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the engine itself loses one event; the rest of the walk goes to another worker."""
    async with running_bus(worker_pool_size=1) as bus:
        seen: list[int] = []

        async def handle(event: Happened) -> None:
            seen.append(event.number)
            if event.number == 5:
                raise ValueError("no")

        def broken(pool: WorkerPool, *_: object) -> None:
            raise RuntimeError("broken")

        bus.subscribe(HAPPENED, handle)
        await warm_up(bus)
        monkeypatch.setattr(WorkerPool, "_attempt_failed", broken)
        await publish_several(bus)
        await until(lambda: len(seen) == SEVERAL)
        state = bus.state()
        assert seen == [*range(SEVERAL)]
        assert (state_of(bus).handled, state.unsettled, state.lost) == (SEVERAL - 1, 1, 1)


@pytest.mark.parametrize("name", ["first", "second"])
async def test_several_subscribers(virtual_clock: VirtualClock, name: str) -> None:
    """An event for several handlers is counted for each when one of them waits in the middle of a walk."""
    async with running_bus(virtual_clock, worker_pool_size=2, retry={"policy": "none"}) as bus:
        waiting, other = Stopping(5), Collecting()
        handlers: list[Callable[[Happened], Awaitable[None]]] = [waiting, other.collect]
        if name == "second":
            handlers.reverse()

        async def failing(event: Happened) -> None:
            if event.number == 7:
                raise ValueError("no")

        for number, handler in enumerate([*handlers, failing]):
            bus.subscribe(HAPPENED, handler, name=f"s{number}")
        await publish_several(bus)
        await virtual_clock.settle()
        waits, goes_on = ("s0", "s1") if name == "first" else ("s1", "s0")
        assert (state_of(bus, waits).handled, state_of(bus, waits).running) == (SEVERAL - 1, 1)
        assert (state_of(bus, goes_on).handled, state_of(bus, goes_on).running) == (SEVERAL, 0)
        assert (state_of(bus, "s2").handled, state_of(bus, "s2").dead_lettered) == (SEVERAL - 1, 1)
        assert bus.state().unsettled == 1
        waiting.gate.set()
        await settled(bus)
        assert state_of(bus, waits).handled == SEVERAL
        assert (bus.state().unsettled, bus.published()[HAPPENED.name]) == (0, SEVERAL)


async def test_plain_and_counted_entries_keep_their_order() -> None:
    """Events that stand in the queue as they are, and those that do not, are begun in their order."""
    async with running_bus(worker_pool_size=1) as bus:
        seen: list[int] = []

        async def handle(event: Event) -> None:
            assert isinstance(event, Happened)
            seen.append(event.number)

        bus.subscribe(HAPPENED, handle, name="plain")
        bus.subscribe(OTHER, handle, name="selective", where=lambda event: True)
        for number in range(30):
            await bus.publish(OTHER if number % 3 == 0 or number > 20 else HAPPENED, happened(number))
        await settled(bus)
        assert seen == [*range(30)]
        assert (state_of(bus, "plain").handled, state_of(bus, "selective").handled) == (14, 16)


# --- what was published -----------------------------------------------------------------------------------


async def test_published_over_changes_of_subscriptions() -> None:
    """A published event is counted once, however often the way of its topic changes."""
    async with running_bus(worker_pool_size=1) as bus:
        accepted = 0

        async def publish_some(headers: Mapping[str, str] | None = None) -> None:
            nonlocal accepted
            for _ in range(3):
                await bus.publish(HAPPENED, happened(accepted), headers=headers)
                accepted += 1

        bus.subscribe(HAPPENED, ignore, name="first")
        for _ in range(3):
            await publish_some()
            await publish_some(headers={"slow": "way"})
            second = bus.subscribe(HAPPENED, ignore, name="second")
            await publish_some()
            second.pause()
            await publish_some()
            second.resume()
            await publish_some()
            await second.unsubscribe()
            await publish_some()
            assert bus.published() == {HAPPENED.name: accepted}
            assert bus.published() == {HAPPENED.name: accepted}
        await settled(bus)
        assert bus.state().published == state_of(bus, "first").handled == accepted


async def test_publish_many_at_once_and_otherwise() -> None:
    """``publish_many`` keeps the order of results and events whichever way each of them takes."""
    async with running_bus(worker_pool_size=1, buffer_size=4) as bus:
        handler = Collecting()
        bus.subscribe(HAPPENED, handler.collect)
        wrong = object()
        items = [(HAPPENED, wrong if number % 7 == 3 else happened(number)) for number in range(SEVERAL)]
        with pytest.raises(PublishManyError) as raised:
            await bus.publish_many(items)  # type: ignore[arg-type]
        assert [result is None for result in raised.value.results] == [
            number % 7 != 3 for number in range(SEVERAL)
        ]
        await settled(bus)
        assert handler.numbers == [number for number in range(SEVERAL) if number % 7 != 3]
        assert state_of(bus).handled == bus.published()[HAPPENED.name] == len(handler.numbers)


async def test_in_a_handler_until_it_ends() -> None:
    """A task that a handler started is outside of it when the handler has returned."""
    async with running_bus(worker_pool_size=1) as bus:
        handlers_end = asyncio.Event()
        found: list[bool] = []

        async def afterwards() -> None:
            found.append(bus.in_handler)
            await handlers_end.wait()
            found.append(bus.in_handler)

        tasks: list[asyncio.Task[None]] = []

        async def handle(event: Happened) -> None:
            assert bus.in_handler
            tasks.append(asyncio.create_task(afterwards()))
            await asyncio.sleep(0)

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened())
        await until(lambda: bus.state().unsettled == 0)
        handlers_end.set()
        await tasks[0]
        assert found == [True, False]
        assert current_worker.get(None) is None
        await close_now(bus)
