from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast
from uuid import uuid4

import attrs
import pytest

from bus_core import (
    Attempt,
    Event,
    ExponentialRetry,
    Factory,
    FixedRetry,
    NoRetry,
    Personal,
    PluginError,
    RetryPolicy,
    Topic,
    event,
    hookimpl,
)
from bus_core.dispatch.jobs import DeliveryState, Job, JobLane
from bus_core.events.messages import NO_HEADERS, EventRecord
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, OTHER, Happened, happened, make_bus, running_bus, state_of

pytestmark = pytest.mark.timeout(30)

DEAL = Topic("customer.deal.won", Happened)


class Failing:
    """A handler that always raises, and keeps when it was called."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.times: list[float] = []

    async def __call__(self, event: Event) -> None:
        self.times.append(round(self.clock.monotonic(), 6))
        raise ValueError("no")


@attrs.frozen
class Decided:
    """A retry policy that answers with what it is given."""

    decision: Callable[[int, BaseException], Any]

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        answer: float | None = self.decision(attempt, error)
        return answer


async def times_of(clock: VirtualClock, options: Mapping[str, Any], **settings: Any) -> list[float]:
    async with running_bus(clock, **settings) as bus:
        failing = Failing(clock)
        bus.subscribe(DEAL, failing, **options)
        await bus.publish(DEAL, happened())
        await clock.advance(3600)
        assert state_of(bus).dead_lettered == 1
        assert state_of(bus).retried == len(failing.times) - 1
        assert bus.state().unsettled == 0
        return failing.times


async def test_default_schedule(virtual_clock: VirtualClock) -> None:
    """By default there are three attempts: at once, after 100 ms, and after 200 ms more."""
    assert await times_of(virtual_clock, {}) == [0, 0.1, 0.3]


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({"retry_attempts": 1}, [0]),
        ({"retry_attempts": 2}, [0, 0.1]),
        ({"retry_attempts": 5, "retry_delay": "1s", "retry_max_delay": "30s"}, [0, 1, 3, 7, 15]),
        ({"retry_attempts": 5, "retry_delay": "1s", "retry_max_delay": "2s"}, [0, 1, 3, 5, 7]),
        ({"retry_attempts": 4, "retry_delay": "1s", "retry_multiplier": 3.0}, [0, 1, 4, 13]),
        ({"retry_attempts": 4, "retry_delay": "1s", "retry_multiplier": 1.0}, [0, 1, 2, 3]),
        ({"retry_attempts": 3, "retry_delay": "0s"}, [0, 0, 0]),
        ({"retry": {"policy": "fixed", "attempts": 3, "delay": "5s"}}, [0, 5, 10]),
        ({"retry": {"policy": "none"}}, [0]),
    ],
)
async def test_configured_schedule(
    virtual_clock: VirtualClock, settings: dict[str, Any], times: list[float]
) -> None:
    """The configured policy gives the delays after each failure, capped, and the number of all attempts."""
    assert await times_of(virtual_clock, {}, **settings) == times


async def test_last_delay_of_a_long_schedule_is_capped(virtual_clock: VirtualClock) -> None:
    """No delay exceeds max_delay, however many attempts there are."""
    times = await times_of(virtual_clock, {"retry": ExponentialRetry(attempts=300, delay=0.5, max_delay=10)})
    delays = [round(later - earlier, 6) for earlier, later in pairwise(times)]
    assert delays[:6] == [0.5, 1, 2, 4, 8, 10]
    assert set(delays[5:]) == {10}
    assert len(times) == 300


async def test_delay_begins_when_the_handler_fails(virtual_clock: VirtualClock) -> None:
    """The time that a handler took is not part of the delay after it."""
    async with running_bus(virtual_clock) as bus:
        times: list[float] = []

        async def fail_slowly(event: Happened) -> None:
            times.append(virtual_clock.monotonic())
            gate = asyncio.Event()
            virtual_clock.call_later(10, gate.set)
            await gate.wait()
            raise ValueError("no")

        bus.subscribe(HAPPENED, fail_slowly)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert times == [0, pytest.approx(10.1), pytest.approx(20.3)]


TOPICS = {
    "#": {"retry": {"policy": "fixed", "attempts": 2, "delay": "1s"}},
    "customer.#": {"retry": {"policy": "fixed", "attempts": 2, "delay": "2s"}},
    "customer.*.won": {"retry": {"policy": "fixed", "attempts": 2, "delay": "3s"}},
    "customer.deal.won": {"retry": {"policy": "fixed", "attempts": 2, "delay": "4s"}},
}


@pytest.mark.parametrize("known", range(5))
async def test_precedence_of_topics(virtual_clock: VirtualClock, known: int) -> None:
    """The most specific pattern of the configuration that covers the topic gives the policy, then the bus."""
    topics = dict(reversed([*TOPICS.items()][:known]))
    settings: dict[str, Any] = {"retry": {"policy": "fixed", "attempts": 2, "delay": "9s"}, "topics": topics}
    assert await times_of(virtual_clock, {}, **settings) == [0, known or 9]


async def test_precedence_of_the_argument(virtual_clock: VirtualClock) -> None:
    """The policy given to subscribe wins over every one of the configuration."""
    options = {"retry": FixedRetry(attempts=2, delay=7)}
    assert await times_of(virtual_clock, options, topics=TOPICS) == [0, 7]


async def test_a_pattern_subscription_takes_the_policy_of_each_topic(virtual_clock: VirtualClock) -> None:
    """A subscription to a pattern retries each event by the policy of the event's own topic."""
    topics = {"test.thing.*": {"retry": {"policy": "none"}}}
    async with running_bus(virtual_clock, topics=topics) as bus:
        attempts: list[int] = []

        async def fail(event: Happened) -> None:
            attempts.append(event.number)
            raise ValueError("no")

        bus.subscribe("test.#", fail)
        await bus.publish(HAPPENED, happened(1))
        await bus.publish(OTHER, happened(2))
        await virtual_clock.advance(1)
        assert sorted(attempts) == [1, 2, 2, 2]


async def test_two_subscriptions_of_one_topic_have_their_own_policies(virtual_clock: VirtualClock) -> None:
    """A policy given to one subscription does not reach the others of the topic."""
    async with running_bus(virtual_clock) as bus:
        patient, hasty = Failing(virtual_clock), Failing(virtual_clock)
        bus.subscribe(HAPPENED, patient, name="patient", retry=FixedRetry(attempts=2, delay=60))
        bus.subscribe(HAPPENED, hasty, name="hasty", retry=NoRetry())
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert (patient.times, hasty.times) == ([0, 60], [0])


async def test_waiting_for_a_retry_holds_no_worker(virtual_clock: VirtualClock) -> None:
    """While any number of retries wait, one worker is enough for other events."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        numbers: list[int] = []

        async def handle(event: Happened) -> None:
            numbers.append(event.number)

        bus.subscribe(HAPPENED, Failing(virtual_clock), name="failing", retry=FixedRetry(delay=3600))
        bus.subscribe(OTHER, handle, name="other")
        for number in range(20):
            await bus.publish(HAPPENED, happened(number))
        await virtual_clock.settle()
        state = bus.state()
        assert (state.waiting_retries, state.running_handlers) == (20, 0)
        for number in range(20):
            await bus.publish(OTHER, happened(number))
        await virtual_clock.settle()
        assert numbers == [*range(20)]
        await virtual_clock.advance(2 * 3600)
        assert state_of(bus, "failing").dead_lettered == 20


async def test_waiting_for_a_retry_takes_room(virtual_clock: VirtualClock) -> None:
    """Events that wait for their retry fill the buffer: a publisher waits until one of them is settled."""
    async with running_bus(virtual_clock, buffer_size=2) as bus:
        bus.subscribe(HAPPENED, Failing(virtual_clock))
        await bus.publish(HAPPENED, happened())
        await bus.publish(HAPPENED, happened())
        await virtual_clock.settle()
        blocked = asyncio.ensure_future(bus.publish(HAPPENED, happened()))
        await virtual_clock.advance(0.2)
        assert not blocked.done()
        await virtual_clock.advance(0.2)
        assert blocked.done()


def exits(error: BaseException) -> Callable[[int, BaseException], Any]:
    def decide(attempt: int, cause: BaseException) -> float:
        raise error

    return decide


NONSENSE: dict[str, Callable[[int, BaseException], Any]] = {
    "negative": lambda attempt, error: -1,
    "nan": lambda attempt, error: float("nan"),
    "infinite": lambda attempt, error: float("inf"),
    "huge": lambda attempt, error: 10**400,
    "text": lambda attempt, error: "0.1",
    "object": lambda attempt, error: object(),
    "list": lambda attempt, error: [],
    "coroutine": lambda attempt, error: asyncio.sleep(0) if False else (n for n in ()),
    "raises": exits(ValueError("policy")),
    "raises the cause": lambda attempt, error: exits(error)(attempt, error),
    "exits": exits(SystemExit(1)),
    "interrupts": exits(KeyboardInterrupt()),
    "cancels": exits(asyncio.CancelledError()),
    "stops": exits(StopIteration()),
}


@pytest.mark.parametrize("decision", NONSENSE.values(), ids=NONSENSE)
async def test_broken_policy(
    virtual_clock: VirtualClock, decision: Callable[[int, BaseException], Any]
) -> None:
    """A policy that raises or answers with no delay ends in the dead letters, and the bus lives on."""
    async with running_bus(virtual_clock, worker_pool_size=1) as bus:
        failing = Failing(virtual_clock)
        bus.subscribe(HAPPENED, failing, retry=Decided(decision))
        for _ in range(2):
            await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert failing.times == [0, 0]
        letters = await bus.dead_letters.list()
        assert len(letters) == 2
        assert all(letter.reason.startswith("the retry policy failed: ") for letter in letters)
        assert all(len(letter.attempts) == 1 for letter in letters)
        assert all(
            letter.attempts[0].error.startswith("ValueError: no; and the retry policy failed with ")
            for letter in letters
        )
        assert (bus.state().unsettled, bus.state().lost) == (0, 0)


async def test_policy_that_breaks_later(virtual_clock: VirtualClock) -> None:
    """A policy may break at any attempt: the letter holds the attempts until then."""

    def decide(attempt: int, error: BaseException) -> float:
        return {1: 1.0, 2: 2.0}[attempt]

    async with running_bus(virtual_clock) as bus:
        failing = Failing(virtual_clock)
        bus.subscribe(HAPPENED, failing, retry=Decided(decide))
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert failing.times == [0, 1, 3]
        (letter,) = await bus.dead_letters.list()
        assert re.fullmatch(r"the retry policy failed: KeyError at .*:\d+ in decide", letter.reason)
        assert letter.attempts[-1].error == "ValueError: no; and the retry policy failed with KeyError: 3"


async def test_letters_do_not_tell_personal_values(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Personal values that an exception quotes are in no letter, and in no log."""

    @event
    class Registered(Event):
        email: Personal[str]
        plan: str

    topic = Topic("test.user.registered", Registered)

    async def fails(made: Registered) -> None:
        raise ExceptionGroup("two", [ValueError(f"no mail to {made.email}, {made.plan}")]) from KeyError(
            made.email
        )

    def decide(_attempt: int, error: BaseException) -> float:
        raise ValueError(repr(error))

    async with running_bus(virtual_clock) as bus:
        bus.subscribe(topic, fails, retry=Decided(decide))
        await bus.publish(topic, Registered(aggregate_id=uuid4(), email="ada@example.com", plan="free"))
        await virtual_clock.advance(60)
        (letter,) = await bus.dead_letters.list()
    assert "no mail to <personal>, free" in letter.attempts[0].error
    assert "ada@" not in f"{letter.attempts[0].error}{letter.reason}{letter!r}{caplog.text}"


async def test_a_long_history_is_bounded(virtual_clock: VirtualClock) -> None:
    """However often an event was tried, its history stays small: the first attempts, and the last ones."""
    async with running_bus(virtual_clock) as bus:
        bus.subscribe(HAPPENED, Failing(virtual_clock), retry=FixedRetry(attempts=200, delay=1))
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(300)
        (letter,) = await bus.dead_letters.list()
        assert [attempt.number for attempt in letter.attempts] == [1, 2, 3, 4, 5, *range(186, 201)]
        assert letter.reason == "retries exhausted after 200 attempts"


def test_policy_that_cannot_be_built() -> None:
    """A policy that its plugin cannot build is an error of open_bus, not of the first failure."""

    @attrs.frozen
    class Options:
        pass

    def build(options: Options, context: object) -> RetryPolicy:
        raise RuntimeError("no")

    class Plugin:
        @hookimpl
        def promenade_bus_retry_policies(self) -> Mapping[str, Factory[Any, RetryPolicy]]:
            return {"broken": Factory(Options, build)}

    with pytest.raises(PluginError, match=r"cannot be built: RuntimeError: no @ \$\.bus\.retry"):
        make_bus(plugins=[Plugin()], retry={"policy": "broken"})
    with pytest.raises(PluginError, match=r"cannot be built: RuntimeError: no @ "):
        make_bus(plugins=[Plugin()], topics={"test.#": {"retry": {"policy": "broken"}}})


async def test_policy_sees_the_attempt_and_the_error(virtual_clock: VirtualClock) -> None:
    """A policy is asked once after each failure, with the number of the attempt and the error itself."""
    asked: list[tuple[int, BaseException]] = []

    def decide(attempt: int, error: BaseException) -> float | None:
        asked.append((attempt, error))
        return 0 if attempt < 3 else None

    async with running_bus(virtual_clock) as bus:
        raised = [KeyError(1), asyncio.CancelledError(), SystemExit(3)]

        async def fail(event: Happened) -> None:
            raise raised[len(asked)]

        bus.subscribe(HAPPENED, fail, retry=Decided(decide))
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(60)
        assert asked == [*enumerate(raised, start=1)]


async def test_retry_gets_the_same_event(virtual_clock: VirtualClock) -> None:
    """Each attempt gets an equal event with the same id; without a serializer it is the very object."""
    async with running_bus(virtual_clock) as bus:
        seen: list[Happened] = []

        async def fail(event: Happened) -> None:
            seen.append(event)
            raise ValueError("no")

        bus.subscribe(HAPPENED, fail)
        published = happened(7)
        await bus.publish(HAPPENED, published)
        await virtual_clock.advance(1)
        assert len(seen) == 3
        assert all(event is published for event in seen)


async def test_where_is_asked_again_at_each_attempt(virtual_clock: VirtualClock) -> None:
    """An event that ``where`` refuses at a retry is skipped, not handled."""
    async with running_bus(virtual_clock) as bus:
        wanted = True

        async def fail(event: Happened) -> None:
            nonlocal wanted
            wanted = False
            raise ValueError("no")

        bus.subscribe(HAPPENED, fail, where=lambda event: wanted)
        await bus.publish(HAPPENED, happened())
        await virtual_clock.advance(1)
        state = state_of(bus)
        assert (state.failed_attempts, state.skipped, state.handled, state.dead_lettered) == (1, 1, 0, 0)
        assert bus.state().unsettled == 0


@pytest.mark.parametrize(
    ("numbers", "first"),
    [((), 5), ((1, 2), 1), ((1, 2, 1), 3), ((1, 1), 2), ((1, 2, 3, 1, 2), 4)],
)
def test_a_job_fails_since_its_first_attempt_or_since_its_redrive(
    numbers: tuple[int, ...], first: int
) -> None:
    """The first failure is that of the present run of attempts, also of an event that came with a history."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    history = tuple(
        Attempt(number=number, at=began + timedelta(minutes=minute), error="ValueError")
        for minute, number in enumerate(numbers, 1)
    )
    record: EventRecord = (happened(), "topic", 0.0, NO_HEADERS, "key")
    job = Job(cast(JobLane, None), record, state=DeliveryState(history))
    attempt = (numbers[-1] if numbers else 0) + 1
    job.note(
        Attempt(number=attempt, at=began + timedelta(minutes=5 if not numbers else 9), error="ValueError")
    )
    assert job.state.failing_since == began + timedelta(minutes=first)
