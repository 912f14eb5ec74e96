from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from bus_core import (
    BufferFull,
    Bus,
    BusClosed,
    FixedRetry,
    HealthStatus,
    Postpone,
    SerializationError,
    SyncBus,
    Topic,
)
from promenade_bus_memory import MemoryHub
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, WITHIN, Happened, happened, make_bus, running_bus, state_of, until
from support.handlers import Collecting, ignore, listen


class Gate:
    """A handler that holds every event until the gate is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.begun: list[int] = []
        self.numbers: list[int] = []

    async def handle(self, event: Happened) -> None:
        self.begun.append(event.number)
        await self.opened.wait()
        self.numbers.append(event.number)


async def turns(number: int = 20) -> None:
    """Lets whatever can run now run."""
    for _ in range(number):
        await asyncio.sleep(0)


def publishing(bus: Bus, *numbers: int) -> list[asyncio.Task[None]]:
    """Tasks that publish one event each, begun in this order."""
    return [asyncio.create_task(bus.publish(HAPPENED, happened(number))) for number in numbers]


# --- what counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialize", [False, True])
async def test_the_buffer_bounds_what_is_not_settled(serialize: bool) -> None:
    """The buffer counts accepted events until they are settled, those that are being handled included."""
    gate = Gate()
    async with running_bus(buffer_size=3, worker_pool_size=2, memory={"serialize": serialize}) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        tasks = publishing(bus, 0, 1, 2, 3, 4)
        await until(lambda: len(gate.begun) == 2)
        assert [task.done() for task in tasks] == [True, True, True, False, False]
        state = bus.state()
        assert (state.unsettled, state.waiting_publishers, state.running_handlers) == (3, 2, 2)
        gate.opened.set()
        await asyncio.gather(*tasks)
        await bus.drain()
        assert sorted(gate.numbers) == [0, 1, 2, 3, 4]


async def test_fan_out_counts_once() -> None:
    """An event for several subscriptions takes one place, until the last of them has settled it."""
    gate, quick = Gate(), Collecting()
    async with running_bus(buffer_size=2) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        for number in range(5):
            bus.subscribe(HAPPENED, quick.collect, name=f"quick-{number}")
        bus.subscribe("test.#", ignore, ordered=True)
        tasks = publishing(bus, 0, 1, 2)
        await until(lambda: len(quick.numbers) == 10)
        assert bus.state().unsettled == 2
        assert not tasks[2].done()
        gate.opened.set()
        await asyncio.gather(*tasks)
        await bus.drain()
        assert bus.state().unsettled == 0


async def test_an_event_for_nobody_takes_no_place() -> None:
    """Events that nobody subscribed to take no place in the buffer."""
    async with running_bus(buffer_size=1) as bus:
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        assert bus.state().unsettled == 0


async def test_waiting_retries_keep_their_place(virtual_clock: VirtualClock) -> None:
    """An event that waits for a retry, or was postponed, keeps its place, and holds no worker."""
    attempts: list[int] = []

    async def fail_once(event: Happened) -> None:
        attempts.append(event.number)
        if len(attempts) == 1:
            raise ValueError
        if len(attempts) == 2:
            raise Postpone(after=5)

    async with running_bus(virtual_clock, buffer_size=1, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, fail_once, retry=FixedRetry(attempts=2, delay=10))
        waiting = publishing(bus, 1, 2)
        await virtual_clock.settle()
        state = bus.state()
        assert (state.unsettled, state.waiting_retries, state.running_handlers) == (1, 1, 0)
        assert not waiting[1].done()
        await virtual_clock.advance(10)
        assert attempts == [1, 1]
        assert not waiting[1].done()
        await virtual_clock.advance(5)
        await asyncio.gather(*waiting)
        await virtual_clock.settle()
        assert attempts == [1, 1, 1, 2]


async def test_a_dead_letter_frees_its_place() -> None:
    """A dead-lettered event is settled: its place is free."""

    async def fail(event: Happened) -> None:
        raise ValueError

    async with running_bus(buffer_size=1, retry_attempts=1) as bus:
        bus.subscribe(HAPPENED, fail)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        assert (bus.state().unsettled, len(await bus.dead_letters.list())) == (0, 5)


async def test_paused_and_ordered_events_keep_their_place() -> None:
    """Events that a paused subscription holds, or that wait for their key, are in the buffer."""
    received = Collecting()
    async with running_bus(buffer_size=2) as bus:
        subscription = bus.subscribe(HAPPENED, received.collect, ordered=True)
        subscription.pause()
        tasks = publishing(bus, 1, 2, 3)
        await turns()
        assert [task.done() for task in tasks] == [True, True, False]
        subscription.resume()
        await asyncio.gather(*tasks)
        await bus.drain()
    assert sorted(received.numbers) == [1, 2, 3]


# --- who waits --------------------------------------------------------------------------------------------


async def test_waiting_publishers_keep_their_order() -> None:
    """Publishers that wait go on in the order in which they came."""
    gate = Gate()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        tasks = publishing(bus, *range(50))
        await turns()
        gate.opened.set()
        await asyncio.gather(*tasks)
        await bus.drain()
    assert gate.numbers == list(range(50))


async def test_nobody_overtakes_those_who_wait() -> None:
    """A publisher that waits gets its place before any that comes later, publish_nowait included."""
    gate = Gate()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        await bus.publish(HAPPENED, happened(0))
        [waiting] = publishing(bus, 1)
        await turns()
        overtaken = 0
        gate.opened.set()
        while not waiting.done():
            try:
                bus.publish_nowait(HAPPENED, happened(2))
                overtaken += 1
            except BufferFull:
                pass
            await asyncio.sleep(0)
        assert overtaken == 0
        await bus.drain()
        bus.publish_nowait(HAPPENED, happened(3))  # nobody waits any more


async def test_nobody_overtakes_those_who_wait_while_a_worker_goes_on() -> None:
    """While a worker is awake, and needs no waking, a place that comes free is for those who wait as well."""
    handled: list[int] = []

    async def handle(event: Happened) -> None:
        await asyncio.sleep(0)
        handled.append(event.number)

    async with running_bus(buffer_size=3, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, handle)
        tasks = publishing(bus, *range(30))
        overtaken = 0
        while not all(task.done() for task in tasks) and overtaken == 0:
            try:
                bus.publish_nowait(HAPPENED, happened(100))
                overtaken += bus.state().waiting_publishers > 0
            except BufferFull:
                pass
            await asyncio.sleep(0)
        assert overtaken == 0
        await bus.drain()
        assert [number for number in handled if number < 100] == [*range(30)]


async def test_a_publisher_that_gives_up_is_not_waited_for() -> None:
    """When those who waited were cancelled, the next one that comes has its place."""
    gate = Gate()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        await bus.publish(HAPPENED, happened(0))
        tasks = publishing(bus, 1, 2)
        await turns()
        assert bus.state().waiting_publishers == 2
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert bus.state().waiting_publishers == 0
        gate.opened.set()
        await bus.drain()
        bus.publish_nowait(HAPPENED, happened(3))
        await bus.drain()
        assert gate.numbers == [0, 3]


async def test_a_publisher_whose_turn_ends_in_an_error_passes_it_on() -> None:
    """Where an event is refused when its place is free, the next publisher gets the place."""

    def key(event: Happened) -> str:
        if event.number == 1:
            raise ValueError("no key")
        return "key"

    keyed = Topic("test.keyed.happened", Happened, key=key)
    gate = Gate()
    async with running_bus(buffer_size=1) as bus:
        bus.subscribe(keyed, gate.handle, ordered=True)
        await bus.publish(keyed, happened(0))
        tasks = [asyncio.create_task(bus.publish(keyed, happened(number))) for number in (1, 2)]
        await turns()
        gate.opened.set()
        await until(lambda: tasks[1].done(), "the second publisher got its place")
        assert isinstance(tasks[0].exception(), SerializationError)
        assert tasks[1].exception() is None
        await bus.drain()
    assert gate.numbers == [0, 2]


async def test_a_bus_that_is_closed_passes_its_turn_on() -> None:
    """A publisher whose bus is closed when it gets a place on another bus leaves it to the next one."""
    hub = MemoryHub()
    gate = Gate()
    async with (
        running_bus(buffer_size=1, memory={"hub": hub}) as receiving,
        running_bus(buffer_size=1, memory={"hub": hub}) as leaving,
    ):
        receiving.subscribe(HAPPENED, gate.handle)
        await receiving.publish(HAPPENED, happened(0))
        first = asyncio.create_task(leaving.publish(HAPPENED, happened(1)))
        second = asyncio.create_task(receiving.publish(HAPPENED, happened(2)))
        await turns()
        closing = asyncio.create_task(leaving.close(1))
        gate.opened.set()
        await until(lambda: second.done(), "the other publisher got its place")
        await asyncio.wait((first, closing))
        await receiving.drain()
        assert second.exception() is None
        assert 2 in gate.numbers


async def test_waiting_publishers_keep_their_order_when_routes_change() -> None:
    """Publishers that wait for room keep their turns while subscriptions come and go."""
    gate = Gate()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        await bus.publish(HAPPENED, happened(0))
        tasks = [asyncio.create_task(bus.publish(HAPPENED, happened(number))) for number in range(1, 6)]
        await turns()
        bus.subscribe("test.#", ignore)
        gate.opened.set()
        await asyncio.gather(*tasks)
        await bus.drain()
    assert gate.numbers == [*range(6)]


async def test_waiting_publishers_keep_their_order_when_many_places_are_freed() -> None:
    """Publishers that were told of room which others took go back to where they stood."""
    gate = Gate()
    accepted: list[int] = []
    async with running_bus(buffer_size=5, worker_pool_size=2) as bus:
        bus.subscribe(HAPPENED, gate.handle)

        async def publish(number: int) -> None:
            await bus.publish(HAPPENED, happened(number))
            accepted.append(number)

        tasks = [asyncio.create_task(publish(number)) for number in range(50)]
        await turns()
        gate.opened.set()
        await asyncio.gather(*tasks)
        await bus.drain()
    assert accepted == list(range(50))


async def test_one_freed_place_wakes_one_publisher() -> None:
    """Each freed place lets one publisher go on, and the bound holds all the time."""
    release: asyncio.Queue[None] = asyncio.Queue()
    handled: list[int] = []

    async def step(event: Happened) -> None:
        await release.get()
        handled.append(event.number)

    async with running_bus(buffer_size=3, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, step)
        tasks = publishing(bus, *range(8))
        await turns()
        for settled in range(1, 6):
            release.put_nowait(None)
            await until(lambda settled=settled: len(handled) == settled)  # type: ignore[misc]
            await turns()
            assert bus.state().unsettled == 3
            assert sum(task.done() for task in tasks) == 3 + settled
        for _ in range(3):
            release.put_nowait(None)
        await bus.drain()
        assert handled == list(range(8))


@pytest.mark.parametrize("cancelled", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
async def test_a_cancelled_publisher_leaves_the_others_alone(cancelled: tuple[int, ...]) -> None:
    """A publisher that is cancelled while it waits publishes nothing, and takes no place from the others."""
    gate = Gate()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        await bus.publish(HAPPENED, happened(100))
        tasks = publishing(bus, 0, 1, 2)
        await turns()
        for index in cancelled:
            tasks[index].cancel()
        gate.opened.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await bus.drain()
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [
            index in cancelled for index in range(3)
        ]
        assert gate.numbers == [100, *(index for index in range(3) if index not in cancelled)]
        state = bus.state()
        assert (state.unsettled, state.waiting_publishers) == (0, 0)
        bus.publish_nowait(HAPPENED, happened(101))


async def test_a_publisher_is_cancelled_when_it_was_just_woken() -> None:
    """A place that was granted to a publisher which is cancelled in this moment goes to the next one."""
    gate = Gate()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        tasks: list[asyncio.Task[None]] = []

        async def handle(event: Happened) -> None:
            await gate.handle(event)
            if event.number == 100:
                # Runs after the place was granted, and before the publisher that it was granted to.
                asyncio.get_running_loop().call_soon(tasks[0].cancel)

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened(100))
        tasks += publishing(bus, 0, 1)
        await turns()
        gate.opened.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WITHIN)
        await bus.drain()
        assert results[1] is None
        published = [100, 0, 1] if results[0] is None else [100, 1]
        assert gate.numbers == published
        assert bus.state().unsettled == 0


@pytest.mark.parametrize("moment", range(12))
async def test_cancelling_at_any_moment_loses_no_place(moment: int) -> None:
    """Whenever publishers are cancelled: what publish accepted is handled, and all places come back."""
    accepted: list[int] = []
    async with running_bus(buffer_size=2, worker_pool_size=1) as bus:
        received = listen(bus)

        async def publish(number: int) -> None:
            await bus.publish(HAPPENED, happened(number))
            accepted.append(number)

        tasks = [asyncio.create_task(publish(number)) for number in range(10)]
        await turns(moment)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WITHIN)
        await bus.drain()
        assert sorted(event.number for event in received) == sorted(accepted)
        assert set(accepted) >= set(range(1, 10, 2))
        assert bus.state().unsettled == 0
        for _ in range(2):
            bus.publish_nowait(HAPPENED, happened())


async def test_closing_tells_publishers_that_wait() -> None:
    """Publishers that wait for room when the bus is closed are told so; their events were not accepted."""
    gate = Gate()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, gate.handle)
        await bus.publish(HAPPENED, happened(100))
        tasks = publishing(bus, 0, 1, 2)
        await turns()
        closing = asyncio.create_task(bus.close())
        await turns()
        gate.opened.set()
        report = await closing
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WITHIN)
        assert [type(result) for result in results] == [BusClosed] * 3
        assert report.completed
    assert gate.numbers == [100]
    assert bus.state().published == 1


# --- publishing from handlers -----------------------------------------------------------------------------


async def _directly(bus: Bus, events: list[Happened]) -> None:
    for event in events:
        await bus.publish(OTHER, event)


async def _gathered(bus: Bus, events: list[Happened]) -> None:
    await asyncio.gather(*(bus.publish(OTHER, event) for event in events))


async def _in_tasks_of_tasks(bus: Bus, events: list[Happened]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_gathered(bus, events))


async def _many(bus: Bus, events: list[Happened]) -> None:
    await bus.publish_many([(OTHER, event) for event in events])


async def _with_headers(bus: Bus, events: list[Happened]) -> None:
    for event in events:
        await bus.publish(OTHER, event, headers={"trace": "1"})


async def _after_commit(bus: Bus, events: list[Happened]) -> None:
    async with bus.after_commit():
        await _directly(bus, events)


@pytest.mark.parametrize("serialize", [False, True])
@pytest.mark.parametrize(
    "publish",
    [_directly, _gathered, _in_tasks_of_tasks, _many, _with_headers, _after_commit],
    ids=lambda publish: publish.__name__.strip("_"),
)
async def test_a_handler_publishes_into_a_full_buffer(publish: Callable[..., Any], serialize: bool) -> None:
    """With one worker and a buffer of one, a handler that publishes does not wait, and nothing is stuck."""
    received = Collecting()
    async with running_bus(buffer_size=1, worker_pool_size=1, memory={"serialize": serialize}) as bus:

        async def forward(event: Happened) -> None:
            await publish(bus, [happened(event.number * 10 + number) for number in range(3)])

        bus.subscribe(HAPPENED, forward)
        bus.subscribe(OTHER, received.collect)
        await asyncio.wait_for(asyncio.gather(*publishing(bus, 1, 2)), WITHIN)
        await asyncio.wait_for(bus.drain(), WITHIN)
        assert sorted(received.numbers) == [10, 11, 12, 20, 21, 22]
        state = bus.state()
        assert (state.unsettled, state.overflowed) == (0, 6)
        assert state.overflow_size == 100_000
        assert (await bus.health()).checks["bus"].figures["overflowed"] == 6


def test_a_sync_handler_publishes_into_a_full_buffer() -> None:
    """The same holds for a handler in a thread that publishes by plain calls."""
    numbers: list[int] = []
    lock = threading.Lock()

    def note(event: Happened) -> None:
        with lock:
            numbers.append(event.number)

    with SyncBus(make_bus(buffer_size=1, worker_pool_size=1)) as bus:

        def forward(event: Happened) -> None:
            for number in range(3):
                bus.publish(OTHER, happened(event.number * 10 + number))

        bus.subscribe(HAPPENED, forward)
        bus.subscribe(OTHER, note)
        bus.publish_many([(HAPPENED, happened(1)), (HAPPENED, happened(2))])
        bus.drain(WITHIN)
        assert sorted(numbers) == [10, 11, 12, 20, 21, 22]
        assert bus.state().overflowed == 6


async def test_a_chain_of_handlers_through_a_buffer_of_one() -> None:
    """Handlers that publish to themselves, again and again, go on with one worker and a buffer of one."""
    received = Collecting()
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:

        async def countdown(event: Happened) -> None:
            received.numbers.append(event.number)
            if event.number:
                await bus.publish(HAPPENED, happened(event.number - 1))

        bus.subscribe(HAPPENED, countdown)
        await bus.publish(HAPPENED, happened(200))
        await asyncio.wait_for(bus.drain(), WITHIN)
    assert received.numbers == list(range(200, -1, -1))


async def test_the_overflow_is_bounded() -> None:
    """Beyond the overflow a handler gets BufferFull, its event was not accepted, and others go on."""
    errors: list[BaseException] = []
    received = Collecting()
    async with running_bus(buffer_size=2, overflow_size=5, worker_pool_size=1) as bus:

        async def flood(event: Happened) -> None:
            for number in range(20):
                try:
                    await bus.publish(OTHER, happened(number))
                except BufferFull as error:
                    errors.append(error)

        bus.subscribe(HAPPENED, flood)
        bus.subscribe(OTHER, received.collect)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        # Two places of the buffer, one of them taken by the event that is being handled, and the overflow.
        assert received.numbers == list(range(6))
        assert len(errors) == 14
        assert str(errors[0]).startswith(
            "the overflow for events published by handlers is full (5 unsettled events): "
            "the event was not accepted"
        )
        assert "'bus.overflow_size'" in str(errors[0])
        assert bus.state().overflowed == 5
        await bus.publish(OTHER, happened(100))
        await bus.drain()
        assert received.numbers[-1] == 100


async def test_no_overflow_at_all() -> None:
    """With ``overflow_size: 0`` a handler may publish while there is room, and gets BufferFull after that."""
    outcome: list[str] = []
    async with running_bus(buffer_size=2, overflow_size=0, worker_pool_size=1) as bus:

        async def publish_twice(event: Happened) -> None:
            for _ in range(2):
                try:
                    await bus.publish(OTHER, happened())
                    outcome.append("accepted")
                except BufferFull:
                    outcome.append("full")

        bus.subscribe(HAPPENED, publish_twice)
        bus.subscribe(OTHER, ignore)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
    assert outcome == ["accepted", "full"]


async def test_publishers_wait_until_the_overflow_is_gone() -> None:
    """While handlers have gone over the bound, others wait until there is room within it."""
    gate = Gate()
    async with running_bus(buffer_size=2, worker_pool_size=1) as bus:

        async def flood(event: Happened) -> None:
            for number in range(5):
                await bus.publish(OTHER, happened(number))

        bus.subscribe(HAPPENED, flood)
        bus.subscribe(OTHER, gate.handle, concurrency=1)
        await bus.publish(HAPPENED, happened())
        await until(lambda: gate.begun)
        assert bus.state().unsettled == 5
        (task,) = publishing(bus, 7)
        await turns()
        assert not task.done()
        gate.opened.set()
        await task
        await bus.drain()
        assert bus.state().unsettled == 0


# --- the rest of the loop ---------------------------------------------------------------------------------


async def test_a_flood_of_fast_handlers_leaves_turns_to_others() -> None:
    """While thousands of fast handlers run, whatever else there is has its turn every few milliseconds."""
    ticks_at: list[int] = []
    handled = 0

    async def count(event: Happened) -> None:
        nonlocal handled
        handled += 1
        spin_for_microseconds(50)

    async with running_bus(buffer_size=5_000, worker_pool_size=10) as bus:
        bus.subscribe(HAPPENED, count)
        event = happened()
        for _ in range(4_000):
            bus.publish_nowait(HAPPENED, event)

        async def tick() -> None:
            while handled < 4_000:
                ticks_at.append(handled)
                await asyncio.sleep(0)

        await asyncio.wait_for(tick(), WITHIN)
        await bus.drain()
    # Counted in handlers of 50 microseconds: at most 5 ms between any two turns.
    assert max(after - before for before, after in itertools.pairwise([*ticks_at, 4_000])) <= 100


def spin_for_microseconds(microseconds: int) -> None:
    """Keeps the thread busy."""
    end = time.perf_counter_ns() + microseconds * 1000
    while time.perf_counter_ns() < end:
        pass


async def test_publishers_and_handlers_take_turns() -> None:
    """A publisher in a tight loop waits when the buffer is full, so that a timer is not held up for long."""
    fired = asyncio.Event()
    async with running_bus(buffer_size=100) as bus:
        bus.subscribe(HAPPENED, ignore)
        event = happened()
        published = 0
        asyncio.get_running_loop().call_later(0, fired.set)
        while not fired.is_set():
            await bus.publish(HAPPENED, event)
            published += 1
            assert published < 10_000
        await bus.drain()
        assert (await bus.health()).status is HealthStatus.HEALTHY


# --- tasks of handlers ------------------------------------------------------------------------------------


async def test_a_task_that_outlives_its_handler_waits_for_room() -> None:
    """A task that a handler has started publishes like anybody else once the handler has returned."""
    tasks: list[asyncio.Task[None]] = []
    async with running_bus(buffer_size=3, overflow_size=5, worker_pool_size=1) as bus:

        async def produce() -> None:
            for number in range(50):
                await bus.publish(OTHER, happened(number))

        async def start(event: Happened) -> None:
            tasks.append(asyncio.create_task(produce()))

        async def work(event: Happened) -> None:
            await asyncio.sleep(0)

        bus.subscribe(HAPPENED, start)
        bus.subscribe(OTHER, work, name="work")
        await bus.publish(HAPPENED, happened())
        await until(lambda: tasks, "the handler has run")
        await asyncio.wait_for(tasks[0], WITHIN)
        await bus.drain()
        assert (state_of(bus, "work").handled, bus.state().overflowed) == (50, 0)


async def test_a_task_that_its_handler_waits_for_does_not_wait_for_room() -> None:
    """A handler may publish from tasks that it awaits: one worker and a buffer of one are enough."""
    async with running_bus(buffer_size=1, worker_pool_size=1) as bus:
        collecting = Collecting()

        async def spread(event: Happened) -> None:
            await asyncio.gather(*[bus.publish(OTHER, happened(number)) for number in range(5)])

        bus.subscribe(HAPPENED, spread)
        bus.subscribe(OTHER, collecting.collect)
        await bus.publish(HAPPENED, happened())
        await asyncio.wait_for(bus.drain(), WITHIN)
        assert sorted(collecting.numbers) == [0, 1, 2, 3, 4]


async def test_a_drain_does_not_wait_for_tasks_that_go_on() -> None:
    """Events that a task publishes long after its handler has returned are no consequence of its event."""
    tasks: list[asyncio.Task[None]] = []
    async with running_bus(worker_pool_size=1) as bus:

        async def produce() -> None:
            while True:
                await bus.publish(OTHER, happened())
                await asyncio.sleep(0.001)

        async def start(event: Happened) -> None:
            tasks.append(asyncio.create_task(produce()))

        async def work(event: Happened) -> None:
            await asyncio.sleep(0.002)

        bus.subscribe(HAPPENED, start)
        bus.subscribe(OTHER, work, name="work")
        await bus.publish(HAPPENED, happened())
        await until(lambda: state_of(bus, "work").handled > 2, "the task has published")
        await asyncio.wait_for(bus.drain(), WITHIN)
        tasks[0].cancel()
        await asyncio.wait(tasks)
