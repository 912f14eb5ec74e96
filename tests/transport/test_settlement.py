"""Outcomes on their way back to an adapter: failures, lost leases, what is held up and what is not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bus_core import BusError, HealthStatus, LeaseLost, Outcome
from bus_core.transport.settlement import Settlement
from support.buses import HAPPENED, Happened, happened, state_of, until
from support.remote import Server, make_remote_bus, running_remote_bus


class Unreachable(BusError):
    """The error that the server raises in these tests."""


@pytest.fixture
def server() -> Server:
    return Server()


async def ignore(event: Happened) -> None:
    pass


def settled(server: Server) -> bool:
    return not any((*group.ready, *group.owned, *group.parked) for group in server.groups.values())


def calls(server: Server, call: str) -> int:
    return sum(each == call for each, _ in server.calls)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def raises(outcomes: object) -> Any:
    raise Unreachable("secret")


def raises_anything(outcomes: object) -> Any:
    raise ValueError("secret")


def raises_cancelled(outcomes: object) -> Any:
    raise asyncio.CancelledError


def dead_letters_fail(server: Server) -> Callable[[Sequence[Outcome]], list[BusError | None]]:
    """A fault of ``settle``: everything is carried out, but for dead letters."""

    def settle(outcomes: Sequence[Outcome]) -> list[BusError | None]:
        consumer = server.consumers[0]
        return [
            Unreachable("no") if each.action == "dead_letter" else consumer._settle(each) for each in outcomes
        ]

    return settle


@pytest.mark.parametrize(
    "fault",
    [
        raises,
        raises_anything,
        raises_cancelled,
        lambda _: 7,
        lambda outcomes: [None] * (len(outcomes) + 1),
        lambda outcomes: [],
        lambda outcomes: [False for _ in outcomes],
        lambda outcomes: [Unreachable("secret") for _ in outcomes],
    ],
)
async def test_settling_fails(server: Server, caplog: pytest.LogCaptureFixture, fault: Any) -> None:
    """Outcomes are repeated until `settle` carries them out, and count once."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        server.faults["settle"] = fault
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: calls(server, "settle") >= 4)
        check = (await bus.health()).checks["bus"]
        assert check.status is HealthStatus.UNHEALTHY
        assert check.summary.startswith("the subscription 'h' cannot settle: ")
        assert bus.state().unsettled == 3
        with pytest.raises(TimeoutError):
            await bus.drain(0.05)
        server.faults.clear()
        await bus.drain()
        assert seen == [0, 1, 2]
        state = state_of(bus)
        assert (state.handled, state.late, state.queued, state.running) == (3, 0, 0, 0)
        assert bus.state().unsettled == 0
        assert (await bus.health()).status is HealthStatus.HEALTHY
    assert settled(server)
    assert len(warnings(caplog)) == 2, caplog.text
    assert "secret" not in caplog.text


async def test_one_outcome_fails_for_long(server: Server) -> None:
    """An outcome that cannot be carried out holds up no other, and is tried with growing pauses."""

    async def handler(event: Happened) -> None:
        if event.number == 0:
            raise ValueError("no")

    async with running_remote_bus(server, retry_attempts=1) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        server.faults["settle"] = dead_letters_fail(server)
        await bus.publish(HAPPENED, happened(0))
        await until(lambda: calls(server, "settle") >= 3)
        began = time.monotonic()
        for number in range(1, 1001):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: bus.state().unsettled == 1)
        assert time.monotonic() - began < 30
        tries = [outcomes for call, outcomes in server.calls if call == "settle"]
        assert sum(any(o.action == "dead_letter" for o in outcomes) for outcomes in tries) < 15
        assert await bus.dead_letters.list() == []
        del server.faults["settle"]
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "retries exhausted after 1 attempt"
        assert state_of(bus).dead_lettered == 1
    assert settled(server)


async def test_dead_letters_fail_for_long(server: Server) -> None:
    """While no dead letter can be stored, as when their place is full, good events are handled as ever."""

    async def handler(event: Happened) -> None:
        if event.number % 3 == 0:
            raise ValueError("no")

    async with running_remote_bus(server, retry_attempts=1) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        server.faults["settle"] = dead_letters_fail(server)
        for number in range(2000):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: state_of(bus).handled == 1333)
        await until(lambda: bus.state().unsettled == 667)
        assert (await bus.health()).status is HealthStatus.UNHEALTHY
        del server.faults["settle"]
        await bus.drain()
        assert len(await bus.dead_letters.list(limit=1000)) == 667
    assert settled(server)


async def test_a_dead_letter_that_fails_says_nothing_of_others(server: Server) -> None:
    """The next settlement does not wait until the dead letter is tried again."""

    def tried() -> list[list[str]]:
        return [[each.action for each in outcomes] for call, outcomes in server.calls if call == "settle"]

    async def handler(event: Happened) -> None:
        if event.number < 2:
            raise ValueError("no")

    async with running_remote_bus(server, retry_attempts=1) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        server.faults["settle"] = dead_letters_fail(server)
        await bus.publish(HAPPENED, happened(0))
        await until(lambda: len(tried()) == 6)  # from now on it is tried every few seconds
        await bus.publish(HAPPENED, happened(1))
        await until(lambda: len(tried()) == 7)
        await bus.publish(HAPPENED, happened(2))
        await until(lambda: len(tried()) == 8)
        assert tried()[6:] == [["dead_letter"], ["ack"]]
        del server.faults["settle"]


async def test_lost_leases(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A message settled too late belongs to another consumer: it is counted once, and logged in one line."""
    server.faults["settle"] = lambda outcomes: [LeaseLost("somebody else owns it") for _ in outcomes]
    gate = asyncio.Event()

    async def handler(event: Happened) -> None:
        await gate.wait()

    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: state_of(bus).running == 10)
        gate.set()
        await until(lambda: bus.state().unsettled == 0)
        assert state_of(bus).late == 10
        assert (await bus.health()).status is HealthStatus.HEALTHY
        server.groups.clear()
    lines = warnings(caplog)
    assert sum(int(line.split()[0]) for line in lines) == 10
    assert len(lines) <= 3
    assert all(
        line.endswith("settled too late: taken over by other consumers (subscription=h)") for line in lines
    )


async def test_outcomes_share_batches(server: Server) -> None:
    """Outcomes that come while a call is under way go together with the next one."""
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def held_up(outcomes: object) -> None:
        await gate

    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, ignore, name="h").ready()
        server.faults["settle"] = held_up
        await bus.publish(HAPPENED, happened())
        await until(lambda: calls(server, "settle"))
        for _ in range(10):
            await bus.publish(HAPPENED, happened())
        await until(lambda: state_of(bus).handled == 11)
        server.faults.clear()
        gate.set_result(None)
        await bus.drain()
    assert [len(outcomes) for call, outcomes in server.calls if call == "settle"] == [1, 10]


async def test_close_while_settling_is_slow(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Closing waits for what was handled a moment before, and calls nothing of it lost."""
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def held_up(outcomes: object) -> None:
        await gate

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, ignore, name="h")
    await bus.start()
    server.faults["settle"] = held_up
    await bus.publish(HAPPENED, happened())
    await until(lambda: calls(server, "settle"))
    closing = asyncio.ensure_future(bus.close(10))
    await until(lambda: bus.status == "closing")
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set_result(None)
    assert (await closing).completed
    assert settled(server)
    assert warnings(caplog) == []


async def test_close_while_settling_hangs(server: Server) -> None:
    """A handled message that the adapter did not hear of in time is reported as such."""

    async def hangs(outcomes: object) -> None:
        await asyncio.get_running_loop().create_future()

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, ignore, name="h")
    await bus.start()
    server.faults["settle"] = hangs
    first, second = happened(), happened()
    await bus.publish(HAPPENED, first)
    await until(lambda: calls(server, "settle"))
    await bus.publish(HAPPENED, second)
    await until(lambda: state_of(bus).handled == 2)
    began = time.monotonic()
    report = await bus.close(0.1)
    assert time.monotonic() - began < 0.1 + 5
    assert not report.completed
    assert [(each.event_id, each.state) for each in report.abandoned] == [
        (str(first.event_id), "settling"),
        (str(second.event_id), "settling"),
    ]


async def test_close_while_settling_fails(server: Server) -> None:
    """While the server refuses, closing ends in time and reports what it could not settle."""
    handled: list[Happened] = []

    async def handle(event: Happened) -> None:
        handled.append(event)

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, handle, name="h")
    await bus.start()
    server.faults["settle"] = raises
    for number in range(5):
        await bus.publish(HAPPENED, happened(number))
    await until(lambda: calls(server, "settle") >= 3 and len(handled) == 5)
    report = await asyncio.wait_for(bus.close(0.2), 30)
    assert {each.state for each in report.abandoned} == {"settling"}
    assert len(report.abandoned) == 5


async def test_cancelled_before_the_first_step() -> None:
    """When what settles is cancelled before it has begun, the outcome is carried out all the same."""
    told: list[Any] = []
    consumer: Any = SimpleNamespace(settle=answers_well)
    settlement = Settlement("h", consumer, lambda jobs, _late: told.extend(jobs))
    job: Any = object()
    settlement.put(job, Outcome("ack", "receipt"))
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await until(lambda: told == [job])
    await settlement.close()


async def answers_well(outcomes: Sequence[Outcome]) -> list[None]:
    return [None for _ in outcomes]
