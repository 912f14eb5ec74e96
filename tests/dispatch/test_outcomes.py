from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from bus_core import (
    Bus,
    Delivery,
    DeserializationError,
    FixedRetry,
    HandlerTimeout,
    NoRetry,
    PermanentError,
    Postpone,
    RetryLater,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, running_bus, state_of

pytestmark = pytest.mark.timeout(30)

LANES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "bounded": {"concurrency": 1},
    "timed": {"timeout": 3600},
    "selective": {"where": lambda event: True},
    "broadcast": {"mode": "broadcast"},
}
every_lane = pytest.mark.parametrize("options", LANES.values(), ids=LANES)
either_way = pytest.mark.parametrize(
    "memory", [{"serialize": False}, {"serialize": True}], ids=["objects", "serialized"]
)


def unheard_of(text: str) -> BaseException:
    return type("UnheardOf", (BaseException,), {})(text)


class Unprintable(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("no"),
    "HandlerTimeout": lambda: HandlerTimeout("another", 3),
    "CancelledError": lambda: asyncio.CancelledError("no"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "GeneratorExit": lambda: GeneratorExit(),
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": lambda: StopAsyncIteration(),
    "RecursionError": lambda: RecursionError(),
    "MemoryError": lambda: MemoryError(),
    "BaseException": lambda: unheard_of("no"),
    "group": lambda: ExceptionGroup("two", [ValueError(), PermanentError("inside of a group")]),
    "group of exits": lambda: BaseExceptionGroup("two", [SystemExit(), KeyboardInterrupt()]),
    "without text": lambda: Unprintable(),
    "surrogates": lambda: ValueError("\ud800"),
}
every_error = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


def repr_short(value: object) -> str:
    return repr(value)[:12]


class Handler:
    """Raises what it is given, one after the other, and then returns; keeps the deliveries."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = [*errors]
        self.seen: list[Delivery] = []

    async def __call__(self, event: Happened, delivery: Delivery) -> None:
        self.seen.append(delivery)
        if self.errors:
            raise self.errors.pop(0)

    @property
    def attempts(self) -> list[int]:
        return [delivery.attempt for delivery in self.seen]


async def settled(bus: Bus) -> None:
    state = bus.state()
    assert state.unsettled == 0
    assert state.lost == 0


@every_lane
@either_way
async def test_returning(
    virtual_clock: VirtualClock, memory: dict[str, Any], options: dict[str, Any]
) -> None:
    """A handler that returns has handled the event, which is not delivered again."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        numbers: list[int] = []

        async def handle(event: Happened) -> None:
            numbers.append(event.number)

        bus.subscribe(HAPPENED, handle, **options)
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.advance(3600)
        assert numbers == [0, 1, 2, 3, 4]
        state = state_of(bus)
        assert (state.handled, state.failed_attempts, state.dead_lettered) == (5, 0, 0)
        await settled(bus)


async def test_result_means_nothing(virtual_clock: VirtualClock) -> None:
    """The bus ignores the result of a handler: the event is handled."""
    async with running_bus(virtual_clock) as bus:

        async def refuse(event: Happened) -> object:
            return False

        async def give_error(event: Happened) -> object:
            return ValueError("returned, not raised")

        bus.subscribe(HAPPENED, refuse)
        bus.subscribe(HAPPENED, give_error)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        assert [state.handled for state in bus.state().subscriptions] == [1, 1]
        await settled(bus)


@every_lane
@either_way
async def test_raising_then_returning(
    virtual_clock: VirtualClock, memory: dict[str, Any], options: dict[str, Any]
) -> None:
    """A handler that raises gets the event again, marked as redelivered and with a counted attempt."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        handler = Handler(ValueError("once"), ValueError("twice"))
        bus.subscribe(HAPPENED, handler, **options)
        event = happened()
        await bus.publish(HAPPENED, event, headers={"trace": "abc"})
        await virtual_clock.advance(1)
        assert handler.attempts == [1, 2, 3]
        assert [delivery.redelivered for delivery in handler.seen] == [False, True, True]
        assert {delivery.message_id for delivery in handler.seen} == {str(event.event_id)}
        assert {delivery.headers["trace"] for delivery in handler.seen} == {"abc"}
        assert len({delivery.published_at for delivery in handler.seen}) == 1
        state = state_of(bus)
        assert (state.handled, state.failed_attempts, state.retried, state.dead_lettered) == (1, 2, 2, 0)
        await settled(bus)


@every_error
@either_way
async def test_error_is_contained(
    virtual_clock: VirtualClock, memory: dict[str, Any], error: Callable[[], BaseException]
) -> None:
    """An error of an async handler affects only its event: it is retried, then dead-lettered."""
    async with running_bus(virtual_clock, memory=memory, worker_pool_size=2) as bus:
        attempts = 0
        others: list[int] = []

        async def fail(event: Happened) -> None:
            nonlocal attempts
            attempts += 1
            raise error()

        async def other(event: Happened) -> None:
            await asyncio.sleep(0)
            others.append(event.number)

        bus.subscribe(HAPPENED, fail, name="fail")
        bus.subscribe(HAPPENED, other, name="other")
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.advance(1)
        assert attempts == 30
        assert sorted(others) == [*range(10)]
        assert state_of(bus, "other").failed_attempts == 0
        letters = await bus.dead_letters.list()
        assert len(letters) == 10
        assert {letter.reason for letter in letters} == {"retries exhausted after 3 attempts"}
        await settled(bus)


@every_error
async def test_error_in_thread_is_contained(
    virtual_clock: VirtualClock, error: Callable[[], BaseException]
) -> None:
    """An error of a synchronous handler affects only its event."""
    async with running_bus(virtual_clock, retry={"policy": "none"}) as bus:
        others: list[int] = []

        def fail(event: Happened) -> None:
            raise error()

        def other(event: Happened) -> None:
            others.append(event.number)

        bus.subscribe(HAPPENED, fail, name="fail")
        bus.subscribe(HAPPENED, other, name="other")
        for number in range(5):
            await bus.publish(HAPPENED, happened(number))
        await bus.drain()
        assert sorted(others) == [*range(5)]
        assert state_of(bus, "fail").dead_lettered == 5
        await settled(bus)


async def test_endless_recursion(virtual_clock: VirtualClock) -> None:
    """A handler that recurses without end fails like any other, and leaves a letter."""
    async with running_bus(virtual_clock) as bus:

        async def recurse(event: Happened) -> None:
            await recurse(event)

        bus.subscribe(HAPPENED, recurse)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(1)
        (letter,) = await bus.dead_letters.list()
        assert [attempt.error.partition(":")[0] for attempt in letter.attempts] == ["RecursionError"] * 3
        await settled(bus)


async def test_awaiting_something_cancelled(virtual_clock: VirtualClock) -> None:
    """A handler that waits for a task which somebody cancels has failed, and is retried."""
    async with running_bus(virtual_clock) as bus:
        awaited: list[asyncio.Task[None]] = []

        async def forever() -> None:
            await asyncio.Event().wait()

        async def handle(event: Happened) -> None:
            task = asyncio.create_task(forever())
            awaited.append(task)
            await task

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened())
        for _ in range(3):
            await virtual_clock.advance(1)
            awaited[-1].cancel()
            await virtual_clock.settle()
        assert len(awaited) == 3
        assert state_of(bus).dead_lettered == 1
        await settled(bus)


async def cancel_and_return(event: Happened) -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]


async def cancel_and_raise(event: Happened) -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    raise ValueError("no")


async def cancel_and_wait(event: Happened) -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.Event().wait()


async def cancel_twice_and_swallow(event: Happened) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task.cancel()


async def cancel_soon(event: Happened) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)


suicidal = pytest.mark.parametrize(
    ("handler", "succeeds"),
    [
        (cancel_and_return, True),
        (cancel_and_raise, False),
        (cancel_and_wait, False),
        (cancel_twice_and_swallow, True),
    ],
)


@suicidal
@every_lane
async def test_cancelling_own_task_touches_nobody_else(
    virtual_clock: VirtualClock, handler: Callable[[Any], Any], succeeds: bool, options: dict[str, Any]
) -> None:
    """A handler that cancels its own task is judged by how it ends, and the next handler runs undisturbed."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        others: list[int] = []

        async def other(event: Happened) -> None:
            await asyncio.sleep(0)
            others.append(event.number)

        bus.subscribe(HAPPENED, handler, name="suicidal", retry=NoRetry(), **options)
        bus.subscribe(OTHER, other, name="other")
        for number in range(10):
            await bus.publish(HAPPENED, happened(number))
            await bus.publish(OTHER, happened(number))
        await virtual_clock.settle()
        await bus.publish(HAPPENED, happened(10))
        await virtual_clock.settle()
        await bus.publish(OTHER, happened(10))
        await virtual_clock.settle()
        assert others == [*range(11)]
        assert state_of(bus, "other").failed_attempts == 0
        state = state_of(bus, "suicidal")
        assert (state.handled, state.dead_lettered) == ((11, 0) if succeeds else (0, 11))
        await settled(bus)


async def test_cancelling_own_task_later_does_not_end_the_worker(virtual_clock: VirtualClock) -> None:
    """A worker that is cancelled while it is idle is not missed: later events are handled."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        bus.subscribe(HAPPENED, cancel_soon)
        for _ in range(3):
            await bus.publish(HAPPENED, happened())
            await virtual_clock.settle()
        assert state_of(bus).handled == 3
        await settled(bus)


async def test_cancelled_between_waking_and_running(virtual_clock: VirtualClock) -> None:
    """A worker that is cancelled after an event has woken it leaves that event to another one."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        tasks: list[asyncio.Task[Any]] = []
        numbers: list[int] = []

        async def handle(event: Happened) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            numbers.append(event.number)

        bus.subscribe(HAPPENED, handle)
        await bus.publish(HAPPENED, happened(0))
        await virtual_clock.settle()
        await bus.publish(HAPPENED, happened(1))
        tasks[0].cancel()
        await virtual_clock.settle()
        assert numbers == [0, 1]
        await settled(bus)


def busy_for(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


@pytest.mark.parametrize("cancel", [cancel_and_return, cancel_soon])
async def test_long_burst_of_cancelling_handlers(
    virtual_clock: VirtualClock, cancel: Callable[[Any], Any]
) -> None:
    """A worker that is cancelled while it gives way to the loop leaves its queue to another one."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:

        async def handle(event: Happened) -> None:
            busy_for(0.0005)
            await cancel(event)

        bus.subscribe(HAPPENED, handle)
        for number in range(40):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        assert state_of(bus).handled == 40
        await settled(bus)


@either_way
async def test_permanent_error(virtual_clock: VirtualClock, memory: dict[str, Any]) -> None:
    """PermanentError, or a subclass, dead-letters at once, with the one attempt."""

    class Hopeless(PermanentError):
        pass

    async with running_bus(virtual_clock, memory=memory) as bus:
        handler = Handler(PermanentError("never"), Hopeless("neither"))
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert handler.attempts == [1, 1]
        letters = await bus.dead_letters.list()
        assert [letter.reason for letter in letters] == ["the handler raised PermanentError"] * 2
        assert [[attempt.error for attempt in letter.attempts] for letter in letters] == [
            ["PermanentError: never"],
            ["Hopeless: neither"],
        ]
        await settled(bus)


async def test_permanent_error_after_retries(virtual_clock: VirtualClock) -> None:
    """PermanentError ends the retries, and the letter tells of every attempt."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler(ValueError("first"), PermanentError("second"))
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
        assert [(attempt.number, attempt.error) for attempt in letter.attempts] == [
            (1, "ValueError: first"),
            (2, "PermanentError: second"),
        ]


@pytest.mark.parametrize("listed", [LookupError, [LookupError], (OSError, LookupError), {LookupError}])
async def test_give_up_on(virtual_clock: VirtualClock, listed: Any) -> None:
    """A type that is listed in give_up_on, or a subclass of it, dead-letters at once; others are retried."""
    async with running_bus(virtual_clock) as bus:
        listed_ones = Handler(KeyError("missing"))
        others = Handler(ValueError("no"))
        bus.subscribe(HAPPENED, listed_ones, name="listed", give_up_on=listed)
        bus.subscribe(HAPPENED, others, name="others", give_up_on=listed)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(1)
        assert listed_ones.attempts == [1]
        assert others.attempts == [1, 2]
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "KeyError is listed in give_up_on"
        await settled(bus)


@pytest.mark.parametrize("listed", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
async def test_give_up_on_what_is_no_exception(
    virtual_clock: VirtualClock, listed: type[BaseException]
) -> None:
    """The classes in give_up_on need not derive from Exception."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler(listed())
        bus.subscribe(HAPPENED, handler, give_up_on=listed)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(1)
        assert handler.attempts == [1]
        assert state_of(bus).dead_lettered == 1


async def test_give_up_on_own_timeout(virtual_clock: VirtualClock) -> None:
    """The timeout of the subscription is a TimeoutError for give_up_on."""
    async with running_bus(virtual_clock) as bus:
        attempts = 0

        async def hang(event: Happened) -> None:
            nonlocal attempts
            attempts += 1
            await asyncio.Event().wait()

        bus.subscribe(HAPPENED, hang, timeout=1, give_up_on=TimeoutError)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert attempts == 1
        assert state_of(bus).dead_lettered == 1


@pytest.mark.parametrize("after", [42, 42.0, timedelta(seconds=42)])
async def test_retry_later(virtual_clock: VirtualClock, after: Any) -> None:
    """RetryLater replaces the delay of the policy for this once, and counts as an attempt."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler(RetryLater(after=after), ValueError("no"))
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(41.9)
        assert handler.attempts == [1]
        await virtual_clock.advance(0.1)
        assert handler.attempts == [1, 2]
        await virtual_clock.advance(0.1)
        assert handler.attempts == [1, 2]
        await virtual_clock.advance(0.1)
        assert handler.attempts == [1, 2, 3]
        assert state_of(bus).failed_attempts == 2
        await settled(bus)


async def test_retry_later_is_bounded(virtual_clock: VirtualClock) -> None:
    """RetryLater is retried as often as the policy allows and no more; then it is a dead letter."""
    async with running_bus(virtual_clock) as bus:
        bounded = Handler(*(RetryLater(f"{n}", after=0) for n in range(10)))
        never = Handler(RetryLater(after=0))
        bus.subscribe(HAPPENED, bounded, name="bounded", retry=FixedRetry(attempts=4, delay=1))
        bus.subscribe(HAPPENED, never, name="never", retry=NoRetry())
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert bounded.attempts == [1, 2, 3, 4]
        assert never.attempts == [1]
        letters = await bus.dead_letters.list(subscription="bounded")
        assert [attempt.error for attempt in letters[0].attempts] == [f"RetryLater: {n}" for n in range(4)]
        await settled(bus)


@either_way
async def test_postpone_is_not_counted(virtual_clock: VirtualClock, memory: dict[str, Any]) -> None:
    """Postpone delivers again after its delay without counting: attempts and history begin after it."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        handler = Handler(*(Postpone(after=60) for _ in range(20)), *(ValueError(f"{n}") for n in range(3)))
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(20 * 60 - 0.1)
        assert handler.attempts == [1] * 20
        assert state_of(bus).failed_attempts == 0
        assert state_of(bus).waiting_retries == 1
        await virtual_clock.advance(60)
        assert handler.attempts == [1] * 21 + [2, 3]
        assert all(delivery.redelivered for delivery in handler.seen[1:])
        (letter,) = await bus.dead_letters.list()
        assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
        assert state_of(bus).retried == 2
        await settled(bus)


async def test_postpone_needs_no_policy(virtual_clock: VirtualClock) -> None:
    """Postpone works where nothing is retried, and between counted attempts."""
    async with running_bus(virtual_clock) as bus:
        handler = Handler(Postpone(after=timedelta(minutes=1)), Postpone(after=0))
        bus.subscribe(HAPPENED, handler, retry=NoRetry())
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert handler.attempts == [1, 1, 1]
        assert state_of(bus).handled == 1


@pytest.mark.parametrize("base", [RetryLater, Postpone])
@pytest.mark.parametrize(
    "after", ["unset", None, -1, float("nan"), float("inf"), "soon", 10**400], ids=repr_short
)
async def test_delay_that_was_never_said(
    virtual_clock: VirtualClock, base: type[RetryLater | Postpone], after: object
) -> None:
    """RetryLater or Postpone without a usable delay, in a subclass, is delayed by the policy."""

    class Incomplete(base):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            Exception.__init__(self, "incomplete")
            if after != "unset":
                self.after = after

    async with running_bus(virtual_clock) as bus:
        handler = Handler(Incomplete(), Incomplete(), Incomplete())
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(1)
        assert handler.attempts == [1, 2, 3]
        assert state_of(bus).dead_lettered == 1
        await settled(bus)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(seconds=-1)])
@pytest.mark.parametrize("kind", [RetryLater, Postpone])
def test_delay_that_is_none(kind: type[RetryLater | Postpone], after: Any) -> None:
    """RetryLater and Postpone refuse what is no delay."""
    with pytest.raises(ValueError, match="finite number of seconds"):
        kind(after=after)


@either_way
async def test_handler_raises_deserialization_error(
    virtual_clock: VirtualClock, memory: dict[str, Any]
) -> None:
    """A DeserializationError that the handler raises by itself is an error like any other: it is retried."""
    async with running_bus(virtual_clock, memory=memory) as bus:
        handler = Handler(*(DeserializationError("of a file") for _ in range(3)))
        bus.subscribe(HAPPENED, handler)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(1)
        assert handler.attempts == [1, 2, 3]
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "retries exhausted after 3 attempts"


async def test_outcomes_of_one_event_are_apart(virtual_clock: VirtualClock) -> None:
    """Each subscription has its own outcome of an event: nobody's retry or dead letter touches the others."""
    async with running_bus(virtual_clock) as bus:
        good = Handler()
        flaky = Handler(ValueError("no"))
        hopeless = Handler(PermanentError("never"))
        later = Handler(Postpone(after=1))
        for name, handler in {"good": good, "flaky": flaky, "hopeless": hopeless, "later": later}.items():
            bus.subscribe(HAPPENED, handler, name=name)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(2)
        assert (good.attempts, flaky.attempts, hopeless.attempts, later.attempts) == (
            [1],
            [1, 2],
            [1],
            [1, 1],
        )
        (letter,) = await bus.dead_letters.list()
        assert letter.subscription == "hopeless"
        await settled(bus)


async def test_one_event_takes_one_place_until_the_last_outcome(virtual_clock: VirtualClock) -> None:
    """An event counts as unsettled until its last subscription is done with it, retries included."""
    async with running_bus(virtual_clock) as bus:
        bus.subscribe(HAPPENED, Handler(), name="good")
        bus.subscribe(HAPPENED, Handler(RetryLater(after=60)), name="later")
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(59)
        assert bus.state().unsettled == 1
        await virtual_clock.advance(1)
        assert bus.state().unsettled == 0
