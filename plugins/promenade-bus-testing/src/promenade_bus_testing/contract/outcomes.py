"""Contract tests of the outcomes of a handler that returns, raises, or does not end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest

from bus_core import Delivery, FixedRetry, HandlerTimeout, PermanentError, Postpone, RetryLater
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import OTHER, THING, Happened
from promenade_bus_testing.contract.harness import FAR, Act, Call, Harness, Listener
from promenade_bus_testing.contract.running import contract

__all__ = ["OutcomeTests", "raising"]

ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("no"),
    "CancelledError": lambda: asyncio.CancelledError("no"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "GeneratorExit": lambda: GeneratorExit(),
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": lambda: StopAsyncIteration(),
    "RecursionError": lambda: RecursionError(),
    "MemoryError": lambda: MemoryError(),
    "BaseException": lambda: BaseException("no"),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError(), PermanentError("inside of a group")]),
    "HandlerTimeout": lambda: HandlerTimeout("another", 3),
    "surrogates": lambda: ValueError("\ud800"),
}


def raising(*errors: BaseException) -> Act:
    """Returns a handler that raises these errors in its first calls, and then returns."""
    left = [*errors]

    def act(_call: Call) -> None:
        if left:
            raise left.pop(0)

    return act


def always(make: Callable[[], BaseException]) -> Act:
    """Returns a handler that raises a new error in each call."""

    def act(_call: Call) -> None:
        raise make()

    return act


class OutcomeTests:
    """Outcomes of handlers."""

    @contract()
    async def test_returning_settles(self, harness: Harness) -> None:
        """An event whose handler returned is settled and not delivered again, whatever the return value."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        await harness.publish(bus, 1, 2, 3)
        await harness.until(lambda: len(listener.done) >= 3, "the events are handled")
        await harness.drain()
        await harness.advance(60)
        await harness.drain()
        assert sorted(listener.attempts) == [(1, 1), (2, 1), (3, 1)]
        state = listener.subscription.state
        assert (state.handled, state.failed_attempts, state.dead_lettered) == (3, 0, 0)
        assert not await bus.dead_letters.list()

    @contract()
    async def test_raising_is_retried(self, harness: Harness) -> None:
        """An event whose handler raised is delivered again unchanged, with its attempt counted and marked."""
        bus = await harness.bus()
        listener = await harness.listen(bus, act=raising(ValueError("once"), ValueError("twice")))
        (event,) = await harness.publish(bus, 7, headers={"trace": "abc"})
        await harness.until(lambda: listener.done, "the event is handled")
        await harness.drain()
        assert listener.attempts == [(7, 1), (7, 2), (7, 3)]
        assert listener.events == [event] * 3
        deliveries = [call.delivery for call in listener.calls if call.delivery is not None]
        assert [delivery.redelivered for delivery in deliveries] == [False, True, True]
        assert {delivery.message_id for delivery in deliveries} == {str(event.event_id)}
        assert [{**delivery.headers} for delivery in deliveries] == [{"trace": "abc"}] * 3
        assert len({delivery.published_at for delivery in deliveries}) == 1
        assert not await bus.dead_letters.list()

    @contract()
    async def test_plain_handler_is_retried(self, harness: Harness) -> None:
        """A handler that takes only the event is retried like any other, and others are not affected."""
        bus = await harness.bus()
        failing = await harness.listen(bus, name="failing", act=raising(ValueError(), OSError()), plain=True)
        other = await harness.listen(bus, name="other", plain=True)
        await harness.publish(bus, *range(10))
        await harness.until(lambda: len(failing.done) + len(other.done) >= 20, "the events are handled")
        await harness.drain()
        assert_once(failing.done, range(10))
        assert_once(other.numbers, range(10))
        assert len(failing.calls) == 12

    @contract()
    async def test_exhausted_retries_are_dead_lettered(self, harness: Harness) -> None:
        """When the policy gives up, the event is dead-lettered once, after exactly that many attempts."""
        bus = await harness.bus()
        listener = await harness.listen(bus, act=always(lambda: ValueError("no")))
        await harness.publish(bus, 1)
        await harness.drain()
        assert listener.attempts == [(1, 1), (1, 2), (1, 3)]
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "retries exhausted after 3 attempts"
        assert listener.subscription.state.dead_lettered == 1

    @contract()
    async def test_permanent_error(self, harness: Harness) -> None:
        """``PermanentError``, or a subclass, dead-letters at once, however many attempts are left."""

        class Hopeless(PermanentError):
            pass

        bus = await harness.bus()
        listener = await harness.listen(
            bus, act=raising(PermanentError("never"), ValueError("first"), Hopeless("neither"))
        )
        await harness.publish(bus, 1)
        await harness.drain()
        await harness.publish(bus, 2)
        await harness.drain()
        assert listener.attempts == [(1, 1), (2, 1), (2, 2)]
        letters = await bus.dead_letters.list()
        assert [letter.reason for letter in letters] == ["the handler raised PermanentError"] * 2
        assert [[attempt.error for attempt in letter.attempts] for letter in letters] == [
            ["PermanentError: never"],
            ["ValueError: first", "Hopeless: neither"],
        ]

    @contract()
    async def test_give_up_on(self, harness: Harness) -> None:
        """An error listed in ``give_up_on`` dead-letters at once; others are retried."""
        bus = await harness.bus()
        listener = await harness.listen(bus, act=raising(LookupError(), KeyError()), give_up_on=KeyError)
        await harness.publish(bus, 1)
        await harness.drain()
        assert listener.attempts == [(1, 1), (1, 2)]
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "KeyError is listed in give_up_on"

    @contract()
    async def test_retry_later(self, harness: Harness) -> None:
        """``RetryLater`` sets the delay of the next attempt, which counts like any other."""
        bus = await harness.bus()
        listener = await harness.listen(bus, act=always(lambda: RetryLater(after=2.5)))
        await harness.publish(bus, 1)
        await harness.drain()
        assert listener.attempts == [(1, 1), (1, 2), (1, 3)]
        first = listener.calls[0].at
        assert [call.at - first for call in listener.calls] == pytest.approx([0, 2.5, 5])
        (letter,) = await bus.dead_letters.list()
        assert [attempt.error.partition(":")[0] for attempt in letter.attempts] == ["RetryLater"] * 3

    @contract()
    async def test_postpone(self, harness: Harness) -> None:
        """``Postpone`` delivers again after its delay, any number of times, without counting."""
        bus = await harness.bus()
        postponements = [Postpone(after=1.5) for _ in range(10)]
        listener = await harness.listen(bus, act=raising(*postponements, ValueError("first")))
        await harness.publish(bus, 1)
        await harness.drain()
        assert listener.attempts == [*[(1, 1)] * 11, (1, 2)]
        first = listener.calls[0].at
        assert [call.at - first for call in listener.calls[:11]] == pytest.approx(
            [1.5 * index for index in range(11)]
        )
        assert listener.done == [1]
        assert listener.subscription.state.failed_attempts == 1

    @contract()
    async def test_timeout(self, harness: Harness) -> None:
        """A handler that exceeds its ``timeout`` is cancelled and has failed, so it is retried."""
        bus = await harness.bus()
        cancelled: list[float] = []

        async def hang_at_first(call: Call) -> None:
            if call.attempt > 1:
                return
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(harness.clock.monotonic() - call.at)
                raise

        listener = await harness.listen(bus, act=hang_at_first, timeout=5)
        await harness.publish(bus, 1)
        await harness.drain()
        assert listener.attempts == [(1, 1), (1, 2)]
        assert cancelled == pytest.approx([5])
        assert listener.done == [1]

    @contract()
    async def test_timeout_dead_letters_at_last(self, harness: Harness) -> None:
        """When every attempt exceeds the timeout, the letter shows that for each of them."""
        bus = await harness.bus()

        async def hang(_call: Call) -> None:
            await asyncio.Event().wait()

        await harness.listen(bus, act=hang, timeout=1, retry=FixedRetry(attempts=2, delay=1))
        await harness.publish(bus, 1)
        await harness.drain()
        (letter,) = await bus.dead_letters.list()
        assert [attempt.error.partition(":")[0] for attempt in letter.attempts] == ["HandlerTimeout"] * 2

    @contract()
    @pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
    async def test_error_is_contained(self, harness: Harness, error: Callable[[], BaseException]) -> None:
        """An exception that a handler raises is only its own failure; the bus and the others go on."""
        bus = await harness.bus(worker_pool_size=2)
        failing = await harness.listen(bus, name="failing", act=always(error), retry=FixedRetry(attempts=2))
        other = await harness.listen(bus, name="other")
        await harness.publish(bus, *range(5))
        await harness.drain()
        await harness.publish(bus, 5, topic=THING)
        await harness.drain()
        assert_once(other.done, range(6), "another subscription")
        assert sorted(failing.attempts) == [(number, attempt) for number in range(6) for attempt in (1, 2)]
        letters = await bus.dead_letters.list()
        assert len(letters) == 6
        assert bus.state().lost == 0

    @contract()
    async def test_thread_error_is_contained(self, harness: Harness) -> None:
        """An exception that a sync handler raises in its thread has the same outcome."""
        bus = await harness.bus(worker_pool_size=2)
        raised: list[tuple[int, int]] = []
        errors = (ValueError, SystemExit, KeyboardInterrupt, MemoryError)

        def fail_once(event: Happened, delivery: Delivery) -> None:
            assert threading.current_thread() is not threading.main_thread()
            raised.append((event.number, delivery.attempt))
            if delivery.attempt == 1:
                raise errors[event.number % len(errors)]()

        subscription = bus.subscribe(THING, fail_once, name="thread", mode=harness.default_mode)
        await harness.finish(subscription.ready(), "the subscription opens")
        await harness.publish(bus, *range(8))
        await harness.drain()
        assert sorted(raised) == [(number, attempt) for number in range(8) for attempt in (1, 2)]
        assert subscription.state.handled == 8

    @contract()
    async def test_outcomes_are_apart(self, harness: Harness) -> None:
        """Each subscription has its own outcome of an event, which does not affect the others."""
        bus = await harness.bus()
        good = await harness.listen(bus, name="good")
        flaky = await harness.listen(bus, name="flaky", act=raising(ValueError()))
        hopeless = await harness.listen(bus, name="hopeless", act=raising(PermanentError("never")))
        later = await harness.listen(bus, name="later", act=raising(Postpone(after=1)))
        await harness.publish(bus, 1)
        await harness.drain()
        assert good.attempts == [(1, 1)]
        assert flaky.attempts == [(1, 1), (1, 2)]
        assert hopeless.attempts == [(1, 1)]
        assert later.attempts == [(1, 1), (1, 1)]
        assert [letter.subscription for letter in await bus.dead_letters.list()] == ["hopeless"]

    @contract()
    async def test_continues_after_errors(self, harness: Harness) -> None:
        """While many events fail, each good one is handled once, and each bad one leaves one letter."""
        count = harness.scale(300, 10_000)
        bus = await harness.bus()

        def fail_some(call: Call) -> None:
            match call.number % 9:
                case 0:
                    raise PermanentError("never")
                case 3:
                    raise ValueError("always")
                case 6 if call.attempt == 1:
                    raise ValueError("once")
                case _:
                    pass

        listener = await harness.listen(bus, act=fail_some)
        await harness.publish(bus, *range(count))
        await harness.drain()
        bad = [number for number in range(count) if number % 9 in (0, 3)]
        assert_once(listener.done, {*range(count)} - {*bad})
        letters = await bus.dead_letters.list(limit=count)
        assert len(letters) == len(bad)
        assert len({letter.event_id for letter in letters}) == len(bad)
        assert bus.state().lost == 0

    @contract()
    async def test_unfinished_handler_settles_nothing(self, harness: Harness) -> None:
        """While a handler runs, its event is neither settled nor delivered again; others go on."""
        bus = await harness.bus()
        gate = harness.gate()

        async def wait_for_gate(call: Call) -> None:
            if call.number == 0:
                await gate.wait()

        listener = await harness.listen(bus, act=wait_for_gate)
        await harness.publish(bus, *range(5))
        await harness.until(lambda: len(listener.done) >= 4, "the other events are handled")
        draining = asyncio.ensure_future(bus.drain())
        await harness.advance(60)
        assert listener.numbers.count(0) == 1
        assert not draining.done()
        assert listener.subscription.state.handled == 4
        gate.set()
        await harness.until(draining.done, "the drain ends with the handler")
        await draining
        assert_once(listener.numbers, range(5))

    # --- when retries happen ------------------------------------------------------------------------------

    @contract()
    @pytest.mark.parametrize(
        ("settings", "times"),
        [
            ({}, [0, 0.1, 0.3]),
            ({"retry_attempts": 1}, [0]),
            ({"retry_attempts": 5, "retry_delay": "200ms", "retry_max_delay": "1s"}, [0, 0.2, 0.6, 1.4, 2.4]),
            ({"retry": {"policy": "fixed", "attempts": 4, "delay": "2s"}}, [0, 2, 4, 6]),
            ({"retry": {"policy": "none"}}, [0]),
        ],
        ids=["default", "one", "capped", "fixed", "none"],
    )
    async def test_retry_schedule(
        self, harness: Harness, settings: dict[str, object], times: list[float]
    ) -> None:
        """Attempts happen exactly at the times of the configured policy, and no more of them."""
        bus = await harness.bus(**settings)
        listener = await harness.listen(bus, act=always(lambda: ValueError("no")))
        await harness.publish(bus, 1)
        await harness.drain()
        first = listener.calls[0].at
        assert [call.at - first for call in listener.calls] == pytest.approx(times)
        assert len(await bus.dead_letters.list()) == 1

    @contract()
    async def test_retry_of_each_subscription_and_topic(self, harness: Harness) -> None:
        """The policy of ``subscribe`` overrides that of the topic, which overrides that of the bus."""
        bus = await harness.bus(
            retry={"policy": "fixed", "attempts": 2, "delay": "1s"},
            topics={OTHER.name: {"retry": {"policy": "fixed", "attempts": 2, "delay": "2s"}}},
        )
        fail = always(lambda: ValueError("no"))
        own = await harness.listen(bus, OTHER, "own", fail, retry=FixedRetry(attempts=2, delay=3))
        topic = await harness.listen(bus, OTHER, "topic", fail)
        general = await harness.listen(bus, THING, "general", fail)
        await harness.publish(bus, 1, topic=OTHER)
        await harness.publish(bus, 1)
        await harness.drain()
        assert [
            listener.calls[-1].at - listener.calls[0].at for listener in (own, topic, general)
        ] == pytest.approx([3, 2, 1])

    @contract("delayed")
    async def test_waiting_retry_holds_no_worker(self, harness: Harness) -> None:
        """While any number of retries wait, one worker is enough for other events."""
        bus = await harness.bus(worker_pool_size=1)
        failing = await harness.listen(
            bus, OTHER, "failing", always(lambda: ValueError("no")), retry=FixedRetry(attempts=2, delay=FAR)
        )
        other = await harness.listen(bus, THING, "other")
        await harness.publish(bus, *range(20), topic=OTHER)
        await harness.until(lambda: len(failing.calls) >= 20, "all of them have failed once")
        await harness.publish(bus, *range(20))
        await harness.until(lambda: len(other.done) >= 20, "other events are handled meanwhile")
        assert len(failing.calls) == 20

    @contract()
    async def test_clock_steps(self, harness: Harness) -> None:
        """Steps of the wall clock in both directions neither lose nor repeat an event, nor move a retry."""
        bus = await harness.bus()
        failing = await harness.listen(
            bus, name="failing", act=always(ValueError), retry=FixedRetry(attempts=3, delay=1)
        )
        other = await harness.listen(bus, name="other")
        await harness.publish(bus, 1)
        for failed, step in enumerate([-7200.0, 86_400.0], 1):
            await harness.until(partial(_has_failed, failing, failed), "an attempt fails")
            harness.clock.step(step)
            await harness.advance(0.5)
            assert len(failing.calls) == failed, "the retry came early"
        await harness.drain()
        assert [call.at - failing.calls[0].at for call in failing.calls] == pytest.approx([0, 1, 2])
        await harness.publish(bus, 2)
        await harness.drain()
        assert_once(other.numbers, [1, 2])
        assert len(await bus.dead_letters.list()) == 2

    @contract()
    async def test_retry_is_not_early(self, harness: Harness) -> None:
        """A retry happens at its time and not earlier, whatever else happens."""
        bus = await harness.bus()
        failing = await harness.listen(
            bus, THING, "failing", raising(ValueError()), retry=FixedRetry(attempts=2, delay=4)
        )
        other = await harness.listen(bus, OTHER, "other")
        await harness.publish(bus, 1)
        await harness.until(lambda: failing.calls, "the first attempt fails")
        await harness.advance(3.9)
        with harness.standing_still():
            await harness.publish(bus, 1, topic=OTHER)
            await harness.until(lambda: other.done, "another event is handled")
        assert failing.done == []
        await harness.drain()
        assert failing.done == [1]
        assert failing.calls[1].at - failing.calls[0].at == pytest.approx(4)


def _has_failed(listener: Listener, times: int) -> bool:
    return listener.subscription.state.failed_attempts >= times
