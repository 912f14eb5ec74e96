"""Publishing to an adapter outside of the process: batches, failures, time limits, callers that give up."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    BaseEvent,
    BusClosed,
    Delivery,
    Envelope,
    Event,
    EventTypeMismatch,
    Handler,
    HealthStatus,
    InvalidTopic,
    Message,
    Middleware,
    PublishFailed,
    PublishManyError,
    PublishUncertain,
    Topic,
    WrongEventLoop,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, until
from support.inline_plugins import middleware_plugin
from support.remote import Server, make_remote_bus, running_remote_bus


class Gate:
    """A call of the server that does not return before it is told to."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.waiting: list[asyncio.Future[None]] = []
        self.is_open = False

    async def __call__(self, argument: object) -> Any:
        if not self.is_open:
            waiter = asyncio.get_running_loop().create_future()
            self.waiting.append(waiter)
            await waiter
        return self.answer(argument) if callable(self.answer) else self.answer

    def open(self) -> None:
        self.is_open = True
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)


def batches(server: Server) -> list[list[int]]:
    """The numbers of the events of each batch that reached the server, in order."""
    return [[number_of(each) for each in messages] for call, messages in server.calls if call == "publish"]


def number_of(message: Message) -> int:
    return int(message.body.split(b'"number":')[1].split(b"}")[0].split(b",")[0])


def stored(server: Server) -> list[int]:
    return [number_of(message) for message in server.log]


def refuse(*numbers: int, transient: bool = True) -> Any:
    """Stores what is not refused, as a server does that has trouble with some topics only."""

    def answer(server: Server, messages: Sequence[Message]) -> list[PublishFailed | None]:
        results: list[PublishFailed | None] = []
        for message in messages:
            if number_of(message) in numbers:
                results.append(PublishFailed("not now", transient=transient))
            else:
                server.store(message)
                results.append(None)
        return results

    return answer


@pytest.fixture
def server() -> Server:
    return Server()


# --- batches ----------------------------------------------------------------------------------------------


async def test_concurrent_publishes_share_batches(server: Server) -> None:
    """Events published while a batch is under way go with the next one, in the order of the calls."""
    gate = server.faults["publish"] = Gate()
    async with running_remote_bus(server) as bus:
        first = asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))
        await until(lambda: gate.waiting)
        rest = [asyncio.ensure_future(bus.publish(HAPPENED, happened(n))) for n in range(1, 50)]
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, *rest)
    assert batches(server) == [[0], [*range(1, 50)]]


async def test_batches_are_bounded(server: Server) -> None:
    """No batch holds more than a thousand messages."""
    async with running_remote_bus(server) as bus:
        await asyncio.gather(*(bus.publish(HAPPENED, happened(n)) for n in range(2500)))
    assert [len(batch) for batch in batches(server)] == [1000, 1000, 500]
    assert stored(server) == [*range(2500)]


async def test_batches_are_bounded_in_bytes(server: Server) -> None:
    """Large events go in several batches, so that callers hear soon; one event may exceed them."""
    padding = {"padding": "x" * 300_000}
    events = [
        Happened(aggregate_id=uuid4(), number=n, metadata=padding if n < 5 else {"padding": "x" * 1_040_000})
        for n in range(7)
    ]
    async with running_remote_bus(server) as bus:
        await asyncio.gather(*(bus.publish(HAPPENED, event) for event in events))
    assert batches(server) == [[0, 1, 2, 3], [4, 5], [6]]


async def test_what_is_tried_again_is_bounded_in_bytes(server: Server) -> None:
    """Batches of what failed before are bounded like others."""
    clock = VirtualClock()
    padding = {"padding": "x" * 600_000}
    server.faults["publish"] = lambda messages: refuse(0, 1, 2, 3)(server, messages)
    async with running_remote_bus(server, clock) as bus:
        tasks = [
            asyncio.ensure_future(
                bus.publish(HAPPENED, Happened(aggregate_id=uuid4(), number=n, metadata=padding))
            )
            for n in range(4)
        ]
        await clock.settle()
        server.calls.clear()
        server.faults.clear()
        await clock.advance(2)
        await asyncio.gather(*tasks)
    assert batches(server) == [[0, 1], [2, 3]]
    assert stored(server) == [0, 1, 2, 3]


async def test_publishes_run_in_no_callers_context(server: Server) -> None:
    """The adapter is called in a context of its own, and not in that of whoever published first."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[str] = []
    server.faults["publish"] = lambda _: seen.append(variable.get())
    async with running_remote_bus(server) as bus:
        variable.set("of the caller")
        await bus.publish(HAPPENED, happened())
    assert seen == ["unset"]


# --- callers that give up ---------------------------------------------------------------------------------


async def test_cancelled_before_it_was_sent(server: Server) -> None:
    """A caller that is cancelled while its message waits takes it back, and the others are stored."""
    gate = server.faults["publish"] = Gate()
    async with running_remote_bus(server) as bus:
        tasks = [asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))]
        await until(lambda: gate.waiting)
        tasks += [asyncio.ensure_future(bus.publish(HAPPENED, happened(n))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0)
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [
        type(None),
        type(None),
        asyncio.CancelledError,
        type(None),
    ]
    assert stored(server) == [0, 1, 3]


async def test_cancelled_while_it_is_sent(server: Server) -> None:
    """A caller that is cancelled while its batch is under way does not end the batch."""
    gate = server.faults["publish"] = Gate()
    async with running_remote_bus(server) as bus:
        tasks = [asyncio.ensure_future(bus.publish(HAPPENED, happened(n))) for n in range(3)]
        await until(lambda: gate.waiting)
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert not tasks[0].done()
        assert not tasks[2].done()
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None)]
    assert stored(server) == [0, 1, 2]


async def test_cancelled_while_it_is_tried_again(server: Server) -> None:
    """A caller that is cancelled between two tries takes its message back."""
    clock = VirtualClock()
    server.faults["publish"] = lambda messages: refuse(0, 1)(server, messages)
    async with running_remote_bus(server, clock) as bus:
        tasks = [asyncio.ensure_future(bus.publish(HAPPENED, happened(n))) for n in range(2)]
        await clock.settle()
        tasks[0].cancel()
        server.faults.clear()
        await clock.advance(1)
        assert isinstance((await asyncio.gather(*tasks, return_exceptions=True))[0], asyncio.CancelledError)
    assert stored(server) == [1]


async def test_first_caller_is_cancelled(server: Server) -> None:
    """The caller whose publish began the sending is nobody special: others are sent when it is cancelled."""
    async with running_remote_bus(server) as bus:
        first = asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))
        second = asyncio.ensure_future(bus.publish(HAPPENED, happened(1)))
        await asyncio.sleep(0)
        first.cancel()
        await second
    assert stored(server)[-1:] == [1]


async def test_all_tasks_are_cancelled(server: Server) -> None:
    """When a program cancels every task there is, callers get an answer, and the next publish works."""
    gate = server.faults["publish"] = Gate()
    async with running_remote_bus(server) as bus:
        publishing = asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))
        await until(lambda: gate.waiting)
        for task in asyncio.all_tasks() - {asyncio.current_task(), publishing}:
            task.cancel()
        with pytest.raises(PublishUncertain, match="ended by CancelledError before the adapter answered"):
            await publishing
        server.faults.clear()
        await bus.publish(HAPPENED, happened(1))
    assert stored(server) == [1]


# --- failures ---------------------------------------------------------------------------------------------


async def test_definite_failure_is_raised(server: Server) -> None:
    """A failure that is not transient is raised at once, for its message and for no other."""
    server.faults["publish"] = lambda messages: refuse(1, transient=False)(server, messages)
    async with running_remote_bus(server) as bus:
        results = await asyncio.gather(
            *(bus.publish(HAPPENED, happened(n)) for n in range(3)), return_exceptions=True
        )
    assert [type(result) for result in results] == [type(None), PublishFailed, type(None)]
    assert stored(server) == [0, 2]


async def test_transient_failure_is_tried_again(server: Server) -> None:
    """A transient failure is tried again with growing pauses until it succeeds; the caller sees nothing."""
    clock = VirtualClock()
    tries: list[float] = []

    def fail_three_times(_: object) -> list[PublishFailed] | None:
        tries.append(clock.monotonic())
        return [PublishFailed("not now", transient=True)] if len(tries) <= 3 else None

    server.faults["publish"] = fail_three_times
    async with running_remote_bus(server, clock) as bus:
        await clock.run(bus.publish(HAPPENED, happened()))
    assert tries == pytest.approx([0, 0.05, 0.15, 0.35])
    assert stored(server) == [0]


async def test_transient_failure_ends_with_the_timeout(server: Server) -> None:
    """When publish_timeout is over the caller gets PublishFailed with the last cause; nothing is sent on."""
    clock = VirtualClock()
    server.faults["publish"] = lambda messages: refuse(0)(server, messages)
    async with running_remote_bus(server, clock, publish_timeout="3s") as bus:
        with pytest.raises(PublishFailed, match=r"within publish_timeout \(3 s\); last: not now") as caught:
            await clock.run(bus.publish(HAPPENED, happened()))
        assert clock.monotonic() == pytest.approx(3)
        assert isinstance(caught.value.__cause__, PublishFailed)
        server.faults.clear()
        await clock.advance(10)
        assert stored(server) == []
        assert clock.timers == []
        await bus.publish(HAPPENED, happened(1))  # and the next one goes through
    assert stored(server) == [1]


async def test_part_of_a_batch_fails(server: Server) -> None:
    """While some messages are tried again, others are neither held up nor sent twice."""
    clock = VirtualClock()
    server.faults["publish"] = lambda messages: refuse(1)(server, messages)
    async with running_remote_bus(server, clock, publish_timeout="10s") as bus:
        tasks = [asyncio.ensure_future(bus.publish(HAPPENED, happened(n))) for n in range(3)]
        await clock.settle()
        assert [task.done() for task in tasks] == [True, False, True]
        await clock.run(bus.publish(HAPPENED, happened(3)))
        assert clock.monotonic() == 0  # it did not wait for the pause of the other
        server.faults.clear()
        await clock.run(tasks[1])
    assert stored(server) == [0, 2, 3, 1]


async def test_nothing_gets_through(server: Server) -> None:
    """While the server refuses everything, publishes wait together, and it is tried once per pause."""
    clock = VirtualClock()
    server.faults["publish"] = lambda messages: refuse(*range(100))(server, messages)
    async with running_remote_bus(server, clock, publish_timeout="20s") as bus:
        tasks = [asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))]
        for number in range(1, 51):
            await clock.advance(0.1)
            tasks.append(asyncio.ensure_future(bus.publish(HAPPENED, happened(number))))
        assert len(batches(server)) <= 10  # within 5 s
        problem = (await bus.health()).checks["bus"]
        assert problem.status is HealthStatus.DEGRADED
        assert "'remote' refuses" in problem.summary
        assert "PublishFailed" in problem.summary
        server.faults.clear()
        await clock.run(asyncio.gather(*tasks))
        assert (await bus.health()).checks["bus"].status is HealthStatus.HEALTHY
    assert sorted(stored(server)) == [*range(51)]


async def test_no_answer(server: Server) -> None:
    """When the adapter does not answer in time the event may be stored, and the caller is told so."""
    clock = VirtualClock()
    gate = server.faults["publish"] = Gate()
    async with running_remote_bus(server, clock, publish_timeout="2s") as bus:
        publishing = asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))
        await clock.advance(1)
        behind = asyncio.ensure_future(bus.publish(HAPPENED, happened(1)))
        await clock.advance(1)
        with pytest.raises(PublishUncertain, match=r"did not answer within publish_timeout \(2 s\)"):
            await publishing
        await clock.advance(1)
        with pytest.raises(PublishFailed, match="could not be sent within publish_timeout"):
            await behind
        gate.open()
        await clock.settle()
        await bus.publish(HAPPENED, happened(2))
    assert stored(server) == [0, 2]


async def test_publish_behind_a_call_that_hangs(server: Server) -> None:
    """A publish that begins when all others have given up on a call that hangs has its own time limit."""
    clock = VirtualClock()
    gate = server.faults["publish"] = Gate()
    async with running_remote_bus(server, clock, publish_timeout="2s") as bus:
        first = asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))
        await clock.advance(5)
        assert isinstance(first.exception(), PublishUncertain)
        assert clock.timers == []
        second = asyncio.ensure_future(bus.publish(HAPPENED, happened(1)))
        await clock.advance(2)
        assert isinstance(second.exception(), PublishFailed)
        gate.open()
        await clock.settle()
    assert stored(server) == [0]


def raise_runtime_error(_: object) -> Any:
    raise RuntimeError("secret")


async def test_cancelled_before_the_first_step(server: Server) -> None:
    """When what sends is cancelled before it has begun, callers get an answer, and the next publish works."""
    async with running_remote_bus(server) as bus:
        publishing = asyncio.ensure_future(bus.publish(HAPPENED, happened(1)))
        await asyncio.sleep(0)
        (sending,) = (task for task in asyncio.all_tasks() if task.get_name() == "promenade-publish")
        sending.cancel()
        with pytest.raises(PublishFailed, match="sending was ended by CancelledError before it was sent"):
            await publishing
        assert batches(server) == []
        await bus.publish(HAPPENED, happened(2))
        assert stored(server) == [2]


def raise_cancelled(_: object) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (raise_runtime_error, RuntimeError),
        (raise_cancelled, asyncio.CancelledError),
        (lambda _: 7, TypeError),
        (lambda messages: [None] * (len(messages) + 1), RuntimeError),
        (lambda _: [], RuntimeError),
        (lambda messages: [True for _ in messages], TypeError),
        (lambda messages: [ValueError("x") for _ in messages], ValueError),
    ],
)
async def test_adapter_breaks_the_contract(server: Server, fault: Any, cause: type[BaseException]) -> None:
    """Any behaviour other than returning results is uncertain for each caller, and stops nothing."""
    server.faults["publish"] = fault
    async with running_remote_bus(server) as bus:
        results = await asyncio.gather(
            *(bus.publish(HAPPENED, happened(n)) for n in range(2)), return_exceptions=True
        )
        assert [type(result) for result in results] == [PublishUncertain, PublishUncertain]
        assert [type(result.__cause__) for result in results if isinstance(result, Exception)] == [cause] * 2
        server.faults.clear()
        await bus.publish(HAPPENED, happened(2))
    assert stored(server) == [2]


async def test_log_is_bounded_while_publishing_fails(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """An adapter that raises at every publish is reported once, and without the text of its error."""
    server.faults["publish"] = raise_runtime_error
    async with running_remote_bus(server) as bus:
        for number in range(100):
            with pytest.raises(PublishUncertain):
                await bus.publish(HAPPENED, happened(number))
        server.faults.clear()
        await bus.publish(HAPPENED, happened())
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2, lines
    assert lines[0].startswith("the adapter 'remote' cannot tell what came of a publish: RuntimeError at ")
    assert lines[1] == "the adapter 'remote' works again"
    assert "secret" not in caplog.text


# --- all ways of publishing -------------------------------------------------------------------------------


def passes(following: Handler) -> Handler:
    """A middleware that does nothing."""

    async def handler(envelope: Envelope) -> None:
        await following(envelope)

    return handler


def waits(following: Handler) -> Handler:
    """A middleware that keeps some events waiting before and after they are handed over."""

    async def handler(envelope: Envelope) -> None:
        for _ in range(envelope.event.number % 3):  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        await following(envelope)
        await asyncio.sleep(0)

    return handler


def through(middleware: Middleware) -> dict[str, Any]:
    """The arguments of a bus that publishes through a middleware."""
    return {"plugins": [middleware_plugin(chosen=middleware)], "middleware": {"publish": ["chosen"]}}


WAYS = [
    pytest.param({}, id="no middleware"),
    pytest.param(through(passes), id="a middleware"),
    pytest.param(through(waits), id="one that waits"),
]
ways = pytest.mark.parametrize("way", WAYS)


@ways
async def test_publish_many_tells_each_result(server: Server, way: dict[str, Any]) -> None:
    """`publish_many` tries every item in order, and its error has the result of each."""
    server.faults["publish"] = lambda messages: refuse(1, transient=False)(server, messages)
    async with running_remote_bus(server, **way) as bus:
        with pytest.raises(PublishManyError) as caught:
            await bus.publish_many([(HAPPENED, happened(n)) for n in range(3)])
    assert [type(result) for result in caught.value.results] == [type(None), PublishFailed, type(None)]
    assert stored(server) == [0, 2]


@pytest.mark.parametrize("way", WAYS[:2])
async def test_publish_many_shares_batches(server: Server, way: dict[str, Any]) -> None:
    """Events of `publish_many` reach the adapter in order, in few batches, from any kind of iterable."""
    async with running_remote_bus(server, **way) as bus:
        await bus.publish_many((HAPPENED, happened(n)) for n in range(2500))
        assert bus.published() == {HAPPENED.name: 2500}
    assert stored(server) == [*range(2500)]
    assert len(batches(server)) <= 5


@pytest.mark.parametrize("way", WAYS[:2])
async def test_publish_many_on_new_topics_shares_batches(server: Server, way: dict[str, Any]) -> None:
    """The first events of many topics go together like the later ones."""
    topics = [Topic(f"test.topic{number}.used", Happened) for number in range(500)]
    async with running_remote_bus(server, **way) as bus:
        await bus.publish_many((topic, happened(n)) for n, topic in enumerate(topics))
    assert stored(server) == [*range(500)]
    assert len(batches(server)) <= 2


@ways
async def test_publish_many_with_bad_items_between(server: Server, way: dict[str, Any]) -> None:
    """An event that cannot be published has its error, and all others are stored in order."""
    items: list[Any] = [
        (HAPPENED, happened(0)),
        (HAPPENED, BaseEvent("other", happened().aggregate_id)),
        ([], happened(1)),
        (HAPPENED, happened(2)),
        ("test.thing.happened", happened(3)),
    ]
    async with running_remote_bus(server, **way) as bus:
        await bus.publish(HAPPENED, happened(-1))
        with pytest.raises(PublishManyError) as caught:
            await bus.publish_many(items)
    kinds = [type(result) for result in caught.value.results]
    assert kinds == [type(None), EventTypeMismatch, InvalidTopic, type(None), type(None)]
    assert stored(server) == [-1, 0, 2, 3]


@ways
async def test_publish_many_of_items_that_fail_to_come(server: Server, way: dict[str, Any]) -> None:
    """When the items themselves raise, those before are published, and the caller gets that error."""

    def items() -> Any:
        yield HAPPENED, happened(1)
        yield HAPPENED, happened(2)
        raise ZeroDivisionError

    async with running_remote_bus(server, **way) as bus:
        await bus.publish(HAPPENED, happened(0))
        with pytest.raises(ZeroDivisionError):
            await bus.publish_many(items())
        assert stored(server) == [0, 1, 2]


@ways
async def test_a_cancelled_publish_many_takes_back_what_was_not_sent(
    server: Server, way: dict[str, Any]
) -> None:
    """Cancelling it ends it at once; what is under way is sent, and what waits behind it is not."""
    gate = Gate()
    async with running_remote_bus(server, **way) as bus:
        await bus.publish(HAPPENED, happened(0))
        server.faults["publish"] = gate
        first = asyncio.create_task(bus.publish(HAPPENED, happened(1)))
        await until(lambda: len(gate.waiting) == 1)
        many = asyncio.create_task(bus.publish_many([(HAPPENED, happened(n)) for n in (2, 3)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        gate.open()
        await first
        await bus.publish(HAPPENED, happened(4))
        assert stored(server) == [0, 1, 4]
        assert bus.published() == {HAPPENED.name: 3}


async def test_publish_many_keeps_the_order_of_what_waits(server: Server) -> None:
    """A middleware that waits for some events lets no later event overtake them, in no block either."""
    async with running_remote_bus(server, **through(waits)) as bus:
        await bus.publish_many((HAPPENED, happened(n)) for n in range(50))
        async with bus.after_commit():
            for number in range(50, 100):
                await bus.publish(HAPPENED, happened(number))
    assert stored(server) == [*range(100)]


async def test_publish_many_through_a_lock(server: Server) -> None:
    """A middleware that lets one event pass after the other, that drops some and fails for some."""
    lock = asyncio.Lock()
    inside: list[int] = []

    def chosen(following: Handler) -> Handler:
        async def handler(envelope: Envelope) -> None:
            number = envelope.event.number  # type: ignore[attr-defined]
            async with lock:
                if number % 4 == 1:
                    return
                if number % 4 == 2:
                    raise ZeroDivisionError
                inside.append(number)
                await following(envelope)

        return handler

    async with running_remote_bus(server, **through(chosen)) as bus:
        with pytest.raises(PublishManyError) as caught:
            await asyncio.wait_for(bus.publish_many((HAPPENED, happened(n)) for n in range(20)), 30)
    assert stored(server) == inside == [n for n in range(20) if n % 4 in (0, 3)]
    failed = [n for n, result in enumerate(caught.value.results) if isinstance(result, ZeroDivisionError)]
    assert failed == [n for n in range(20) if n % 4 == 2]


async def test_publish_many_through_a_middleware_that_publishes(server: Server) -> None:
    """An event that a middleware publishes by itself is not taken for the one it was called with."""

    def chosen(following: Handler) -> Handler:
        async def handler(envelope: Envelope) -> None:
            number = envelope.event.number  # type: ignore[attr-defined]
            if number < 100:
                await bus.publish(HAPPENED, happened(number + 100))
                await asyncio.sleep(0)
            await following(envelope)

        return handler

    async with running_remote_bus(server, **through(chosen)) as bus:
        await bus.publish_many((HAPPENED, happened(n)) for n in range(5))
    assert stored(server) == [100, 0, 101, 1, 102, 2, 103, 3, 104, 4]


async def test_a_cancelled_publish_many_ends_its_middleware(server: Server) -> None:
    """When the caller gets the cancellation no middleware is running any more."""
    left: list[int] = []

    def chosen(following: Handler) -> Handler:
        async def handler(envelope: Envelope) -> None:
            try:
                await following(envelope)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                left.append(envelope.event.number)  # type: ignore[attr-defined]
                raise

        return handler

    server.faults["publish"] = Gate()
    async with running_remote_bus(server, **through(chosen)) as bus:
        many = asyncio.create_task(bus.publish_many([(HAPPENED, happened(n)) for n in range(3)]))
        await until(lambda: len(server.calls) > 0)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        assert left == [0, 1, 2]
        server.faults.clear()
        await bus.close(0)


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_cancelled_publish_many_sends_nothing_more(
    server: Server, caplog: pytest.LogCaptureFixture, cancels: int
) -> None:
    """Not even while its middleware cleans up, however often the caller is cancelled; no error is logged."""
    gate, running = Gate(), set[int]()

    def chosen(following: Handler) -> Handler:
        async def handler(envelope: Envelope) -> None:
            number = envelope.event.number  # type: ignore[attr-defined]
            running.add(number)
            try:
                if number:
                    await asyncio.sleep(0)
                await following(envelope)
            except asyncio.CancelledError:
                for _ in range(5):
                    await asyncio.sleep(0)
                raise ZeroDivisionError from None
            finally:
                running.discard(number)

        return handler

    server.faults["publish"] = gate
    async with running_remote_bus(server, **through(chosen)) as bus:
        many = asyncio.create_task(bus.publish_many([(HAPPENED, happened(n)) for n in range(20)]))
        await until(lambda: len(gate.waiting) == 1)
        for _ in range(cancels):
            many.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await many
        assert running == set()
        gate.open()
        server.faults.clear()
        await bus.publish(HAPPENED, happened(100))
    sent = [number for batch in batches(server) for number in batch]
    assert sent == [0, 100]
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_close_while_the_middleware_of_publish_many_waits(server: Server) -> None:
    """A middleware is called with no event once the bus is closed, and each event has its result."""
    go_on, called = asyncio.Event(), list[int]()

    def chosen(following: Handler) -> Handler:
        async def handler(envelope: Envelope) -> None:
            called.append(envelope.event.number)  # type: ignore[attr-defined]
            await go_on.wait()
            await following(envelope)

        return handler

    async with running_remote_bus(server, **through(chosen)) as bus:
        many = asyncio.create_task(bus.publish_many([(HAPPENED, happened(n)) for n in range(5)]))
        await until(lambda: called == [0])
        await bus.close(0)
        go_on.set()
        with pytest.raises(PublishManyError) as caught:
            await many
    assert called == [0]
    assert [type(result) for result in caught.value.results] == [BusClosed] * 5


async def test_a_middleware_that_hands_over_in_its_own_way(server: Server) -> None:
    """One that calls the handler again, or with another envelope, has no effect on other events."""

    def chosen(following: Handler) -> Handler:
        async def handler(envelope: Envelope) -> None:
            number = envelope.event.number  # type: ignore[attr-defined]
            if number == 1:
                await following(Envelope(envelope.topic, happened(101), {}))
            else:
                await following(envelope)
                if number == 2:
                    await following(envelope)

        return handler

    async with running_remote_bus(server, **through(chosen)) as bus:
        await bus.publish_many((HAPPENED, happened(n)) for n in range(5))
        assert bus.published() == {HAPPENED.name: 6}
    assert sorted(stored(server)) == [0, 2, 2, 3, 4, 101]
    assert stored(server)[:3] == [0, 101, 2]


@pytest.mark.parametrize("way", WAYS)
async def test_publish_many_has_a_bound(server: Server, way: dict[str, Any]) -> None:
    """Items are taken as the adapter takes events, and not all at once."""
    gate = Gate()
    taken: list[int] = []

    def items() -> Any:
        for number in range(5000):
            taken.append(number)
            yield HAPPENED, happened(number)

    server.faults["publish"] = gate
    async with running_remote_bus(server, **way) as bus:
        many = asyncio.create_task(bus.publish_many(items()))
        await until(lambda: len(gate.waiting) == 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(taken) == (500 if way else 2000)
        server.faults.clear()
        gate.open()
        await many
        assert bus.published() == {HAPPENED.name: 5000}


@ways
async def test_publish_many_waits_for_an_opening_subscription(server: Server, way: dict[str, Any]) -> None:
    """None of its events is missed by a subscription of the same bus that is still being opened."""
    seen: list[int] = []

    async def handler(event: Happened) -> None:
        seen.append(event.number)

    async with running_remote_bus(server, **way) as bus:
        await bus.publish(HAPPENED, happened(0))
        bus.subscribe(HAPPENED, handler, name="late", start="latest")
        await bus.publish_many([(HAPPENED, happened(n)) for n in (1, 2, 3)])
        await bus.drain()
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("way", WAYS[:2])
async def test_after_commit_shares_batches(server: Server, way: dict[str, Any]) -> None:
    """Events of a block leave in order, and not one by one."""
    async with running_remote_bus(server, **way) as bus:
        await bus.publish(HAPPENED, happened(0))
        before = len(batches(server))
        async with bus.after_commit():
            for number in range(1, 51):
                await bus.publish(HAPPENED, happened(number))
        assert len(batches(server)) - before <= 3
    assert stored(server) == [*range(51)]


@pytest.mark.parametrize("known", [False, True], ids=["new topic", "known topic"])
async def test_after_commit_holds_many(server: Server, known: bool) -> None:
    """Events of `publish_many` in a block are held by it, and dropped with it."""
    async with running_remote_bus(server) as bus:
        if known:
            await bus.publish(HAPPENED, happened(0))
        before = stored(server)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what raises
            async with bus.after_commit():
                await bus.publish_many((HAPPENED, happened(n)) for n in range(1, 4))
                raise ZeroDivisionError
        assert stored(server) == before
        async with bus.after_commit():
            await bus.publish_many((HAPPENED, happened(n)) for n in range(4, 7))
            assert stored(server) == before
        assert stored(server) == [*before, 4, 5, 6]


async def test_after_commit(server: Server) -> None:
    """Events of a block are sent when it ends well, and dropped when it raises."""
    async with running_remote_bus(server) as bus:
        await bus.publish(HAPPENED, happened(0))  # so that the short way exists
        async with bus.after_commit():
            await bus.publish(HAPPENED, happened(1))
            assert stored(server) == [0]
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what raises
            async with bus.after_commit():
                await bus.publish(HAPPENED, happened(2))
                raise ZeroDivisionError
        await bus.publish(HAPPENED, happened(3))
    assert stored(server) == [0, 1, 3]


async def test_headers_and_short_way(server: Server) -> None:
    """Headers arrive with their event, by the long way; events without any go by the short one between."""
    seen: list[tuple[int, dict[str, str]]] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        seen.append((event.number, dict(delivery.headers)))

    async with running_remote_bus(server) as bus:
        bus.subscribe(HAPPENED, handler, name="h")
        await bus.publish(HAPPENED, happened(0))
        await bus.publish(HAPPENED, happened(1), headers={"a": "b"})
        await bus.publish(HAPPENED, happened(2))
        await bus.publish("test.thing.happened", happened(3))
        await bus.drain()
        assert bus.published() == {HAPPENED.name: 4}
        assert bus.state().published == 4
    assert seen == [(0, {}), (1, {"a": "b"}), (2, {}), (3, {})]


async def test_publish_middleware(server: Server) -> None:
    """Publish middleware runs around each event, and what it replaces is what is stored."""

    def middleware(following: Handler) -> Handler:
        async def handle(envelope: Envelope) -> None:
            assert isinstance(envelope.event, Happened)
            envelope.event = happened(envelope.event.number + 10)
            envelope.headers["by"] = "middleware"
            await following(envelope)

        return handle

    bus = make_remote_bus(
        server, plugins=[middleware_plugin(add=middleware)], middleware={"publish": ["add"]}
    )
    async with bus:
        for number in range(3):
            await bus.publish(HAPPENED, happened(number))
    assert stored(server) == [10, 11, 12]
    assert {message.headers["by"] for message in server.log} == {"middleware"}


async def test_what_cannot_be_published_is_refused(server: Server) -> None:
    """The short way has all the checks of the long one."""
    async with running_remote_bus(server) as bus:
        await bus.publish(HAPPENED, happened(0))
        for wrong in (Event, BaseEvent("thing.happened", happened().aggregate_id), None):
            with pytest.raises(EventTypeMismatch):
                await bus.publish(HAPPENED, wrong)  # type: ignore[type-var]
        with pytest.raises(InvalidTopic):
            await bus.publish([], happened(1))  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            await bus.publish(HAPPENED, happened(1), headers={"a": 1})  # type: ignore[dict-item]
        loop = asyncio.get_running_loop()

        def elsewhere() -> None:
            with pytest.raises(WrongEventLoop):
                asyncio.run(bus.publish(HAPPENED, happened(1)))

        await loop.run_in_executor(None, elsewhere)
    with pytest.raises(BusClosed):
        await bus.publish(HAPPENED, happened(2))
    assert stored(server) == [0]


async def test_handlers_publish(server: Server) -> None:
    """A handler publishes like anybody, also while the bus is closing, and a drain waits for what follows."""
    seen: list[int] = []
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def first(event: Happened) -> None:
        begun.set()
        await go_on.wait()
        await bus.publish(OTHER, happened(event.number + 1))

    async def second(event: Happened) -> None:
        seen.append(event.number)

    bus = make_remote_bus(server)
    bus.subscribe(HAPPENED, first, name="first")
    bus.subscribe(OTHER, second, name="second")
    await bus.start()
    await bus.publish(HAPPENED, happened(1))
    await begun.wait()
    draining = asyncio.ensure_future(bus.drain())
    go_on.set()
    await draining
    assert seen == [2]
    go_on.clear()
    begun.clear()
    await bus.publish(HAPPENED, happened(3))
    await begun.wait()
    closing = asyncio.ensure_future(bus.close(5))
    await until(lambda: bus.status == "closing")
    go_on.set()
    assert (await closing).completed
    assert stored(server) == [1, 2, 3, 4]


async def test_publishes_wait_for_subscriptions_that_open(server: Server) -> None:
    """A publish waits for the subscriptions of its bus that are opening, and not for one that failed to."""
    gate = server.faults["open"] = Gate()
    async with running_remote_bus(server) as bus:
        bus.subscribe(HAPPENED, _ignore, name="h")
        publishing = asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))
        await until(lambda: gate.waiting)
        assert not publishing.done()
        assert stored(server) == []
        gate.open()
        await publishing

        server.faults["open"] = raise_runtime_error
        bus.subscribe(OTHER, _ignore, name="broken")
        await bus.publish(OTHER, happened(1))
        assert stored(server) == [0, 1]


async def test_subscription_that_never_opens(server: Server) -> None:
    """A publish waits for a subscription that hangs in opening until publish_timeout; nothing was sent."""
    clock = VirtualClock()
    gate = server.faults["open"] = Gate()
    async with running_remote_bus(server, clock, publish_timeout="2s") as bus:
        subscription = bus.subscribe(HAPPENED, _ignore, name="h")
        with pytest.raises(PublishFailed, match="'h' of this bus, which would miss the event, was not open"):
            await clock.run(bus.publish(HAPPENED, happened(0)))
        assert clock.monotonic() == 2
        leaving = asyncio.ensure_future(subscription.unsubscribe())
        await clock.settle()
        await bus.publish(HAPPENED, happened(1))  # nobody waits for one that was given up
        gate.open()
        await leaving
    assert stored(server) == [1]


async def test_close_ends_what_is_tried_again(server: Server) -> None:
    """Closing tries what waits once more, and tells callers what came of it, without waiting for pauses."""
    server.faults["publish"] = lambda messages: refuse(0, 1)(server, messages)
    bus = make_remote_bus(server)
    await bus.start()
    tasks = [asyncio.ensure_future(bus.publish(HAPPENED, happened(n))) for n in range(2)]
    await until(lambda: len(batches(server)) >= 4)
    began = time.monotonic()
    report = await bus.close(60)
    assert time.monotonic() - began < 30
    assert report.completed
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [PublishFailed, PublishFailed]


async def test_close_while_a_publish_hangs(server: Server) -> None:
    """Callers of a publish that hangs are told when the bus is closed, which does not wait for long."""
    server.faults["publish"] = Gate()
    bus = make_remote_bus(server)
    await bus.start()
    sent = asyncio.ensure_future(bus.publish(HAPPENED, happened(0)))
    await until(lambda: batches(server))
    waiting = asyncio.ensure_future(bus.publish(HAPPENED, happened(1)))
    await asyncio.sleep(0)
    began = time.monotonic()
    await bus.close(0.1)
    assert time.monotonic() - began < 0.1 + 5
    with pytest.raises(PublishUncertain, match="the bus was closed before the adapter answered"):
        await sent
    with pytest.raises(PublishFailed, match="the bus was closed before it was sent"):
        await waiting


async def _ignore(event: Happened) -> None:
    pass
