"""An adapter outside of the process: publishing, receiving, settling."""

from __future__ import annotations

import asyncio

import pytest

from bus_core import Delivery, Postpone
from support.buses import HAPPENED, Happened, happened, until
from support.remote import Server, make_remote_bus, running_remote_bus


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
    """What no handler has finished at the end is given back without counting an attempt."""
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
