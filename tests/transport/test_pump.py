"""Receiving from an adapter outside of the process: failures, room, order, and what cannot be handled."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from bus_core import (
    Attempt,
    BusError,
    Delivery,
    Features,
    HealthStatus,
    Message,
    Postpone,
    Topic,
    UnknownSubscription,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, state_of, until
from support.remote import ALL, Entry, Group, RemoteAdapter, Server, make_remote_bus, running_remote_bus


class Unreachable(BusError):
    """The error that the server raises in these tests."""


def fails(argument: object) -> Any:
    raise Unreachable("secret")


async def hangs(argument: object) -> Any:
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def server() -> Server:
    return Server()


def group_of(server: Server, name: str = "h") -> Group:
    (group,) = (each for each in server.groups.values() if each.spec.name == name)
    return group


def settled(server: Server) -> bool:
    return not any((*group.ready, *group.owned, *group.parked) for group in server.groups.values())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def ignore(event: Happened) -> None:
    pass


# --- the adapter fails ------------------------------------------------------------------------------------


def answers_nothing_of_use(argument: object) -> Any:
    return 7


def raises_cancelled(argument: object) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("fault", [fails, answers_nothing_of_use, raises_cancelled])
async def test_receive_fails(server: Server, caplog: pytest.LogCaptureFixture, fault: Any) -> None:
    """The pump survives any error of `receive`; health and one log line name the problem."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        server.faults["receive"] = fault
        server.store(bus.parts.codec.encode(HAPPENED, happened(1), {}))
        await until(lambda: sum(call == "receive" for call, _ in server.calls) >= 4)
        check = (await bus.health()).checks["bus"]
        assert check.status is HealthStatus.UNHEALTHY
        assert check.summary.startswith("the subscription 'h' cannot receive: ")
        server.faults.clear()
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
        assert seen == [1, 2]
        assert (await bus.health()).status is HealthStatus.HEALTHY
    first, *rest = warnings(caplog)
    assert first.startswith("the subscription 'h' cannot receive: ")
    assert rest == ["the subscription 'h' works again"]
    assert "secret" not in caplog.text


async def test_a_loss_hides_no_other_cause(server: Server) -> None:
    """Health has the worst status of all causes, and names each of them."""

    class Lossy(RemoteAdapter):
        lost = 1
        degraded = "a group has no instance"

    async def handler(event: Happened) -> None: ...

    async with running_remote_bus(server, adapter=Lossy) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        check = (await bus.health()).checks["bus"]
        assert (check.status, check.summary) == (
            HealthStatus.DEGRADED,
            "a group has no instance. lost 1 event or dead letter; the log names them (look for 'lost')",
        )
        server.faults["receive"] = fails
        server.store(bus.parts.codec.encode(HAPPENED, happened(1), {}))
        async with asyncio.timeout(30):
            while (check := (await bus.health()).checks["bus"]).status is not HealthStatus.UNHEALTHY:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert "'h' cannot receive: " in check.summary
        assert check.summary.endswith("(look for 'lost')")
        server.faults.clear()


async def test_opening_fails(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A subscription that cannot be opened is tried again until it can; `ready` waits for that."""
    server.faults["open"] = fails
    async with running_remote_bus(server) as bus:
        subscription = bus.subscribe(HAPPENED, ignore, name="h")
        ready = asyncio.ensure_future(subscription.ready())
        await until(lambda: sum(call == "open" for call, _ in server.calls) >= 3)
        assert not ready.done()
        summary = (await bus.health()).checks["bus"].summary
        assert summary == "the subscription 'h' cannot be opened: Unreachable: secret"
        server.faults.clear()
        await ready
        assert (await bus.health()).status is HealthStatus.HEALTHY
    assert len(warnings(caplog)) == 2


async def test_log_of_a_server_that_comes_and_goes(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A server that fails and works in turn does not fill the log."""
    calls = 0

    def every_other(argument: object) -> Any:
        nonlocal calls
        calls += 1
        return fails(argument) if calls % 2 else []

    server.faults["receive"] = every_other
    async with running_remote_bus(server) as bus:
        bus.subscribe(HAPPENED, ignore, name="h")
        await until(lambda: calls > 20)
    assert len(warnings(caplog)) <= 2


async def test_health_names_few_of_many(server: Server) -> None:
    """When a thousand subscriptions have the same trouble, health names three of them and a number."""
    server.faults["receive"] = fails
    async with running_remote_bus(server) as bus:
        for number in range(50):
            bus.subscribe(HAPPENED, ignore, name=f"h{number}")
        await until(lambda: len({id(x) for x in server.consumers}) == 50)
        await until(lambda: sum(call == "receive" for call, _ in server.calls) >= 50)
        summary = (await bus.health()).checks["bus"].summary
    assert summary.count("cannot receive") == 3
    assert summary.endswith("; and 47 more")


async def test_no_answer_to_receive(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that does not come back from a call makes the bus unhealthy after a while."""
    monkeypatch.setattr("bus_core.transport.pump._STALLED", 0.05)
    server.faults["receive"] = hangs
    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, ignore, name="h")
    async with bus:
        await until(lambda: any(call == "receive" for call, _ in server.calls))
        deadline = time.monotonic() + 5
        while (check := (await bus.health()).checks["bus"]).status is HealthStatus.HEALTHY:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert check.status is HealthStatus.UNHEALTHY
        assert "'h' has been waiting for an answer to receive for" in check.summary
        await bus.close(0)


async def test_receive_returns_nothing_at_once(server: Server) -> None:
    """An adapter that does not wait for messages is asked seldom, and starves nobody."""
    server.faults["receive"] = lambda _: []
    async with running_remote_bus(server) as bus:
        bus.subscribe(HAPPENED, ignore, name="h")
        await until(lambda: server.calls)
        began = time.monotonic()
        await until(lambda: sum(call == "receive" for call, _ in server.calls) >= 8)
        assert time.monotonic() - began > 0.25  # 5, 10, 20, 40, 80, 100 ms


async def test_receive_returns_too_much(server: Server) -> None:
    """More messages than were asked for are handled all the same."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server, buffer_size=1, worker_pool_size=1) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        consumer = server.consumers[0]
        receive = consumer.receive
        consumer.receive = lambda limit: receive(limit + 100)  # type: ignore[method-assign]
        for number in range(100):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
    assert seen == [*range(100)]
    assert settled(server)


async def test_part_of_an_answer_is_nonsense(server: Server) -> None:
    """A malformed message harms no other beside it."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        consumer = server.consumers[0]
        receive = consumer.receive

        async def with_nonsense(limit: int) -> Any:
            return [object(), *await receive(limit), None]

        consumer.receive = with_nonsense  # type: ignore[method-assign]
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
    assert seen == [0, 1, 2]


async def test_all_tasks_are_cancelled(server: Server) -> None:
    """When a program cancels every task there is and goes on, receiving and settling go on, too."""
    seen: list[int] = []
    settle_gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async def held_up(argument: object) -> None:
        await settle_gate

    async with running_remote_bus(server, retry_delay=0.001) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        server.faults["settle"] = held_up
        await bus.publish(HAPPENED, happened(1))
        await until(lambda: any(call == "settle" for call, _ in server.calls))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        server.faults.clear()
        await until(lambda: settled(server))
        await bus.publish(HAPPENED, happened(2))
        await bus.drain(5)
        assert bus.state().unsettled == 0
        assert seen == [1, 2]


async def test_loop_is_closed_with_an_open_bus(server: Server) -> None:
    """A program that forgets its bus ends without errors of tasks that were thrown away."""

    def run() -> list[str]:
        complaints: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
            bus = make_remote_bus(server)
            bus.subscribe(HAPPENED, ignore, name="h")
            await bus.start()
            await bus.publish(HAPPENED, happened())
            bus.subscribe(OTHER, hanging, name="hanging")
            await bus.publish(OTHER, happened())
            await until(lambda: bus.state().running_handlers)

        async def hanging(event: Happened) -> None:
            await asyncio.get_running_loop().create_future()

        asyncio.run(main())
        gc.collect()
        return complaints

    assert await asyncio.to_thread(run) == []


# --- room -------------------------------------------------------------------------------------------------


async def test_one_worker_and_a_buffer_of_one(server: Server) -> None:
    """With one worker and a buffer of one every lane gets its turn, and handlers may publish."""
    seen: Counter[str] = Counter()
    topics = [Topic(f"test.thing{n}.happened", Happened) for n in range(10)]

    async with running_remote_bus(server, worker_pool_size=1, buffer_size=1) as bus:
        for topic in topics:

            async def handler(event: Happened, delivery: Delivery) -> None:
                seen[delivery.topic] += 1
                if event.number:
                    await bus.publish(delivery.topic, happened(event.number - 1))

            bus.subscribe(topic, handler, name=topic.name)
        for topic in topics:
            await bus.publish(topic, happened(20))
        await bus.drain(10)
    assert seen == {topic.name: 21 for topic in topics}


async def test_lanes_share_a_full_buffer(server: Server) -> None:
    """A lane that could fill the buffer alone, for ever, leaves room for others."""
    topics = [Topic(f"test.thing{n}.happened", Happened) for n in range(6)]
    seen: Counter[str] = Counter()

    async with running_remote_bus(server, worker_pool_size=4, buffer_size=4) as bus:

        async def again(event: Happened, delivery: Delivery) -> None:
            seen[delivery.topic] += 1
            server.store(bus.parts.codec.encode_named(delivery.topic, happened()))

        for topic in topics:
            await bus.subscribe(topic, again, name=topic.name).ready()
            for _ in range(20):
                server.store(bus.parts.codec.encode(topic, happened(), {}))
        seen.clear()  # those that were there before the others had no competition
        await until(lambda: sum(seen.values()) > 1000)
        assert min(seen[topic.name] for topic in topics) * 8 > max(seen.values())
        await bus.close(0)


async def test_stuck_handlers_of_one_lane(server: Server) -> None:
    """While one lane fills the buffer with events that it cannot handle, others get theirs."""
    seen: list[int] = []
    release = asyncio.Event()

    async def stuck(event: Happened) -> None:
        await release.wait()

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server, worker_pool_size=20, buffer_size=8) as bus:
        await bus.subscribe(HAPPENED, stuck, name="stuck", concurrency=2).ready()
        await bus.subscribe(OTHER, handler, name="h").ready()
        for number in range(50):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: bus.state().unsettled >= 8)
        for number in range(50):
            await bus.publish(OTHER, happened(number))
        await until(lambda: len(seen) == 50)
        release.set()
        await bus.drain()


async def test_waiting_retries_take_nobodys_place(server: Server) -> None:
    """Events that wait for their retry do not keep others of the same subscription from being handled."""
    seen: list[int] = []
    clock = VirtualClock()

    async def handler(event: Happened) -> None:
        if event.number % 2:
            raise ValueError("no")
        seen.append(event.number)

    async with running_remote_bus(server, clock, retry_delay="1s", worker_pool_size=2) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        for number in range(400):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: len(seen) == 200)  # no time has passed: no retry was made
        await clock.run(bus.drain())
    assert seen == [*range(0, 400, 2)]


async def test_too_many_retries_are_handed_back(server: Server) -> None:
    """When a subscription holds its share of the buffer in retries that wait, further ones are parked."""
    clock = VirtualClock()
    attempts: Counter[int] = Counter()

    async def handler(event: Happened) -> None:
        attempts[event.number] += 1
        raise ValueError("no")

    async with running_remote_bus(server, clock, retry_delay="1s", buffer_size=100) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        for number in range(300):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: len(attempts) == 300)
        await until(lambda: len(group_of(server).parked) >= 200)
        assert state_of(bus).waiting_retries == 50
        assert {delay for delay, _ in group_of(server).parked} == {1.0}
        await bus.close(0)


async def test_keys_that_wait_take_nobodys_place(server: Server) -> None:
    """A key of an ordered subscription that is held up does not keep other keys from being handled."""
    slow, seen = UUID(int=1), list[int]()
    go_on = asyncio.Event()

    async def handler(event: Happened) -> None:
        if event.aggregate_id == slow:
            await go_on.wait()
        seen.append(event.number)

    async with running_remote_bus(server, worker_pool_size=2) as bus:
        await bus.subscribe(HAPPENED, handler, name="h", ordered=True).ready()
        for number in range(100):
            await bus.publish(HAPPENED, happened(number, slow))
        for number in range(100, 120):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: len(seen) == 20)
        go_on.set()
        began = time.monotonic()
        await bus.drain()
        assert time.monotonic() - began < 8  # no event of a key waits for more than the one before it
    assert seen == [*range(100, 120), *range(100)]


async def test_handlers_that_hang_leave_workers_to_others(server: Server) -> None:
    """Events go on being taken while all but one worker hang for ever."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        if event.number < 9:
            await asyncio.get_running_loop().create_future()
        seen.append(event.number)

    async with running_remote_bus(server, worker_pool_size=10) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        for number in range(200):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: len(seen) == 191)
        await bus.close(0)


async def test_batches_grow_with_speed(server: Server) -> None:
    """Fast handlers get batches that grow, up to 512 at once."""
    async with running_remote_bus(server, buffer_size=10_000) as bus:
        await bus.subscribe(HAPPENED, ignore, name="h").ready()
        message = bus.parts.codec.encode(HAPPENED, happened(), {})
        for _ in range(20_000):
            server.store(message)
        await bus.drain()
    limits = [limit for call, limit in server.calls if call == "receive"]
    assert limits[0] == 16
    assert 128 <= max(limits) <= 512
    assert len(limits) < 500  # 40 events at once, on the average


# --- pausing and leaving ----------------------------------------------------------------------------------


async def test_paused_subscription_receives_nothing_more(server: Server) -> None:
    """A paused subscription leaves what it has not taken to others, and goes on when it is resumed."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server) as bus:
        subscription = bus.subscribe(HAPPENED, handler, name="h")
        await subscription.ready()
        subscription.pause()
        for number in range(100):
            await bus.publish(HAPPENED, happened(number))
        await until(lambda: group_of(server).owned)
        await asyncio.sleep(0)
        assert len(group_of(server).owned) <= 16
        with pytest.raises(TimeoutError):
            await bus.drain(0.05)
        assert seen == []
        subscription.resume()
        await bus.drain()
    assert seen == [*range(100)]


@pytest.mark.parametrize("features", [ALL, Features(groups=True)], ids=["durable", "not durable"])
async def test_unsubscribing_while_messages_flow(server: Server, features: Features) -> None:
    """Unsubscribing settles what was taken, then closes the consumer, and leaves the rest to the group."""
    seen: list[int] = []
    subscription: Any = None

    async def handler(event: Happened) -> None:
        seen.append(event.number)
        await asyncio.sleep(0)

    async with running_remote_bus(server, features=features) as bus:
        subscription = bus.subscribe(HAPPENED, handler, name="h")
        await subscription.ready()
        for number in range(500):
            server.store(bus.parts.codec.encode(HAPPENED, happened(number), {}))
        await until(lambda: len(seen) > 50)
        await subscription.unsubscribe()
        group = group_of(server)
        assert server.consumers[0].closed
        assert not group.owned
        assert sorted([*seen, *(number_in(entry) for entry in group.ready)]) == [*range(500)]


def number_in(entry: Entry) -> int:
    return int(entry.message.body.split(b'"number":')[1].split(b"}")[0].split(b",")[0])


async def test_unsubscribing_in_a_handler_closes_the_consumer(server: Server) -> None:
    """A handler that unsubscribes itself does not wait, and its consumer is closed all the same."""
    async with running_remote_bus(server) as bus:

        async def handler(event: Happened) -> None:
            await subscription.unsubscribe()

        subscription = bus.subscribe(HAPPENED, handler, name="h")
        await bus.publish(HAPPENED, happened())
        await until(lambda: server.consumers[0].closed)
        assert settled(server)


async def test_cancelled_unsubscribe_goes_on(server: Server) -> None:
    """When the caller of unsubscribe is cancelled, the subscription is closed all the same."""
    go_on = asyncio.Event()

    async def handler(event: Happened) -> None:
        await go_on.wait()

    async with running_remote_bus(server) as bus:
        subscription = bus.subscribe(HAPPENED, handler, name="h")
        await bus.publish(HAPPENED, happened())
        await until(lambda: state_of(bus).running)
        leaving = asyncio.ensure_future(subscription.unsubscribe())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await until(lambda: server.consumers[0].closed)
        assert settled(server)


async def test_unsubscribing_what_never_opened(server: Server) -> None:
    """`ready` of a subscription that is left before it could be opened says so."""
    server.faults["open"] = fails
    async with running_remote_bus(server) as bus:
        subscription = bus.subscribe(HAPPENED, ignore, name="h")
        ready = asyncio.ensure_future(subscription.ready())
        await until(lambda: server.calls)
        await subscription.unsubscribe()
        with pytest.raises(UnknownSubscription, match="was closed before it was open"):
            await ready


async def test_closing_what_never_opened(server: Server) -> None:
    """`ready` of a subscription whose opening hangs ends when the bus is closed."""
    server.faults["open"] = hangs
    bus = make_remote_bus(server)
    subscription = bus.subscribe(HAPPENED, ignore, name="h")
    await bus.start()
    ready = asyncio.ensure_future(subscription.ready())
    await until(lambda: server.calls)
    began = time.monotonic()
    await bus.close(0.1)
    assert time.monotonic() - began < 0.1 + 5
    with pytest.raises(UnknownSubscription, match="was closed before it was open"):
        await asyncio.wait_for(ready, 30)


# --- what cannot be handled -------------------------------------------------------------------------------


async def test_undecodable_bytes_are_dead_lettered(server: Server) -> None:
    """Bytes that are no event are dead-lettered as they are, once, and the next event is handled."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        server.store(Message("no id", HAPPENED.name, "", b"\xff\x00 not json"))
        await bus.publish(HAPPENED, happened(1))
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
    assert letter.body == b"\xff\x00 not json"
    assert letter.reason == "cannot be decoded"
    assert letter.event_id is None
    assert seen == [1]


async def test_fault_of_a_message(server: Server) -> None:
    """A message that the adapter cannot read is dead-lettered with its words, and was no attempt."""
    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, ignore, name="h").ready()
        server.store(Message("x", HAPPENED.name, "", b"raw"), fault="the field 'body' is missing")
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
        assert state_of(bus).failed_attempts == 0
        assert state_of(bus).dead_lettered == 1
    assert letter.reason == "cannot be read: the field 'body' is missing"
    assert letter.body == b"raw"
    assert letter.attempts == ()


def died(number: int) -> Attempt:
    return Attempt(number, datetime.now(UTC), "ConsumerDied: its process died")


def failed(number: int) -> Attempt:
    return Attempt(number, datetime.now(UTC), "ValueError: no")


@pytest.mark.parametrize(
    ("attempts", "history", "handled"),
    [
        (1, [died(1)], True),  # a single death is not the last word
        (1, [died(1), died(2)], False),
        (3, [died(1), died(2)], True),
        (3, [died(1), died(2), died(3)], False),
        (2, [failed(1), died(2)], True),  # it failed once, and lay beside something that killed its owner
        (2, [died(1), died(2), failed(3), died(4)], False),
        (1, [failed(1), failed(2), failed(3), died(1)], True),  # the first three are from before a redrive
        (1, [died(1), died(2), died(1)], True),
    ],
)
async def test_owners_that_died(server: Server, attempts: int, history: list[Attempt], handled: bool) -> None:
    """A message whose owners died again and again is given up, and never because of one death alone."""
    seen: list[int] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        seen.append(delivery.attempt)

    async with running_remote_bus(server, retry_attempts=attempts) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        entry = Entry(
            bus.parts.codec.encode(HAPPENED, happened(), {}),
            datetime.now(UTC),
            attempt=history[-1].number + 1,
            history=tuple(history),
            redelivered=True,
            owner_died=True,
        )
        group = group_of(server)
        group.ready.append(entry)
        group.changed()
        await bus.drain()
        letters = await bus.dead_letters.list()
    if handled:
        assert seen == [history[-1].number + 1]
        assert letters == []
    else:
        assert seen == []
        assert [letter.reason for letter in letters] == [
            f"consumer died; retries exhausted after {history[-1].number} attempts"
        ]
        assert letters[0].attempts == tuple(history)


async def test_process_that_dies_again_and_again(server: Server) -> None:
    """An event that kills each process that handles it ends in the dead letters, with every death."""
    begun: list[int] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        begun.append(delivery.attempt)
        await asyncio.get_running_loop().create_future()

    buses = []
    for attempt in (1, 2, 3):
        bus = make_remote_bus(server)
        await bus.start()
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        buses.append(bus)
        if attempt == 1:
            await bus.publish(HAPPENED, happened())
        await until(lambda attempt=attempt: len(begun) == attempt)  # type: ignore[misc]
        server.kill(server.consumers[-1])
    async with running_remote_bus(server) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
    assert begun == [1, 2, 3]
    assert letter.reason == "consumer died; retries exhausted after 3 attempts"
    assert [each.error for each in letter.attempts] == ["ConsumerDied: its process died"] * 3
    for bus in buses:
        await bus.close(0)


# --- holding and parking ----------------------------------------------------------------------------------


class Failing:
    """A handler that fails once for event 0. ``calls`` has the numbers of events and of attempts."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.calls: list[tuple[int, int, float]] = []

    async def __call__(self, event: Happened, delivery: Delivery) -> None:
        self.calls.append((event.number, delivery.attempt, self.clock.monotonic()))
        if (event.number, delivery.attempt) == (0, 1):
            raise ValueError("no")

    def has(self, *numbers: int) -> bool:
        return [number for number, _, _ in self.calls] == [*numbers]


async def test_a_key_goes_on_waiting_in_the_next_process(server: Server) -> None:
    """A retry that waits at close begins at its time in the next process, and other keys do not wait."""
    clock, key = VirtualClock(), uuid4()
    handler = Failing(clock)
    async with running_remote_bus(server, clock, retry_delay="60s", retry_max_delay="60s") as bus:
        await bus.subscribe(HAPPENED, handler, name="h", ordered=True).ready()
        for number in range(2):
            await bus.publish(HAPPENED, happened(number, key))
        await until(lambda: state_of(bus).waiting_retries == 1 and state_of(bus).queued == 1)
        (_, _, failed_at) = handler.calls[0]
        await clock.advance(20)
    async with running_remote_bus(server, clock, retry_delay="60s", retry_max_delay="60s") as bus:
        await bus.subscribe(HAPPENED, handler, name="h", ordered=True).ready()
        await bus.publish(HAPPENED, happened(2))
        await until(lambda: handler.has(0, 2))
        assert (state_of(bus).waiting_retries, state_of(bus).queued) == (1, 1)
        await clock.run(bus.drain())
    assert [(number, attempt) for number, attempt, _ in handler.calls] == [(0, 1), (2, 1), (0, 2), (1, 1)]
    assert 59 <= handler.calls[2][2] - failed_at <= 61


async def test_a_death_while_a_retry_waits_is_no_attempt(server: Server) -> None:
    """Only a process that dies after the retry was begun has used up an attempt."""
    clock = VirtualClock()
    handler = Failing(clock)
    settings: dict[str, Any] = {"retry_delay": "60s", "retry_max_delay": "60s"}
    begun = asyncio.Event()

    async def stuck(event: Happened, delivery: Delivery) -> None:
        handler.calls.append((event.number, delivery.attempt, clock.monotonic()))
        begun.set()
        await asyncio.get_running_loop().create_future()

    # The clock of a process that has died stands still.
    first, second = (make_remote_bus(server, each, **settings) for each in (VirtualClock(), clock))
    await first.start()
    await first.subscribe(HAPPENED, handler, name="h", ordered=True).ready()
    await first.publish(HAPPENED, happened(0))
    await until(lambda: state_of(first).waiting_retries == 1 and group_of(server).owned[0].delay == 60)
    server.kill(server.consumers[-1])
    await second.start()
    await second.subscribe(HAPPENED, stuck, name="h", ordered=True).ready()
    await until(lambda: state_of(second).waiting_retries == 1)
    taken_at = clock.monotonic()
    await clock.run(begun.wait())
    await until(lambda: group_of(server).owned[0].delay == 0)
    server.kill(server.consumers[-1])
    async with running_remote_bus(server, clock, **settings) as bus:
        await bus.subscribe(HAPPENED, handler, name="h", ordered=True).ready()
        await until(lambda: len(handler.calls) == 3)
    assert [attempt for _, attempt, _ in handler.calls] == [1, 2, 3]
    assert handler.calls[1][2] - taken_at >= 60
    await first.close(0)
    await clock.run(second.close(0))


def postponing(seconds: float, seen: list[int]) -> Callable[..., Any]:
    async def handler(event: Happened, delivery: Delivery) -> None:
        if not delivery.redelivered:
            raise Postpone(after=seconds)
        seen.append(event.number)

    return handler


@pytest.mark.parametrize(
    ("features", "options", "seconds", "parked"),
    [
        (ALL, {}, 5, False),
        (ALL, {}, 5.1, True),
        (ALL, {"ordered": True}, 60, False),
        (ALL, {"mode": "broadcast"}, 60, False),
        (Features(durable=True, groups=True), {}, 60, False),
        (Features(groups=True, delayed=True), {}, 60, False),
    ],
)
async def test_what_is_held_and_what_is_parked(
    server: Server, features: Features, options: Any, seconds: float, parked: bool
) -> None:
    """Long delays are handed back where the adapter can wait, keeps no order, and loses nothing by it."""
    clock = VirtualClock()
    seen: list[int] = []
    async with running_remote_bus(server, clock, features=features, longest_hold=5.0) as bus:
        await bus.subscribe(HAPPENED, postponing(seconds, seen), name="h", **options).ready()
        await bus.publish(HAPPENED, happened(7))
        group = group_of(server)
        await until(lambda: group.parked or state_of(bus).waiting_retries)
        assert bool(group.parked) is parked
        if parked:
            server.due()
        await clock.run(bus.drain())
        assert seen == [7]
        assert state_of(bus).retried == 0  # it was postponed


async def test_only_retries_count_as_retried(server: Server) -> None:
    """A postponed or released message is no retry, whatever attempt it is at."""
    clock = VirtualClock()
    raising: list[Exception] = [ValueError("no"), Postpone(after=60), Postpone(after=1)]
    done: list[int] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        if raising:
            raise raising.pop(0)
        done.append(delivery.attempt)

    async with running_remote_bus(server, clock, retry_delay="60s", retry_max_delay="60s") as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        await bus.publish(HAPPENED, happened())
        group = group_of(server)
        for _ in range(2):
            await until(lambda: group.parked, "it was handed back")
            server.due()
            await until(lambda: not group.parked, "it comes again")
        await clock.run(bus.drain())
        assert done == [2]
        assert state_of(bus).retried == 1


async def test_held_attempts_are_noted(server: Server) -> None:
    """The adapter is told of each attempt that is held, so that a crash does not forget it."""
    clock = VirtualClock()

    async def handler(event: Happened) -> None:
        raise ValueError("no")

    async with running_remote_bus(server, clock, retry_delay="1s") as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        await bus.publish(HAPPENED, happened())
        group = group_of(server)
        await until(lambda: group.owned and group.owned[0].attempt == 2)
        server.kill(server.consumers[0])
        assert [each.error for each in group.ready[0].history] == ["ValueError: no"]
        await bus.close(0)


async def test_notes_do_not_pile_up(server: Server) -> None:
    """While the adapter does not answer, only the latest note of each held message waits for it."""
    clock = VirtualClock()
    begun = 0

    async def handler(event: Happened) -> None:
        nonlocal begun
        begun += 1
        raise Postpone(after=1)

    async with running_remote_bus(server, clock) as bus:
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def held_up(argument: object) -> None:
            await gate

        server.faults["settle"] = held_up
        await bus.publish(HAPPENED, happened())
        await until(lambda: begun)
        await clock.advance(100)
        assert begun > 50
        server.faults.clear()
        gate.set_result(None)
        await clock.settle()
        outcomes = [outcomes for call, outcomes in server.calls if call == "settle"]
        assert [len(each) for each in outcomes] == [1, 1]
        await bus.close(0)
