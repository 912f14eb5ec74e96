"""Closing, draining and falling back with an adapter outside of the process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import promenade_bus_memory
from bus_core import (
    Bus,
    BusError,
    BusForked,
    Delivery,
    Features,
    HealthStatus,
    Message,
    SyncBus,
    UnsupportedFeature,
    open_sync_bus,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, state_of, until
from support.handlers import outlast_cancellation
from support.remote import (
    CountingRemoteAdapter,
    Entry,
    RemoteAdapter,
    Server,
    make_remote_bus,
    remote_plugin,
    running_remote_bus,
)

GRACE = 0.5
"""Seconds after the shutdown timeout by which a bus has to be closed, whatever the server does."""


class Unreachable(BusError):
    """What the server raises in these tests."""


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


# --- what is given back -----------------------------------------------------------------------------------


async def test_prefetched_is_released(server: Server) -> None:
    """What no handler has begun goes back at once, in order; what runs is finished."""
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
    """What waits here for its retry goes back with its count and its history."""
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
    """What fails while the bus closes goes back at once, to be retried by others."""
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
    """What waits in a paused subscription is given back, in order."""
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
    await asyncio.wait_for(leaving, 1)
    assert [(entry.attempt, entry.owner) for entry in entries(server)] == [(1, None)]


# --- a server that does not answer ------------------------------------------------------------------------


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
        await asyncio.wait_for(publishing, 1)
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


# --- drain ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [RemoteAdapter, CountingRemoteAdapter])
async def test_drain_waits_for_other_instances(server: Server, adapter: type[RemoteAdapter]) -> None:
    """What another instance of a group holds counts for the drain of each, whichever of many it is."""
    go_on = asyncio.Event()

    async def slow(event: Happened) -> None:
        await go_on.wait()

    async with running_remote_bus(server) as other, running_remote_bus(server, adapter=adapter) as bus:
        await other.subscribe(HAPPENED, slow, name="h").ready()
        await bus.publish(HAPPENED, happened())
        await until(lambda: state_of(other).running)
        for number in range(30):
            await bus.subscribe(OTHER, ignore, name=f"idle{number}").ready()
        await bus.subscribe(HAPPENED, ignore, name="h").ready()
        with pytest.raises(TimeoutError):
            await bus.drain(0.05)
        draining = asyncio.ensure_future(bus.drain())
        go_on.set()
        await draining


async def test_drain_follows_a_chain(server: Server) -> None:
    """A drain waits for what handlers cause on topics whose backlog was looked at before."""
    seen: list[int] = []
    looked: list[str] = []
    go_on = asyncio.Event()

    async def first(event: Happened) -> None:
        await go_on.wait()
        await other.publish(OTHER, happened(1))

    async def second(event: Happened) -> None:
        await asyncio.sleep(0.02)
        seen.append(event.number)

    async def look(spec: Any) -> None:
        looked.append(spec.name)
        if spec.name == "first" and not go_on.is_set():  # "second" was looked at, and had nothing
            go_on.set()
            await until(lambda: len(server.log) == 2)
            await until(lambda: not server.groups["tests.first test.thing.happened"].owned)

    async with running_remote_bus(server) as other, running_remote_bus(server) as bus:
        # The handlers run in the other instance.
        await other.subscribe(HAPPENED, first, name="first").ready()
        await other.subscribe(OTHER, second, name="second").ready()
        await bus.publish(HAPPENED, happened(0))
        await until(lambda: state_of(other, "first").running)
        await bus.subscribe(OTHER, second, name="second").ready()
        await bus.subscribe(HAPPENED, first, name="first").ready()
        server.faults["backlog"] = look
        await bus.drain()
        assert seen == [1]
    assert looked[:2] == ["second", "first"]


async def test_drain_waits_for_what_is_being_opened(server: Server) -> None:
    """A drain right after ``subscribe`` waits for what the new subscription finds, once it is open."""
    seen: list[int] = []

    async def note(event: Happened) -> None:
        seen.append(event.number)

    async def slowly(_spec: object) -> None:
        await asyncio.sleep(0.02)

    async with running_remote_bus(server, adapter=CountingRemoteAdapter) as bus:
        await bus.publish(HAPPENED, happened(1))
        server.faults["open"] = slowly
        bus.subscribe(HAPPENED, note, name="h", start="earliest")
        await bus.drain()
        assert seen == [1]


async def test_drain_asks_for_many_at_once(server: Server) -> None:
    """An adapter that counts for many is asked once a look, about all subscriptions of the drain."""
    names = [f"h{number}" for number in range(30)]
    async with running_remote_bus(server, adapter=CountingRemoteAdapter) as bus:
        for name in names:
            await bus.subscribe(HAPPENED, ignore, name=name).ready()
        await bus.drain()
    assert not [call for call, _ in server.calls if call == "backlog"]
    looks = [[spec.name for spec in specs] for call, specs in server.calls if call == "backlogs"]
    assert looks == [names, names]


async def test_drain_while_the_backlog_cannot_be_read(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A drain waits until the backlog can be read, whatever reading it raises, and logs that once."""
    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, ignore, name="h").ready()
        for fault in (fails, lambda _: 1 / 0):
            server.faults["backlog"] = fault
            with pytest.raises(TimeoutError):
                await bus.drain(0.1)
        server.faults.clear()
        await bus.drain()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all(line.startswith("a drain cannot read the backlog: ") for line in lines)


# --- threads, forks, fallback -----------------------------------------------------------------------------


def open_sync(server: Server) -> SyncBus:
    config = {"app": {"name": "tests"}, "bus": {"adapter": "remote"}}
    return open_sync_bus(config, plugins=[remote_plugin(server)], installed=False)


def test_sync_bus(server: Server) -> None:
    """A sync bus works with an adapter outside of the process, from many threads."""
    seen: list[int] = []
    with open_sync(server) as bus:
        bus.subscribe(HAPPENED, lambda event: seen.append(event.number), name="h")
        threads = [
            threading.Thread(
                target=lambda n=n: [bus.publish(HAPPENED, happened(n * 10 + i)) for i in range(10)]  # type: ignore[misc]
            )
            for n in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bus.publish_many([(HAPPENED, happened(50 + number)) for number in range(10)])
        with bus.after_commit():
            bus.publish(HAPPENED, happened(60))
        bus.drain()
        assert bus.health().status is HealthStatus.HEALTHY
    assert sorted(seen) == [*range(61)]


def test_fork(server: Server) -> None:
    """A bus in a forked child refuses to publish by the short way, too."""
    with open_sync(server) as bus:
        bus.publish(HAPPENED, happened())
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                bus.publish(HAPPENED, happened())
            except BusForked:
                os.write(write, b"refused")
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(read, 100) == b"refused"
        os.close(read)
        os.waitpid(child, 0)
        bus.publish(HAPPENED, happened())
    assert len(server.log) == 2


def falling_back(server: Server, **settings: Any) -> Bus:
    async def refuse() -> None:
        raise Unreachable("no")

    bus = make_remote_bus(server, plugins=[promenade_bus_memory], fallback="memory", **settings)
    bus.adapter.start = refuse  # type: ignore[method-assign]
    return bus


async def test_fallback_takes_the_place(server: Server) -> None:
    """When the adapter does not start, memory carries the events in every respect, and health tells."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    bus = falling_back(server)
    bus.subscribe(HAPPENED, handler, name="h")
    async with bus:
        await bus.publish(HAPPENED, happened(1))
        bus.publish_nowait(HAPPENED, happened(2))
        bus.subscribe(OTHER, handler)  # memory needs no name
        await bus.publish(OTHER, happened(3))
        await bus.drain()
        health = (await bus.health()).checks["bus"]
        assert health.status is HealthStatus.DEGRADED
        assert "'remote' did not start (Unreachable)" in health.summary
    assert sorted(seen) == [1, 2, 3]
    assert server.calls == []


async def test_fallback_that_can_do_less(server: Server) -> None:
    """A fallback that cannot do what subscriptions need is refused at start; the bus may start again."""
    bus = falling_back(server)
    bus.subscribe(HAPPENED, ignore, name="h", start="earliest")
    with pytest.raises(UnsupportedFeature, match=r"start='earliest'"):
        await bus.start()
    del bus.adapter.start  # type: ignore[attr-defined]  # the server is back
    async with bus:
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert bus.adapter.name == "remote"
        assert (await bus.health()).status is HealthStatus.HEALTHY


async def test_first_adapter_works(server: Server) -> None:
    """With an adapter that starts, a fallback is not even started."""
    bus = make_remote_bus(server, plugins=[promenade_bus_memory], fallback="memory")
    async with bus:
        await bus.publish(HAPPENED, happened())
    assert len(server.log) == 1
