"""Random sequences of operations: the bus behaves like a simple model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bus_core import (
    Bus,
    DeadLetterFilter,
    Delivery,
    FixedRetry,
    PermanentError,
    Postpone,
    RetryLater,
    Subscription,
    Topic,
    TopicPattern,
    UnknownSubscription,
)
from promenade_bus_testing.contract.clock import ContractClock
from support.bus_model import ATTEMPTS, DELAYS, RETRY_DELAY, Action, Call, Letter, Model, ModelSubscription
from support.buses import Happened, make_bus
from support.planted_bugs import BUGS, Bug

pytestmark = pytest.mark.timeout(300)

TOPICS = [Topic(f"model.topic{index}.happened", Happened) for index in range(3)]
PATTERNS = [*(topic.name for topic in TOPICS), "model.*.happened", "#", "model.topic1.#"]
KEYS = range(3)
MOST_SUBSCRIPTIONS = 6

actions = st.lists(
    st.sampled_from(["return", "raise", "raise", "give up", "retry later", "postpone"]), max_size=5
)


class BusMachine(RuleBasedStateMachine):
    """Does the same things to a bus and to the model, and compares them after each."""

    def open_bus(self) -> Bus:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.clock = ContractClock()
        self.model = Model()
        self.calls: list[Call] = []
        self.taken: Counter[tuple[str, int]] = Counter()
        self.keys: dict[int, int] = {}
        self.numbers: dict[UUID | None, int] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.leaving: list[asyncio.Task[None]] = []
        self.closed = False

    @initialize()
    def start(self) -> None:
        self.bus = self.open_bus()
        self.run(self.bus.start)

    def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Calls, and lets everything run that can run without time."""

        async def call_and_settle() -> Any:
            result = await call()
            await self.clock.settle()
            return result

        return self.runner.run(call_and_settle())

    async def settle(self) -> None:
        await self.clock.settle()

    # --- handlers -----------------------------------------------------------------------------------------

    def handler(self, name: str) -> Callable[[Happened, Delivery], Awaitable[None]]:
        async def handle(event: Happened, delivery: Delivery) -> None:
            number = event.number
            script = self.model.scripts[number]
            action: Action = (
                script[self.taken[name, number]] if self.taken[name, number] < len(script) else "return"
            )
            self.taken[name, number] += 1
            self.calls.append((name, number, delivery.attempt, self.clock.monotonic()))
            match action:
                case "raise":
                    raise ValueError("no")
                case "give up":
                    raise PermanentError("never")
                case "retry later":
                    raise RetryLater(after=DELAYS[action])
                case "postpone":
                    raise Postpone(after=DELAYS[action])
                case _:
                    pass

        return handle

    # --- what may be done ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.subscriptions) < MOST_SUBSCRIPTIONS)
    @rule(pattern=st.sampled_from(PATTERNS), ordered=st.booleans(), broadcast=st.booleans())
    def subscribe(self, pattern: str, ordered: bool, broadcast: bool) -> None:
        name = f"subscription-{len(self.model.subscriptions)}"

        async def subscribe() -> None:
            topic = next((topic for topic in TOPICS if topic.name == pattern), pattern)
            subscription = self.subscriptions[name] = self.bus.subscribe(
                topic,
                self.handler(name),
                name=name,
                mode="broadcast" if broadcast else "group",
                ordered=ordered,
                retry=FixedRetry(attempts=ATTEMPTS, delay=RETRY_DELAY),
                start="latest",
            )
            await subscription.ready()

        self.run(subscribe)
        self.model.subscriptions.append(ModelSubscription(name, TopicPattern(pattern), ordered))

    @rule(topic=st.sampled_from(TOPICS), key=st.sampled_from(KEYS), script=actions)
    def publish(self, topic: Topic[Happened], key: int, script: list[Action]) -> None:
        event = self.new_event(key, script)
        self.run(lambda: self.bus.publish(topic, event))
        self.model.publish(topic.name, event.number, key, script)

    @rule(
        topic=st.sampled_from(TOPICS),
        items=st.lists(st.tuples(st.sampled_from(KEYS), actions), min_size=2, max_size=5),
    )
    def publish_many(self, topic: Topic[Happened], items: list[tuple[int, list[Action]]]) -> None:
        events = [self.new_event(key, script) for key, script in items]
        self.run(lambda: self.bus.publish_many([(topic, event) for event in events]))
        for event, (key, script) in zip(events, items, strict=True):
            self.model.publish(topic.name, event.number, key, script)

    def new_event(self, key: int, script: list[Action]) -> Happened:
        number = len(self.keys)
        self.keys[number] = key
        self.model.scripts[number] = script
        event = Happened(aggregate_id=UUID(int=key), number=number)
        self.numbers[event.event_id] = number
        return event

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 7.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.run(lambda: self.clock.advance(seconds))
        self.model.advance(seconds)

    @rule(seconds=st.sampled_from([-86_400.0, 3600.0]))
    def step_the_wall_clock(self, seconds: float) -> None:
        self.clock.step(seconds)

    @precondition(lambda self: self.model.active)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from(self.model.active))

        async def pause() -> None:
            self.subscriptions[subscription.name].pause()

        self.run(pause)
        subscription.paused = True

    @precondition(lambda self: any(each.paused for each in self.model.active))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from([each for each in self.model.active if each.paused]))

        async def resume() -> None:
            self.subscriptions[subscription.name].resume()

        self.run(resume)
        self.model.resume(subscription)

    @precondition(lambda self: len(self.model.active) > 1)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from(self.model.active))

        async def unsubscribe() -> None:
            leaving = asyncio.ensure_future(self.subscriptions[subscription.name].unsubscribe())
            self.leaving.append(leaving)

        self.run(unsubscribe)
        self.model.unsubscribe(subscription)
        assert self.leaving[-1].done() is not bool(subscription.jobs)

    @precondition(lambda self: self.model.letters)
    @rule(data=st.data(), twice=st.booleans())
    def redrive(self, data: st.DataObject, twice: bool) -> None:
        letter = data.draw(st.sampled_from(self.model.letters))
        (subscription,) = (each for each in self.model.subscriptions if each.name == letter.subscription)
        found = [each for each in self.listed() if each[1] == letter]
        letter_id = found[0][0]
        if subscription.active:
            assert self.run(lambda: self.bus.dead_letters.redrive([letter_id] * (1 + twice))) == 1
            self.model.redrive(letter, self.keys[letter.number])
        else:
            with pytest.raises(UnknownSubscription):
                self.run(lambda: self.bus.dead_letters.redrive(letter_id))

    @precondition(lambda self: self.model.letters)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.model.subscriptions)).name
        selected = [letter for letter in self.model.letters if letter.subscription == name]
        purge = self.bus.dead_letters.purge
        assert self.run(lambda: purge(DeadLetterFilter(subscription=name))) == len(selected)
        self.model.letters = [letter for letter in self.model.letters if letter.subscription != name]

    @precondition(lambda self: not any(each.paused and each.jobs for each in self.model.subscriptions))
    @rule()
    def drain(self) -> None:
        self.run(lambda: self.until_done(self.bus.drain()))
        self.model.advance(self.clock.monotonic() - self.model.now)
        assert self.model.unsettled == 0

    async def until_done(self, call: Awaitable[Any]) -> Any:
        """Awaits, while time goes from one timer to the next."""
        task = asyncio.ensure_future(call)
        for _ in range(10_000):
            await self.clock.settle()
            if task.done() or not self.clock.jump(self.clock.monotonic() + 1000):
                break
        return await asyncio.wait_for(task, 10)

    # --- what has to hold after each of them --------------------------------------------------------------

    @invariant()
    def calls_are_those_of_the_model(self) -> None:
        wanted, made = Counter(self.model.calls), Counter(self.calls)
        assert made == wanted, f"missing: {wanted - made}, too many: {made - wanted}"

    @invariant()
    def keys_are_in_order(self) -> None:
        for each in self.model.subscriptions:
            if each.ordered:
                for key in KEYS:
                    wanted, made = (
                        [call for call in calls if call[0] == each.name and self.keys[call[1]] == key]
                        for calls in (self.model.calls, self.calls)
                    )
                    assert made == wanted

    @invariant()
    def letters_are_those_of_the_model(self) -> None:
        if not self.closed:
            assert Counter(letter for _, letter in self.listed()) == Counter(self.model.letters)

    def listed(self) -> list[tuple[str, Letter]]:
        letters = self.run(lambda: self.bus.dead_letters.list(limit=10_000))
        return [
            (
                letter.id,
                Letter(
                    letter.subscription,
                    self.numbers[letter.event_id],
                    tuple(attempt.number for attempt in letter.attempts),
                ),
            )
            for letter in letters
        ]

    @invariant()
    def counters_are_those_of_the_model(self) -> None:
        for name, subscription in self.subscriptions.items():
            state = subscription.state
            ended = self.model.ended
            assert state.handled == ended[name, "handled"]
            assert state.failed_attempts == ended[name, "failed"]
            assert state.dead_lettered == ended[name, "dead-lettered"]

    @invariant()
    def nothing_is_lost_or_forgotten(self) -> None:
        if not self.closed:
            state = self.bus.state()
            assert state.lost == 0
            assert state.unsettled == self.model.unsettled
            assert state.running_handlers == 0

    # --- the end ------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.check_the_end()
        finally:
            self.runner.close()

    def check_the_end(self) -> None:
        """Closing does what can be done within its timeout, and reports the rest.

        Nothing is due at its very end: whether that is handled still depends on the machine's speed.
        """
        timeout = 3.125
        report = self.run(lambda: self.until_done(self.bus.close(timeout)))
        self.closed = True
        elapsed = self.clock.monotonic() - self.model.now
        assert elapsed == timeout or (report.completed and elapsed < timeout)
        self.model.advance(elapsed)
        left = Counter(each.name for each in self.model.subscriptions for _ in each.jobs)
        assert Counter(item.subscription for item in report.abandoned) == left
        assert report.completed is not bool(left)
        self.calls_are_those_of_the_model()
        self.counters_are_those_of_the_model()
        assert all(task.done() for task in self.leaving)
        assert self.clock.timers == []


class MemoryMachine(BusMachine):
    """The memory adapter, handing over events as they are."""

    def open_bus(self) -> Bus:
        return make_bus(self.clock)


class SerializingMachine(BusMachine):
    """The memory adapter, passing every event through the serializer."""

    def open_bus(self) -> Bus:
        return make_bus(self.clock, memory={"serialize": True})


MACHINES = [MemoryMachine, SerializingMachine]
SETTINGS = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_bus_does_what_the_model_says(machine: type[BusMachine]) -> None:
    """After every one of many random steps, calls, letters and counters are those of the model."""
    run_state_machine_as_test(machine, settings=SETTINGS)


FOUND = {
    "acknowledge_failures",
    "forget_attempts",
    "count_postponements",
    "free_the_key_while_waiting",
    "swap_two_of_a_key",
    "redrive_to_everyone",
    "keep_redriven_letters",
    "forget_history",
    "ignore_pauses",
    "drain_at_once",
    "close_at_once",
}


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize(
    "planted", [each for each in BUGS if each.plant.__name__ in FOUND], ids=lambda each: each.plant.__name__
)
def test_the_model_finds_planted_bugs(monkeypatch: pytest.MonkeyPatch, planted: Bug) -> None:
    """Random steps find what is wrong with the bus."""
    planted.plant(monkeypatch)
    search = settings(SETTINGS, max_examples=300, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever it is, or a group of it
        run_state_machine_as_test(MemoryMachine, settings=search)


def test_every_bug_of_the_list_is_planted() -> None:
    """The names above are names of planted bugs."""
    assert {each.plant.__name__ for each in BUGS} >= FOUND
