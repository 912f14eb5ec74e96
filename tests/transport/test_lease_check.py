"""After a pause of the process, what it holds may be others': it asks before it begins any of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from bus_core import BusError, HealthStatus, Postpone, SubscriptionSpec
from bus_core.bus.bus import Bus
from bus_core.transport.lease_check import LeaseCheck
from support.buses import HAPPENED, Happened, happened, state_of, until
from support.remote import Consumer, Entry, Server, running_remote_bus


class Unreachable(BusError):
    """The error that the server raises in these tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    # Every burst is taken for the first one after a pause; consumers are in doubt where a test says so.
    monkeypatch.setattr("bus_core.dispatch.worker_pool._PROCESS_PAUSE", -1.0)
    return Server()


class Held:
    """A bus that holds events, and is at the first of them."""

    def __init__(self, bus: Bus, server: Server) -> None:
        self.bus = bus
        self.server = server
        self.gate = asyncio.Event()
        self.begun: list[int] = []
        self.postponed: Collection[int] = ()

    async def handle(self, event: Happened) -> None:
        self.begun.append(event.number)
        if event.number in self.postponed:
            raise Postpone(after=4.0)  # shorter than what the consumer lets it hold
        await self.gate.wait()

    @property
    def consumer(self) -> Consumer:
        (consumer,) = self.server.consumers
        return consumer

    def number_of(self, entry: Entry) -> int:
        event: Any = self.bus.parts.codec.decode(entry.message)
        number: int = event.number
        return number

    def stands_still(self, *, lost: Collection[int] = ()) -> None:
        """As if its leases had ended, and others had taken over some of what it holds, and handled it."""
        group = self.consumer.group
        for entry in [*group.owned]:
            if self.number_of(entry) in lost:
                group.owned.remove(entry)
                entry.owner = None
        self.consumer.in_doubt = True

    def asked(self) -> list[list[int]]:
        """For each time that it has asked: which events it asked about."""
        calls = [argument for call, argument in self.server.calls if call == "confirm"]
        return [[self.number_of(entry) for entry in argument] for argument in calls]


@asynccontextmanager
async def holding(
    server: Server,
    events: int,
    *,
    keys: dict[int, int] | None = None,
    size: int = 1,
    postponed: Collection[int] = (),
    **options: Any,
) -> AsyncIterator[Held]:
    """A bus with so many events, of which a worker has begun the first. ``keys`` numbers their aggregates."""
    async with running_remote_bus(server, worker_pool_size=size) as bus:
        held = Held(bus, server)
        held.postponed = postponed
        subscription = bus.subscribe(HAPPENED, held.handle, name="h", **options)
        await subscription.ready()
        subscription.pause()
        for number in range(events):
            key = UUID(int=keys[number]) if keys else None
            await bus.publish(HAPPENED, happened(number, key))
        subscription.resume()
        await until(lambda: held.begun and len(held.consumer.group.owned) == events)
        yield held


def withhold_answers(server: Server) -> asyncio.Future[None]:
    """Questions about its messages wait until this future is done."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def waits(_: object) -> None:
        await asyncio.shield(answer)  # one caller that is cancelled does not answer another one

    server.faults["confirm"] = waits
    return answer


@pytest.mark.parametrize("options", [{}, {"concurrency": 1}, {"ordered": True}])
async def test_what_others_own_is_not_begun(
    server: Server, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """It is counted as late, and nothing else becomes of it; what is owned still is handled, in order."""
    async with holding(server, 6, **options) as held:
        held.stands_still(lost={2, 3, 5})
        held.gate.set()
        await until(lambda: len(held.begun) == 3)
        await held.bus.drain()
        assert held.begun == [0, 1, 4]
        assert held.asked() == [[1, 2, 3, 4, 5]]
        state = state_of(held.bus)
        assert (state.handled, state.late, state.queued) == (3, 3, 0)
        assert held.bus.state().unsettled == 0
    told = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert told == [
        "3 messages were not started after a pause: taken over by other consumers (subscription=h)"
    ]


@pytest.mark.parametrize("lost", [{1}, {1, 2}, {2}, {4}, {4, 5}, {1, 4}, {1, 2, 3}, {1, 2, 3, 4, 5}])
async def test_order_is_kept(server: Server, lost: set[int]) -> None:
    """Of each key those that are left come in order, one after the other, and also those that come later."""
    keys = {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
    async with holding(server, 7, keys=keys, size=4, ordered=True) as held:
        await until(lambda: len(held.begun) == 3)  # the first one of each key
        held.stands_still(lost=lost)
        held.gate.set()
        await until(lambda: len(held.begun) + state_of(held.bus).late >= 7 - len(lost & {4}))
        for number in (7, 8):
            await held.bus.publish(HAPPENED, happened(number, UUID(int=number - 6)))
        await held.bus.drain()
        of_first = [number for number in held.begun if number in (0, 1, 2, 3, 7)]
        of_second = [number for number in held.begun if number in (4, 5, 8)]
        assert of_first == [number for number in (0, 1, 2, 3, 7) if number not in lost]
        # The first of its key runs already: that others own it is found when it is settled.
        assert of_second == [number for number in (4, 5, 8) if number not in lost - {4}]
        assert state_of(held.bus).late == len(lost)
        assert held.bus.state().unsettled == 0


@pytest.mark.parametrize("options", [{}, {"ordered": True}])
async def test_retries_that_are_not_due(server: Server, options: dict[str, Any]) -> None:
    """Messages that wait for a retry are confirmed too; behind a lost one its key goes on."""
    keys = {0: 1, 1: 1, 2: 1, 3: 2}
    async with holding(server, 4, keys=keys, size=2, postponed={0}, **options) as held:
        await until(lambda: state_of(held.bus).waiting_retries == 1)
        held.stands_still(lost={0})
        held.gate.set()
        await held.bus.publish(HAPPENED, happened(4, UUID(int=3)))
        await held.bus.drain()
        assert sorted(held.begun) == [0, 1, 2, 3, 4]
        state = state_of(held.bus)
        assert (state.handled, state.late, state.waiting_retries, state.queued) == (4, 1, 0, 0)
        assert held.bus.state().unsettled == 0


async def test_a_retry_that_is_owned_still(server: Server) -> None:
    """It goes on to wait, and nothing is asked about it again."""
    async with holding(server, 2, postponed={0}) as held:
        await until(lambda: state_of(held.bus).waiting_retries == 1)
        held.stands_still()
        held.gate.set()
        await held.bus.publish(HAPPENED, happened(2))
        await until(lambda: state_of(held.bus).handled == 2)
        state = state_of(held.bus)
        assert (state.late, state.waiting_retries) == (0, 1)
        assert any(0 in asked for asked in held.asked())


async def test_nobody_asks_without_a_doubt(server: Server) -> None:
    """As long as the leases are renewed nothing is asked, however long nothing was begun."""
    async with holding(server, 3) as held:
        held.gate.set()
        await held.bus.drain()
        assert held.begun == [0, 1, 2]
        assert held.asked() == []


async def test_nothing_is_begun_before_the_answer(server: Server) -> None:
    """It asks until there is an answer, which health tells meanwhile."""
    failures = 2

    def fails(_: object) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Unreachable("secret")

    server.faults["confirm"] = fails
    async with holding(server, 4) as held:
        held.stands_still(lost={2})
        held.gate.set()
        await until(lambda: failures < 2)
        report = await held.bus.health()
        assert report.status is HealthStatus.UNHEALTHY
        assert "the subscription 'h' cannot confirm what it holds: Unreachable" in str(report)
        assert held.begun == [0]
        await until(lambda: held.begun == [0, 1, 3])
        await held.bus.drain()
        assert [len(asked) for asked in held.asked()] == [3, 3, 3]
        assert (await held.bus.health()).status is HealthStatus.HEALTHY


async def test_what_comes_meanwhile_waits(server: Server) -> None:
    """New events wait for the answer as well, behind those that are asked about."""
    answer = withhold_answers(server)
    async with holding(server, 3) as held:
        held.stands_still(lost={1})
        held.gate.set()
        await until(held.asked)
        await held.bus.publish(HAPPENED, happened(3))
        await until(lambda: len(held.consumer.group.owned) >= 2 and not held.consumer.group.ready)
        assert held.begun == [0]
        answer.set_result(None)
        await until(lambda: held.begun == [0, 2, 3])
        await held.bus.drain()


@pytest.mark.parametrize("how", ["close", "unsubscribe"])
async def test_leaving_meanwhile(server: Server, how: str) -> None:
    """Closing, or unsubscribing, gives back what nobody has begun, whatever the answer is."""
    withhold_answers(server)
    async with holding(server, 4) as held:
        held.stands_still()
        held.gate.set()
        await until(held.asked)
        group = held.consumer.group
        if how == "close":
            report = await held.bus.close(1)
            assert report.completed
        else:
            (subscription,) = held.bus.subscriptions
            leaving = asyncio.create_task(subscription.unsubscribe())
            await until(lambda: not held.bus.subscriptions)
            server.faults.clear()
            leaving.cancel()
            await held.bus.close(1)
        assert held.begun[0] == 0
        back = [held.number_of(entry) for entry in (*group.ready, *group.owned)]
        assert sorted({*held.begun, *back}) == [0, 1, 2, 3]


async def test_a_pause_meanwhile_stays(server: Server) -> None:
    """A subscription that is paused while it asks begins nothing until it is resumed."""
    answer = withhold_answers(server)
    async with holding(server, 3) as held:
        held.stands_still(lost={2})
        held.gate.set()
        await until(held.asked)
        (subscription,) = held.bus.subscriptions
        subscription.pause()
        answer.set_result(None)
        await until(lambda: state_of(held.bus).late == 1)
        assert state_of(held.bus).paused
        assert held.begun == [0]
        subscription.resume()
        await until(lambda: held.begun == [0, 1])
        await held.bus.drain()


async def test_a_program_that_cancels_all_tasks(server: Server) -> None:
    """It goes on without an answer: what is others' is refused when it is settled, as ever."""
    withhold_answers(server)
    async with holding(server, 3) as held:
        held.stands_still()
        held.gate.set()
        await until(held.asked)
        held.consumer.in_doubt = False
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await until(lambda: held.begun == [0, 1, 2])
        await held.bus.drain()


# --- the doubt itself -------------------------------------------------------------------------------------


class Lane:
    """A lane that is held back, or not."""

    spec = SubscriptionSpec(name="h", group="g", topic="a.b.c")
    is_held_back = False

    def hold_back(self) -> None:
        self.is_held_back = True

    def release_held(self, lost: Collection[Any]) -> None:
        assert not lost
        self.is_held_back = False


class Confirming:
    """A consumer that confirms everything, and may be unable to say whether it is in doubt."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.asked = 0

    @property
    def in_doubt(self) -> bool:
        if self.fault is not None:
            raise self.fault
        return True

    async def confirm(self, receipts: Sequence[Any]) -> Sequence[bool]:
        self.asked += 1
        return [True for _ in receipts]


def lease_check_of(lane: Any, consumer: Confirming) -> LeaseCheck:
    return LeaseCheck(lane, consumer, list, lane.release_held)


async def test_a_cancellation_before_it_has_begun() -> None:
    """The lane goes on, and the next process pause is asked about again."""
    lane, consumer = Lane(), Confirming()
    doubt = lease_check_of(lane, consumer)
    doubt.start_if_in_doubt()
    assert lane.is_held_back
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await until(lambda: not lane.is_held_back)
    assert consumer.asked == 0
    doubt.start_if_in_doubt()
    await until(lambda: not lane.is_held_back)
    assert consumer.asked == 1


async def test_who_cannot_tell_is_in_doubt() -> None:
    """An error of `in_doubt` ends no worker: the messages are confirmed."""
    lane, consumer = Lane(), Confirming(Unreachable("secret"))
    doubt = lease_check_of(lane, consumer)
    doubt.start_if_in_doubt()
    assert doubt.trouble.text == "the subscription 'h' cannot check its lease: Unreachable: secret"
    await until(lambda: not lane.is_held_back)
    assert consumer.asked == 1
    assert doubt.trouble.text is None
