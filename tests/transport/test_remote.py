"""An adapter outside of the process: publishing, receiving, settling, draining, falling back."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

import promenade_bus_memory
from bus_core import (
    Bus,
    BusError,
    BusForked,
    Delivery,
    HealthStatus,
    Postpone,
    SyncBus,
    UnsupportedFeature,
    open_sync_bus,
)
from support.buses import HAPPENED, OTHER, Happened, happened, state_of, until
from support.handlers import ignore
from support.remote import (
    CountingRemoteAdapter,
    RemoteAdapter,
    Server,
    make_remote_bus,
    remote_plugin,
    running_remote_bus,
)


class Unreachable(BusError):
    """The error that the server raises in these tests."""


def fails(argument: object) -> Any:
    raise Unreachable("no")


@pytest.fixture
def server() -> Server:
    return Server()


async def test_publish_and_handle(server: Server) -> None:
    """An event that is published is stored, handled, and acknowledged."""
    seen: list[Happened] = []

    async def handler(event: Happened) -> None:
        seen.append(event)

    async with running_remote_bus(server) as bus:
        bus.subscribe(HAPPENED, handler, name="h")
        sent = [happened(number) for number in range(100)]
        for event in sent:
            await bus.publish(HAPPENED, event)
        await bus.drain()
    assert seen == sent
    (group,) = server.groups.values()
    assert [*group.ready, *group.owned, *group.parked] == []


async def test_retry_and_dead_letter(server: Server) -> None:
    """Retries are made, the last failure ends in the dead letters with the history, and redrive works."""
    attempts: list[int] = []
    broken = True

    async def handler(event: Happened, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if broken:
            raise ValueError("no")

    async with running_remote_bus(server, retry_delay=0.001) as bus:
        bus.subscribe(HAPPENED, handler, name="h")
        await bus.publish(HAPPENED, happened())
        await bus.drain()
        assert attempts == [1, 2, 3]
        (letter,) = await bus.dead_letters.list()
        assert [a.number for a in letter.attempts] == [1, 2, 3]
        broken = False
        assert await bus.dead_letters.redrive(letter) == 1
        await bus.drain()
        assert attempts == [1, 2, 3, 1]
        assert await bus.dead_letters.list() == []


async def test_close_releases(server: Server) -> None:
    """Unfinished messages are given back at the end without counting an attempt."""
    begun: list[tuple[int, int]] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        begun.append((event.number, delivery.attempt))
        await asyncio.get_running_loop().create_future()

    bus = make_remote_bus(server, worker_pool_size=2)
    bus.subscribe(HAPPENED, handler, name="h")
    await bus.start()
    await bus.publish_many([(HAPPENED, happened(number)) for number in range(10)])
    await until(lambda: len(begun) == 2)
    report = await bus.close(0.05)
    assert report.completed, report
    (group,) = server.groups.values()
    assert [entry.attempt for entry in group.ready] == [1] * 10
    assert not group.owned


async def test_postponed_and_parked(server: Server) -> None:
    """A delay that is longer than what may be held is handed back."""

    async def handler(event: Happened, delivery: Delivery) -> None:
        if not delivery.redelivered:
            raise Postpone(after=60)

    async with running_remote_bus(server) as bus:
        bus.subscribe(HAPPENED, handler, name="h")
        await bus.publish(HAPPENED, happened())
        (group,) = server.groups.values()
        await until(lambda: group.parked)
        assert [delay for delay, _ in group.parked] == [60]
        server.due()
        await bus.drain()


# --- drain ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [RemoteAdapter, CountingRemoteAdapter])
async def test_drain_waits_for_other_instances(server: Server, adapter: type[RemoteAdapter]) -> None:
    """Messages of another instance of a group count for the drain of each."""
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
            server.calls.clear()
            while "backlog" not in [call for call, _ in server.calls]:
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
