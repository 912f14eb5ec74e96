"""Closing a bus: in the process, and with an adapter outside of it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import attrs
import pytest

from bus_core import (
    Abandoned,
    Bus,
    BusClosed,
    BusError,
    CalledFromHandler,
    Delivery,
    DrainReport,
    Envelope,
    Factory,
    Features,
    Handler,
    HealthStatus,
    Message,
    Middleware,
    PublishManyError,
    RetryLater,
    Topic,
    hookimpl,
)
from bus_core.dispatch.loop_watch import LoopWatch
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, WITHIN, Happened, happened, make_bus, running_bus, state_of, until
from support.handlers import outlast_cancellation
from support.remote import (
    Entry,
    Server,
    make_remote_bus,
    running_remote_bus,
)

pytestmark = pytest.mark.timeout(30)


CAUSED = Topic("test.caused.happened", Happened)

either_way = pytest.mark.parametrize(
    "memory", [{"serialize": False}, {"serialize": True}], ids=["objects", "serialized"]
)
LANES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "bounded": {"concurrency": 1},
    "timed": {"timeout": 3600},
}
every_lane = pytest.mark.parametrize("options", LANES.values(), ids=LANES)


class Holding:
    """A handler that waits until its gate is open, and keeps how it ended."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.done: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, event: Happened) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(event.number)
            raise
        self.done.append(event.number)


async def begin(clock: VirtualClock, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(call)
    await clock.settle()
    return task


async def close_within(clock: VirtualClock, bus: Bus, timeout: float) -> DrainReport:
    """Lets the shutdown timeout pass."""
    close = await begin(clock, bus.close(timeout))
    await clock.advance(timeout)
    report: DrainReport = await asyncio.wait_for(close, WITHIN)
    return report


def tasks_of_the_bus() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("promenade")}


# --- what it waits for ------------------------------------------------------------------------------------


@every_lane
@either_way
async def test_finishes_what_was_accepted(
    virtual_clock: VirtualClock, memory: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Closing waits for what runs, what is queued, what waits for a retry, and what all that causes."""
    bus = make_bus(virtual_clock, memory=memory, worker_pool_size=2)
    await bus.start()
    holding = Holding()
    caused: list[int] = []

    async def handle(event: Happened, delivery: Delivery) -> None:
        await holding(event)
        if delivery.attempt == 1 and event.number == 1:
            raise RetryLater(after=5)
        await bus.publish(CAUSED, event)

    async def follow(event: Happened) -> None:
        if event.number < 100:
            await bus.publish(CAUSED, happened(event.number + 100))
        caused.append(event.number)

    bus.subscribe(HAPPENED, handle, **options)
    bus.subscribe(CAUSED, follow, **options)
    for number in range(4):
        await bus.publish(HAPPENED, happened(number))
    await virtual_clock.settle()
    close = await begin(virtual_clock, bus.close(timeout=60))
    assert not close.done()
    holding.gate.set()
    await virtual_clock.advance(4)
    assert not close.done()
    await virtual_clock.advance(1)
    report = await close
    assert report == DrainReport(True, (), report.seconds)
    assert report.seconds == pytest.approx(5)
    assert sorted(caused) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert bus.state().unsettled == 0
    assert virtual_clock.timers == []


async def test_nothing_to_wait_for(virtual_clock: VirtualClock) -> None:
    """An idle bus closes at once."""
    bus = make_bus(virtual_clock)
    async with bus:
        bus.subscribe(HAPPENED, Holding())
    assert await bus.close() == DrainReport(True, (), 0.0)


async def test_never_started() -> None:
    """A bus that was never started can be closed, and cannot be started any more."""
    bus = make_bus()
    assert await bus.close() == DrainReport(True, (), 0.0)
    with pytest.raises(BusClosed, match="cannot start"):
        await bus.start()


async def test_default_timeout(virtual_clock: VirtualClock) -> None:
    """Unless told otherwise closing gives up after ``shutdown_timeout``."""
    bus = make_bus(virtual_clock, shutdown_timeout="7s")
    await bus.start()
    bus.subscribe(HAPPENED, Holding())
    await bus.publish(HAPPENED, happened())
    close = await begin(virtual_clock, bus.close())
    await virtual_clock.advance(6.9)
    assert not close.done()
    await virtual_clock.advance(0.1)
    assert (await close).seconds == pytest.approx(7)


@pytest.mark.parametrize("timeout", [3, 3.0, timedelta(seconds=3)])
async def test_timeout(virtual_clock: VirtualClock, timeout: Any) -> None:
    """The timeout is in seconds or a timedelta."""
    bus = make_bus(virtual_clock)
    await bus.start()
    bus.subscribe(HAPPENED, Holding())
    await bus.publish(HAPPENED, happened())
    close = await begin(virtual_clock, bus.close(timeout))
    await virtual_clock.advance(3)
    assert not (await close).completed


async def test_handlers_publish_while_closing(virtual_clock: VirtualClock) -> None:
    """While the bus is closing its handlers, and their tasks and threads, may publish; nobody else may."""
    bus = make_bus(virtual_clock, buffer_size=1)
    await bus.start()
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled: list[int] = []

    async def handle(event: Happened) -> None:
        await gate.wait()
        await bus.publish(CAUSED, happened(1))
        bus.publish_nowait(CAUSED, happened(2))
        await bus.publish_many([(CAUSED, happened(3)), (CAUSED, happened(4))])
        await asyncio.create_task(bus.publish(CAUSED, happened(5)))

    def handle_in_thread(event: Happened) -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(WITHIN)
        asyncio.run_coroutine_threadsafe(bus.publish(CAUSED, happened(6)), loop).result(WITHIN)

    async def follow(event: Happened) -> None:
        handled.append(event.number)

    bus.subscribe(HAPPENED, handle)
    bus.subscribe(HAPPENED, handle_in_thread)
    bus.subscribe(CAUSED, follow)
    await bus.publish(HAPPENED, happened())
    close = await begin(virtual_clock, bus.close(timeout=60))
    with pytest.raises(BusClosed):
        await bus.publish(CAUSED, happened(9))
    gate.set()
    await until(close.done)
    assert (await close).completed
    assert sorted(handled) == [1, 2, 3, 4, 5, 6]


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["closing", "closed"])
async def test_refuses_everything(virtual_clock: VirtualClock, when: str) -> None:
    """A bus that is closing or closed takes no event and no subscription, and is unhealthy."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        subscription = bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        close = await begin(virtual_clock, bus.close(timeout=60))
        if when == "closed":
            handler.gate.set()
            await close
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: bus.publish(HAPPENED, happened()),
            lambda: bus.publish(HAPPENED.name, happened()),
            lambda: bus.publish(HAPPENED, happened(), headers={"a": "b"}),
            bus.drain,
            bus.start,
            subscription.ready,
        ]
        for call in calls:
            with pytest.raises(BusClosed, match="the bus is clos"):
                await call()
        with pytest.raises(BusClosed):
            bus.publish_nowait(HAPPENED, happened())
        with pytest.raises(BusClosed):
            bus.subscribe(OTHER, Holding())
        with pytest.raises(BusClosed):
            async with bus.after_commit():
                pass
        with pytest.raises(PublishManyError) as caught:
            await bus.publish_many([(HAPPENED, happened())])
        assert isinstance(caught.value.results[0], BusClosed)
        report = await bus.health()
        assert report.status is HealthStatus.UNHEALTHY
        assert report.checks["bus"].summary == f"the bus is {when}"
        handler.gate.set()
        assert (await close).completed
        assert handler.done == [0]


async def test_blocked_publishers(virtual_clock: VirtualClock) -> None:
    """Publishers that wait for room when closing begins get BusClosed at once: their events are not taken."""
    async with running_bus(virtual_clock, buffer_size=1) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened(0))
        blocked = [await begin(virtual_clock, bus.publish(HAPPENED, happened(n))) for n in range(1, 5)]
        close = await begin(virtual_clock, bus.close(timeout=60))
        assert not close.done()
        for each in blocked:
            with pytest.raises(BusClosed, match="cannot publish"):
                await each
        handler.gate.set()
        assert (await close).completed
        assert handler.done == [0]
        assert bus.state().published == 1


@pytest.mark.parametrize("turns", range(8))
async def test_publisher_that_gets_room_while_closing_begins(virtual_clock: VirtualClock, turns: int) -> None:
    """In every interleaving of closing and room, an event is refused or handled, and never cut off."""
    async with running_bus(virtual_clock, buffer_size=1) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened(0))
        blocked = await begin(virtual_clock, bus.publish(HAPPENED, happened(1)))
        handler.gate.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        close = await begin(virtual_clock, bus.close(timeout=60))
        report = await close
        assert report.completed
        (result,) = await asyncio.gather(blocked, return_exceptions=True)
        if result is None:
            assert handler.done == [0, 1]
        else:
            assert isinstance(result, BusClosed)
            assert handler.done == [0]


def offering(wrap: Callable[[Handler], Handler]) -> object:
    """A plugin that offers a middleware under the name "special"."""

    @attrs.frozen
    class Options:
        pass

    class Plugin:
        @hookimpl
        def promenade_bus_middleware(self) -> Mapping[str, Factory[Any, Middleware]]:
            return {"special": Factory(Options, lambda options, context: wrap)}

    return Plugin()


async def test_publish_that_is_held_up_until_after_close(virtual_clock: VirtualClock) -> None:
    """A publish whose middleware waits until the bus is closed raises BusClosed."""
    gate = asyncio.Event()

    def wrap(inner: Handler) -> Handler:
        async def middleware(envelope: Envelope) -> None:
            await gate.wait()
            await inner(envelope)

        return middleware

    async with running_bus(
        virtual_clock, plugins=[offering(wrap)], middleware={"publish": ["special"]}
    ) as bus:
        bus.subscribe(HAPPENED, Holding())
        publish = await begin(virtual_clock, bus.publish(HAPPENED, happened()))
        await bus.close()
        gate.set()
        with pytest.raises(BusClosed):
            await publish
        assert bus.state().published == 0


async def test_commit_after_close(virtual_clock: VirtualClock) -> None:
    """A block of after_commit that ends when the bus is closed says for each event that it was refused."""
    async with running_bus(virtual_clock) as bus:

        async def work() -> None:
            async with bus.after_commit():
                await bus.publish(HAPPENED, happened(1))
                await bus.publish(HAPPENED, happened(2))
                await bus.close()

        with pytest.raises(PublishManyError) as caught:
            await work()
        assert [type(result) for result in caught.value.results] == [BusClosed, BusClosed]


# --- what is abandoned ------------------------------------------------------------------------------------


@either_way
@every_lane
async def test_report(
    virtual_clock: VirtualClock,
    memory: Mapping[str, Any],
    options: Mapping[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The report lists exactly what runs, is queued, and waits for a retry, and each is logged."""
    async with running_bus(virtual_clock, memory=memory, worker_pool_size=1) as bus:

        async def fail(event: Happened) -> None:
            raise RetryLater(after=3600)

        holding = Holding()
        bus.subscribe(OTHER, fail, name="failing", **options)
        bus.subscribe(HAPPENED, holding, name="holding", **options)
        key = uuid4()
        events = [happened(number, key) for number in range(4)]
        await bus.publish(OTHER, events[0])
        await virtual_clock.settle()
        for event in events[1:]:
            await bus.publish(HAPPENED, event)
        report = await close_within(virtual_clock, bus, 5)
        assert not report.completed
        assert report.seconds == pytest.approx(5, abs=0.1)
        assert {*report.abandoned} == {
            Abandoned(OTHER.name, "failing", str(events[0].event_id), "waiting for retry"),
            Abandoned(HAPPENED.name, "holding", str(events[1].event_id), "running"),
            Abandoned(HAPPENED.name, "holding", str(events[2].event_id), "queued"),
            Abandoned(HAPPENED.name, "holding", str(events[3].event_id), "queued"),
        }
        assert len(report.abandoned) == 4
        assert (holding.done, holding.cancelled) == ([], [1])
        logged = [record for record in caplog.records if "abandoned at shutdown" in record.message]
        assert [record.levelno for record in logged] == [logging.ERROR] * 4
        for event in events:
            assert sum(str(event.event_id) in record.message for record in logged) == 1
        assert virtual_clock.timers == []
        assert tasks_of_the_bus() == set()
        assert await bus.close() == report


async def test_report_of_an_event_for_several(virtual_clock: VirtualClock) -> None:
    """Of an event for several subscriptions only the deliveries that are not settled are reported."""
    async with running_bus(virtual_clock, worker_pool_size=2) as bus:
        done, first, second = Holding(), Holding(), Holding()
        done.gate.set()
        bus.subscribe(HAPPENED, done, name="done")
        bus.subscribe(HAPPENED, first, name="first")
        bus.subscribe(HAPPENED, second, name="second")
        bus.subscribe("test.thing.#", Holding(), name="third").pause()
        await virtual_clock.settle()
        events = [happened(number) for number in range(2)]
        for event in events:
            await bus.publish(HAPPENED, event)
        await virtual_clock.settle()
        report = await close_within(virtual_clock, bus, 5)
        found = {(item.subscription, item.event_id, item.state) for item in report.abandoned}
        zero, one = (str(event.event_id) for event in events)
        assert found == {
            ("first", zero, "running"),
            ("second", zero, "running"),
            ("third", zero, "queued"),
            ("done", one, "queued"),
            ("first", one, "queued"),
            ("second", one, "queued"),
            ("third", one, "queued"),
        }
        assert len(report.abandoned) == 7
        topics = {item.subscription: item.topic for item in report.abandoned}
        assert topics["third"] == HAPPENED.name


@every_lane
async def test_paused(virtual_clock: VirtualClock, options: Mapping[str, Any]) -> None:
    """Events that a paused subscription holds are reported as queued when the time is over."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler, **options).pause()
        await bus.publish(HAPPENED, happened())
        report = await close_within(virtual_clock, bus, 5)
        assert [item.state for item in report.abandoned] == ["queued"]


async def test_time_to_clean_up(virtual_clock: VirtualClock) -> None:
    """A handler that is cancelled at the end of the timeout may still clean up, also asynchronously."""
    async with running_bus(virtual_clock) as bus:
        steps: list[str] = []

        async def handle(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.001)
                steps.append("cleaned up")

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened())
        report = await close_within(virtual_clock, bus, 5)
        assert steps == ["cleaned up"]
        assert [item.state for item in report.abandoned] == ["running"]
        assert tasks_of_the_bus() == set()


@pytest.mark.parametrize("swallow", [True, False])
async def test_publishing_on_the_way_out(virtual_clock: VirtualClock, swallow: bool) -> None:
    """Events that a handler publishes after the timeout are refused, since nobody would handle it."""
    async with running_bus(virtual_clock) as bus:
        results: list[object] = []

        async def handle(event: Happened) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                for publish in (
                    lambda: bus.publish(CAUSED, happened()),
                    lambda: bus.publish_many([(CAUSED, happened())]),
                ):
                    try:
                        results.append(await publish())
                    except (BusClosed, PublishManyError) as error:
                        results.append(error)
                if not swallow:
                    raise

        bus.subscribe(HAPPENED, handle)
        bus.subscribe(CAUSED, Holding())
        await bus.publish(HAPPENED, happened())
        report = await close_within(virtual_clock, bus, 5)
        await virtual_clock.settle()
        assert [type(result) for result in results] == [BusClosed, PublishManyError]
        assert len(report.abandoned) == 1
        assert tasks_of_the_bus() == set()


async def test_what_swallows_its_cancellation(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that goes on after its cancellation is left behind, reported and logged, and harms nobody."""
    async with running_bus(virtual_clock) as bus:
        gate = asyncio.Event()
        ended: list[object] = []

        async def swallow(event: Happened) -> None:
            await outlast_cancellation(gate)
            try:
                await bus.publish(CAUSED, happened())
            except BusClosed as error:
                ended.append(error)

        bus.subscribe(HAPPENED, swallow, name="stubborn")
        bus.subscribe(CAUSED, Holding())
        await bus.publish(HAPPENED, happened())
        report = await close_within(virtual_clock, bus, 5)
        assert [(item.subscription, item.state) for item in report.abandoned] == [("stubborn", "running")]
        assert any("swallowed its cancellation" in record.message for record in caplog.records)
        assert tasks_of_the_bus() == {"promenade-worker"}
        gate.set()
        await virtual_clock.settle()
        assert len(ended) == 1
        assert tasks_of_the_bus() == set()


async def test_what_changes_its_context_and_swallows(virtual_clock: VirtualClock) -> None:
    """No fresh worker is started for a handler that ends after the bus has stopped."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    async with running_bus(virtual_clock) as bus:

        async def swallow(event: Happened) -> None:
            variable.set(1)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

        bus.subscribe(HAPPENED, swallow)
        await bus.publish(HAPPENED, happened())
        await close_within(virtual_clock, bus, 5)
        await virtual_clock.settle()
        assert tasks_of_the_bus() == set()


async def test_thread(virtual_clock: VirtualClock) -> None:
    """A thread cannot be cancelled: it is left behind, reported, and ends when its call returns."""
    async with running_bus(virtual_clock) as bus:
        opened = threading.Event()
        entered = threading.Event()
        threads: list[threading.Thread] = []

        def block(event: Happened) -> None:
            threads.append(threading.current_thread())
            entered.set()
            assert opened.wait(WITHIN)

        bus.subscribe(HAPPENED, block, name="blocking")
        published = happened()
        await bus.publish(HAPPENED, published)
        await until(entered.is_set)
        report = await close_within(virtual_clock, bus, 5)
        assert report.abandoned == (Abandoned(HAPPENED.name, "blocking", str(published.event_id), "running"),)
        assert tasks_of_the_bus() == set()
        (thread,) = threads
        assert thread.is_alive()
        opened.set()
        await until(lambda: not thread.is_alive())


async def test_unsubscribing_meanwhile(virtual_clock: VirtualClock) -> None:
    """A caller that waits for a subscription to leave returns when its events are abandoned."""
    async with running_bus(virtual_clock) as bus:
        subscription = bus.subscribe(HAPPENED, Holding())
        await bus.publish(HAPPENED, happened())
        leaving = await begin(virtual_clock, subscription.unsubscribe())
        report = await close_within(virtual_clock, bus, 5)
        await virtual_clock.settle()
        assert leaving.done()
        assert len(report.abandoned) == 1


async def test_timeout_of_nothing(virtual_clock: VirtualClock) -> None:
    """With a timeout of 0 what is not settled is abandoned, and the rest is not."""
    async with running_bus(virtual_clock) as bus:
        holding = Holding()
        bus.subscribe(HAPPENED, holding)
        await bus.publish(HAPPENED, happened(1))
        await virtual_clock.settle()
        close = asyncio.ensure_future(bus.close(0))
        await virtual_clock.advance(0)
        assert len((await close).abandoned) == 1
        assert holding.cancelled == [1]


# --- who calls it -----------------------------------------------------------------------------------------


async def test_idempotent(virtual_clock: VirtualClock) -> None:
    """However often and from however many tasks it is called, the bus closes once, with one report."""
    async with running_bus(virtual_clock) as bus:
        bus.subscribe(HAPPENED, Holding())
        await bus.publish(HAPPENED, happened())
        first = await begin(virtual_clock, bus.close(timeout=5))
        others = [await begin(virtual_clock, bus.close(timeout=timeout)) for timeout in (1, 60)]
        await virtual_clock.advance(4)
        assert not any(close.done() for close in (first, *others))
        await virtual_clock.advance(1)
        report = await first
        assert [await close for close in others] == [report, report]
        assert await bus.close() is report


async def test_cancelled_caller(virtual_clock: VirtualClock) -> None:
    """A caller that is cancelled while it waits does not stop the closing; the next one gets the report."""
    async with running_bus(virtual_clock) as bus:
        handler = Holding()
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        first = await begin(virtual_clock, bus.close(timeout=60))
        first.cancel()
        await virtual_clock.settle()
        assert first.cancelled()
        second = await begin(virtual_clock, bus.close(timeout=60))
        assert not second.done()
        handler.gate.set()
        assert (await second).completed
        assert handler.done == [0]


async def test_cancelled_block(virtual_clock: VirtualClock) -> None:
    """A cancelled ``async with`` block closes the bus on its way out, and handles what was accepted."""
    bus = make_bus(virtual_clock)
    done: list[int] = []

    async def handle(event: Happened) -> None:
        await asyncio.sleep(0)
        done.append(event.number)

    async def application() -> None:
        async with bus:
            bus.subscribe(HAPPENED, handle)
            await bus.publish(HAPPENED, happened(1))
            await asyncio.Event().wait()

    task = asyncio.ensure_future(application())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]
    assert (await bus.health()).status is HealthStatus.UNHEALTHY


async def test_block_that_raises(virtual_clock: VirtualClock) -> None:
    """An error in an ``async with`` block closes the bus, and passes as it is."""
    bus = make_bus(virtual_clock)
    with pytest.raises(ZeroDivisionError):
        async with bus:
            raise ZeroDivisionError
    assert (await bus.close()).completed


async def test_from_inside_a_handler(virtual_clock: VirtualClock) -> None:
    """A handler that closes its bus would wait for itself: it gets an error, and the bus stays open."""
    async with running_bus(virtual_clock) as bus:
        errors: list[BaseException] = []
        loop = asyncio.get_running_loop()

        async def close() -> None:
            try:
                await bus.close()
            except CalledFromHandler as error:
                errors.append(error)

        async def handle(event: Happened) -> None:
            await close()
            await asyncio.create_task(close())

        def handle_in_thread(event: Happened) -> None:
            asyncio.run_coroutine_threadsafe(close(), loop).result(WITHIN)

        bus.subscribe(HAPPENED, handle)
        bus.subscribe(HAPPENED, handle_in_thread)
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert [str(error) for error in errors] == [
            "cannot close the bus from inside a handler: it would wait for itself"
        ] * 3
        assert (await bus.health()).status is HealthStatus.HEALTHY


async def test_from_inside_a_handler_while_closing(virtual_clock: VirtualClock) -> None:
    """A handler that closes a bus which is closing already would wait for itself as well."""
    async with running_bus(virtual_clock) as bus:
        gate = asyncio.Event()
        errors: list[BaseException] = []

        async def handle(event: Happened) -> None:
            await gate.wait()
            try:
                await bus.close()
            except CalledFromHandler as error:
                errors.append(error)

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened())
        close = await begin(virtual_clock, bus.close(timeout=60))
        gate.set()
        assert (await close).completed
        assert len(errors) == 1


# --- what is left -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", ["idle", "handling", "handling in a thread", "retrying"])
def test_loop_that_ends_without_close(busy: str) -> None:
    """A program that never closes its bus ends all the same."""
    ended = threading.Event()

    async def program() -> None:
        bus = make_bus()
        await bus.start()
        entered = asyncio.Event()

        async def handle(event: Happened) -> None:
            entered.set()
            if busy == "retrying":
                raise ValueError("no")
            await asyncio.Event().wait()

        def handle_in_thread(event: Happened) -> None:
            loop.call_soon_threadsafe(entered.set)

        loop = asyncio.get_running_loop()
        bus.subscribe(HAPPENED, handle_in_thread if "thread" in busy else handle)
        if busy != "idle":
            await bus.publish(HAPPENED, happened())
            await entered.wait()

    def run() -> None:
        asyncio.run(program())
        ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ended.wait(WITHIN)
    thread.join(WITHIN)


@pytest.mark.parametrize("busy", ["idle", "handling"])
async def test_every_task_cancelled(virtual_clock: VirtualClock, busy: str) -> None:
    """A bus survives a program that cancels every task of the loop, but goes on using it."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        numbers: list[int] = []
        hold = busy == "handling"

        async def handle(event: Happened) -> None:
            if hold:
                await asyncio.Event().wait()
            numbers.append(event.number)

        bus.subscribe(HAPPENED, handle)
        if hold:
            await bus.publish(HAPPENED, happened(1))
            await bus.publish(HAPPENED, happened(2))
        await virtual_clock.settle()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        hold = False
        await bus.publish(HAPPENED, happened(3))
        await until(lambda: 3 in numbers)
        await virtual_clock.advance(60)
        assert sorted(numbers) == ([1, 2, 3] if busy == "handling" else [3])
        report = await bus.close()
        assert report.completed


async def test_tasks_cancelled_before_their_first_step(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus goes on however often its tasks are cancelled, also those that have only been made."""
    start, left = LoopWatch.start, [1, 2]

    def start_and_cancel(watch: LoopWatch, loop: asyncio.AbstractEventLoop) -> None:
        start(watch, loop)
        if left:
            left.pop()
            assert watch._task is not None
            watch._task.cancel()

    monkeypatch.setattr(LoopWatch, "start", start_and_cancel)
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        numbers: list[int] = []
        bus.subscribe(HAPPENED, lambda event: numbers.append(event.number))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await until(lambda: not left)
        await bus.publish(HAPPENED, happened(1))
        await until(lambda: numbers == [1])


async def test_no_tasks_and_threads_are_left(virtual_clock: VirtualClock) -> None:
    """After close no task, thread or timer of the bus is left."""
    tasks, threads = asyncio.all_tasks(), {*threading.enumerate()}
    bus = make_bus(virtual_clock)
    async with bus:
        bus.subscribe(HAPPENED, lambda event: None)

        async def fail(event: Happened) -> None:
            raise ValueError("no")

        bus.subscribe(HAPPENED, fail)
        for number in range(20):
            await bus.publish(HAPPENED, happened(number))
        drain = asyncio.ensure_future(bus.drain(timeout=60))
        await until(lambda: state_of(bus, bus.subscriptions[0].name).handled == 20)
        await virtual_clock.advance(1)
        await drain
    assert asyncio.all_tasks() == tasks
    assert virtual_clock.timers == []
    await until(lambda: {*threading.enumerate()} <= threads)


@pytest.mark.parametrize("abandoning", [False, True])
async def test_a_closed_bus_can_be_collected(virtual_clock: VirtualClock, abandoning: bool) -> None:
    """Nothing keeps a closed bus, its handlers or its events alive."""

    class Service:
        async def handle(self, event: Happened) -> None:
            if abandoning:
                await asyncio.Event().wait()

    bus = make_bus(virtual_clock)
    await bus.start()
    service = Service()
    bus.subscribe(HAPPENED, service.handle)
    await bus.publish(HAPPENED, happened())
    await close_within(virtual_clock, bus, 5)
    alive = [weakref.ref(bus), weakref.ref(service)]
    del bus, service
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


GRACE = 5.0
"""Seconds after the shutdown timeout by which a bus has to be closed, whatever the server does."""


class Unreachable(BusError):
    """The error that the server raises in these tests."""


def fails(argument: object) -> Any:
    raise Unreachable("no")


async def hangs(argument: object) -> Any:
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def server() -> Server:
    return Server()


async def ignore(event: Happened) -> None:
    pass


def entries(server: Server) -> list[Entry]:
    (group,) = server.groups.values()
    return [*group.ready, *group.owned, *(entry for _, entry in group.parked)]


def numbers(server: Server) -> list[int]:
    return [number_of(entry.message) for entry in entries(server)]


def number_of(message: Message) -> int:
    return int(message.body.split(b'"number":')[1].split(b"}")[0].split(b",")[0])


async def closed_within(bus: Bus, seconds: float) -> Any:
    began = time.monotonic()
    report = await bus.close(seconds)
    assert time.monotonic() - began < seconds + GRACE
    return report


# --- on a server: what is given back --------------------------------------------------------------------


async def test_prefetched_is_released(server: Server) -> None:
    """Unstarted messages go back at once, in order; running handlers finish."""
    go_on = asyncio.Event()
    begun: list[int] = []

    async def handler(event: Happened) -> None:
        begun.append(event.number)
        await go_on.wait()

    bus = make_remote_bus(server, worker_pool_size=2)
    bus.subscribe(HAPPENED, handler, name="h")
    await bus.start()
    await bus.publish_many([(HAPPENED, happened(number)) for number in range(10)])
    await until(lambda: len(begun) == 2)
    closing = asyncio.ensure_future(bus.close(10))
    await until(lambda: len(entries(server)) == 10 and not server.consumers[0].closed)
    await until(lambda: len(server.consumers[0].group.ready) == 8)
    go_on.set()
    report = await closing
    assert report.completed
    assert numbers(server) == [*range(2, 10)]
    assert {(entry.attempt, entry.history) for entry in entries(server)} == {(1, ())}


async def test_cancelled_handlers_are_released(server: Server) -> None:
    """A handler that is cancelled by the end of the timeout is given back without counting an attempt."""
    cancelled: list[int] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(delivery.attempt)
            raise ValueError("while it cleans up") from None

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, handler, name="h")
    await bus.start()
    await bus.publish(HAPPENED, happened())
    await until(lambda: state_of(bus).running)
    report = await closed_within(bus, 0.05)
    assert report.completed
    assert cancelled == [1]
    (entry,) = entries(server)
    assert (entry.attempt, entry.history, entry.owner) == (1, (), None)


async def test_handler_that_swallows_its_cancellation(server: Server) -> None:
    """A handler that does not end is reported, and its message is left to its lease: it may be running."""
    end = asyncio.Event()

    async def handler(event: Happened) -> None:
        await outlast_cancellation(end)

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, handler, name="h")
    await bus.start()
    await bus.publish(HAPPENED, happened())
    await until(lambda: state_of(bus).running)
    report = await closed_within(bus, 0.05)
    assert [each.state for each in report.abandoned] == ["running"]
    (group,) = server.groups.values()
    assert len(group.owned) == 1
    end.set()


async def test_thread_cannot_be_cancelled(server: Server) -> None:
    """A handler in a thread runs on: it is reported, and not given back to run twice at once."""
    end = threading.Event()

    def handler(event: Happened) -> None:
        end.wait(10)

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, handler, name="h")
    await bus.start()
    await bus.publish(HAPPENED, happened())
    await until(lambda: state_of(bus).running)
    report = await closed_within(bus, 0.05)
    end.set()
    assert [each.state for each in report.abandoned] == ["running"]
    (group,) = server.groups.values()
    assert len(group.owned) == 1


async def test_held_retry_is_released(server: Server) -> None:
    """A message that waits here for its retry goes back with its count and its history."""
    clock = VirtualClock()

    async def handler(event: Happened) -> None:
        raise ValueError("no")

    bus = make_remote_bus(server, clock, retry_delay="1s")
    bus.subscribe(HAPPENED, handler, name="h")
    await bus.start()
    await bus.publish(HAPPENED, happened())
    await until(lambda: state_of(bus).waiting_retries)
    report = await closed_within(bus, 0)
    assert report.completed
    (entry,) = entries(server)
    assert (entry.attempt, entry.owner) == (2, None)
    assert [each.error for each in entry.history] == ["ValueError: no"]


@pytest.mark.parametrize(
    ("options", "parked"), [({}, [1.0]), ({"ordered": True}, [])], ids=["parked", "ordered"]
)
async def test_failure_while_closing(server: Server, options: Any, parked: list[float]) -> None:
    """A message that fails while the bus closes goes back at once: others retry it."""
    go_on = asyncio.Event()
    clock = VirtualClock()

    async def handler(event: Happened) -> None:
        await go_on.wait()
        raise ValueError("no")

    bus = make_remote_bus(server, clock, retry_delay="1s")
    bus.subscribe(HAPPENED, handler, name="h", **options)
    await bus.start()
    await bus.publish(HAPPENED, happened())
    await until(lambda: state_of(bus).running)
    closing = asyncio.ensure_future(bus.close(10))
    await until(lambda: bus.status == "closing")
    go_on.set()
    assert (await closing).completed
    (group,) = server.groups.values()
    assert [delay for delay, _ in group.parked] == parked
    (entry,) = entries(server)
    assert (entry.attempt, len(entry.history), entry.owner) == (2, 1, None)


@pytest.mark.parametrize("ordered", [False, True])
async def test_paused_lane_is_released(server: Server, ordered: bool) -> None:
    """Messages that wait in a paused subscription go back, in order."""
    bus = make_remote_bus(server)
    subscription = bus.subscribe(HAPPENED, ignore, name="h", ordered=ordered)
    await bus.start()
    await subscription.ready()
    subscription.pause()
    aggregate = happened().aggregate_id
    await bus.publish_many([(HAPPENED, happened(number, aggregate)) for number in range(10)])
    await until(lambda: server.consumers[0].group.owned)
    report = await closed_within(bus, 5)
    assert report.completed
    assert report.seconds < 1
    assert numbers(server) == [*range(10)]


async def test_keys_that_wait_are_released_in_order(server: Server) -> None:
    """In an ordered subscription the next instance goes on exactly where this one was cut off."""
    begun: list[int] = []

    async def handler(event: Happened) -> None:
        begun.append(event.number)
        if event.number == 3 and len(begun) == 4:
            await asyncio.get_running_loop().create_future()

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, handler, name="h", ordered=True)
    await bus.start()
    key = happened().aggregate_id
    await bus.publish_many([(HAPPENED, happened(number, key)) for number in range(10)])
    await until(lambda: len(begun) == 4)
    assert (await closed_within(bus, 0.05)).completed
    assert numbers(server) == [*range(3, 10)]
    async with running_remote_bus(server) as successor:
        successor.subscribe(HAPPENED, handler, name="h", ordered=True)
        await successor.drain()
    assert begun == [*range(4), *range(3, 10)]


async def test_what_arrives_late_is_released(server: Server) -> None:
    """Messages that were on their way when the bus began to close go back as they came."""
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    bus = make_remote_bus(server)
    await bus.start()
    await bus.subscribe(HAPPENED, handler, name="h").ready()
    consumer = server.consumers[0]
    receive = consumer.receive

    async def slow(limit: int) -> Any:
        batch = await receive(limit)
        if batch:
            await gate
        return batch

    consumer.receive = slow  # type: ignore[method-assign]
    await until(lambda: server.calls)
    await bus.publish(HAPPENED, happened(0))  # answered by the call that is under way
    await until(lambda: seen == [0])
    await bus.publish(HAPPENED, happened(1))
    await until(lambda: any(number_of(entry.message) == 1 for entry in consumer.group.owned))
    closing = asyncio.ensure_future(bus.close(10))
    await until(lambda: bus.status == "closing")
    gate.set_result(None)
    assert (await closing).completed
    assert seen == [0]
    assert [(entry.attempt, entry.owner) for entry in entries(server)] == [(1, None)]


async def test_nothing_can_be_given_back(server: Server) -> None:
    """Where nothing outlives the process, what arrived is handled before the bus is closed."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        await asyncio.sleep(0)
        seen.append(event.number)

    bus = make_remote_bus(server, features=Features(broadcast=True))
    bus.subscribe(HAPPENED, handler, name="h", mode="broadcast")
    await bus.start()
    await bus.publish_many([(HAPPENED, happened(number)) for number in range(10)])
    await until(lambda: seen)
    report = await closed_within(bus, 5)
    assert report.completed
    assert seen == [*range(10)]


async def test_what_is_behind_the_limit_is_handled(server: Server) -> None:
    """Where nothing can be given back, closing takes over what was accepted, however much that is."""
    seen: list[int] = []
    gate = asyncio.Event()

    async def handler(event: Happened) -> None:
        await gate.wait()
        seen.append(event.number)

    bus = make_remote_bus(server, features=Features(broadcast=True), buffer_size=20, worker_pool_size=1)
    bus.subscribe(HAPPENED, handler, name="h", mode="broadcast")
    await bus.start()
    await bus.publish_many([(HAPPENED, happened(number)) for number in range(100)])
    await until(lambda: state_of(bus).running)
    closing = asyncio.ensure_future(closed_within(bus, 5))
    await asyncio.sleep(0)
    gate.set()
    assert (await closing).completed
    assert seen == [*range(100)]


async def test_unsubscribing_hangs_at_the_end(server: Server) -> None:
    """Callers of unsubscribe are told when the bus is closed before their subscription was through."""

    async def handler(event: Happened) -> None:
        await asyncio.get_running_loop().create_future()

    bus = make_remote_bus(server)
    subscription = bus.subscribe(HAPPENED, handler, name="h")
    await bus.start()
    await bus.publish(HAPPENED, happened())
    await until(lambda: state_of(bus).running)
    leaving = asyncio.ensure_future(subscription.unsubscribe())
    await asyncio.sleep(0)
    assert (await closed_within(bus, 0.05)).completed
    await asyncio.wait_for(leaving, 30)
    assert [(entry.attempt, entry.owner) for entry in entries(server)] == [(1, None)]


# --- on a server that does not answer -------------------------------------------------------------------


@pytest.mark.parametrize("fault", [fails, hangs])
@pytest.mark.parametrize("calls", [("open",), ("receive",), ("settle",), ("receive", "settle", "publish")])
@pytest.mark.parametrize("timeout", [0, 0.2])
async def test_close_while_the_server_is_down(
    server: Server, calls: tuple[str, ...], fault: Callable[..., Any], timeout: float
) -> None:
    """Closing ends in time whatever the server does, handlers that swallow their cancellation included."""
    end = asyncio.Event()

    async def handler(event: Happened) -> None:
        await outlast_cancellation(end)

    bus = make_remote_bus(server)
    await bus.start()
    if "open" not in calls:
        await bus.subscribe(HAPPENED, handler, name="stuck").ready()
        await bus.subscribe(OTHER, ignore, name="h").ready()
        await bus.publish(HAPPENED, happened())
        await until(lambda: state_of(bus, "stuck").running)
    server.faults.update(dict.fromkeys(calls, fault))
    bus.subscribe(OTHER, ignore, name="other")
    publishing = asyncio.ensure_future(bus.publish(OTHER, happened()))
    await asyncio.sleep(0.01)
    await closed_within(bus, timeout)
    with suppress(BusError):  # it was stored, or not
        await asyncio.wait_for(publishing, 30)
    end.set()
    await asyncio.sleep(0)


@pytest.mark.parametrize("part", ["consumer", "adapter"])
async def test_closing_hangs(server: Server, part: str) -> None:
    """A consumer, or an adapter, that does not close is left behind."""
    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, ignore, name="h")
    await bus.start()
    await bus.publish(HAPPENED, happened())
    target: Any = server.consumers[0] if part == "consumer" else bus.adapter
    target.close = lambda: hangs(None)
    await closed_within(bus, 0.1)
    assert bus.status == "closed"


async def test_closing_consumer_fails(server: Server) -> None:
    """A consumer that raises when it is closed hinders nothing."""
    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, ignore, name="h")
    await bus.start()
    await bus.publish(HAPPENED, happened())

    async def raising() -> None:
        raise RuntimeError("no")

    server.consumers[0].close = raising  # type: ignore[method-assign]
    assert (await closed_within(bus, 5)).completed


async def test_close_leaves_no_task(server: Server) -> None:
    """After close nothing of the bus is left on the loop, also when the server hung."""
    before = asyncio.all_tasks()
    bus = make_remote_bus(server)
    await bus.start()
    await bus.subscribe(HAPPENED, ignore, name="h").ready()
    server.faults.update(receive=hangs, settle=hangs)
    await bus.publish(HAPPENED, happened())
    await until(lambda: state_of(bus).handled)
    await bus.close(0.05)
    await until(lambda: asyncio.all_tasks() == before)
