"""The account of published and handled events, and every way in which it must not add up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

import attrs
import pytest

from bus_core import Event, PublishManyError, Topic, event, open_bus
from crm.account import Account, BusCounters, make_account
from crm.journal import DeadLetterEntry, Journal, JournaledBus


@event
class ThingMade(Event):
    number: int


@event
class ThingLost(Event):
    pass


THING_MADE = Topic("test.thing.made", ThingMade)
FIRST = "test.first"
STRANGER = uuid4()


@attrs.frozen
class Run:
    """The journals of a real run, and what the bus counted in it."""

    journal: Journal
    counters: BusCounters

    def account(self) -> Account:
        return make_account(self.journal, self.counters, seconds=1.0)

    def published_ids(self) -> list[UUID]:
        return [*self.journal.publishers[THING_MADE.name].accepted]


async def _run() -> Run:
    """Ten events for a handler that fails at times, and for one that gets every topic."""
    config = {"bus": {"adapter": "memory", "retry_attempts": 3, "retry_delay": "1ms"}}
    journal = Journal()
    troubles = {2: 1, 5: 2, 7: 3}

    async def handle(event: ThingMade) -> None:
        if troubles.get(event.number, 0):
            troubles[event.number] -= 1
            raise OSError("down")

    async def note(_event: Event) -> None:
        pass

    async with open_bus(config) as bus:
        journaled = JournaledBus(bus, journal)
        journaled.subscribe(THING_MADE, handle, name=FIRST)
        journaled.subscribe("#", note, name="test.everything")
        for number in range(10):
            await journaled.publish(THING_MADE, ThingMade(aggregate_id=uuid4(), number=number))
        await bus.drain()
        letters = await bus.dead_letters.list()
        journal.note_redriven(letters)
        await bus.dead_letters.redrive(letters)
        await bus.drain()
        return Run(journal, BusCounters(bus.published(), bus.state()))


@pytest.fixture
def run() -> Run:
    """A run in which everything was handled in the end."""
    return asyncio.run(_run())


def test_the_account_of_a_good_run_adds_up(run: Run) -> None:
    """Retries, a dead letter and its redrive are counted, nothing is lost, and nothing is at fault."""
    account = run.account()
    assert account.faults == ()
    (line,) = account.topics
    assert (line.published, line.expected, line.handled, line.lost) == (10, 20, 20, 0)
    assert (line.retried, line.dead_lettered, line.redriven) == (1 + 2 + 2, 1, 1)
    assert line.events_per_second > 0
    assert account.total == attrs.evolve(line, topic="total", events_per_second=10.0)


def test_a_journal_takes_nothing_from_the_counters_of_the_bus(run: Run) -> None:
    """The figures of the account come from the journals also when the bus counted nothing."""
    counters = BusCounters({}, attrs.evolve(run.counters.state, subscriptions=()))
    account = make_account(run.journal, counters, seconds=1.0)
    assert account.topics == run.account().topics
    assert len(account.faults) == 1 + 2


def drop_an_id(run: Run) -> None:
    del run.journal.handlers[FIRST].handled[THING_MADE.name][run.published_ids()[3]]


def double_an_id(run: Run) -> None:
    run.journal.handlers[FIRST].handled[THING_MADE.name][run.published_ids()[3]] += 1


def add_an_unexpected_id(run: Run) -> None:
    run.journal.handlers[FIRST].handled[THING_MADE.name][STRANGER] = 1


def add_an_unexpected_topic(run: Run) -> None:
    run.journal.handlers["test.everything"].handled["test.other.made"] = {STRANGER: 1}


def swap_an_id(run: Run) -> None:
    drop_an_id(run)
    add_an_unexpected_id(run)


def publish_an_id_twice(run: Run) -> None:
    run.journal.publishers[THING_MADE.name].accepted[run.published_ids()[3]] = 2


def forget_a_publish(run: Run) -> None:
    del run.journal.publishers[THING_MADE.name].accepted[run.published_ids()[3]]


def keep_a_dead_letter(run: Run) -> None:
    run.journal.remaining.append(DeadLetterEntry(FIRST, THING_MADE.name, run.published_ids()[3]))


def forget_a_redrive(run: Run) -> None:
    run.journal.redriven.clear()


@pytest.mark.parametrize(
    ("plant", "faults", "lost"),
    [
        (drop_an_id, [f"lost by {FIRST}: {THING_MADE.name}: 1", "the journals say 9 handled"], 1),
        (double_an_id, [f"handled more than once by {FIRST}", "the journals say 11 handled"], 0),
        (add_an_unexpected_id, [f"handled without being published by {FIRST}", str(STRANGER)], 0),
        (add_an_unexpected_topic, ["handled without being published by test.everything: test.other.made"], 0),
        (swap_an_id, [f"lost by {FIRST}", f"handled without being published by {FIRST}"], 1),
        (publish_an_id_twice, ["published more than once", "the journals say 11 published"], 0),
        (forget_a_publish, ["handled without being published", "the journals say 9 published"], 0),
        (keep_a_dead_letter, [f"{FIRST} left a dead letter of {THING_MADE.name}"], 0),
        (forget_a_redrive, ["0 redriven, the bus counted 1", "0 dead-lettered, the bus counted 1"], 0),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_mistake_is_found(
    run: Run, plant: Callable[[Run], None], faults: list[str], lost: int
) -> None:
    """Each mistake in a journal is named, and counts as a loss only if it is one."""
    plant(run)
    account = run.account()
    told = "\n".join(account.faults)
    assert not [fault for fault in faults if fault not in told], told
    assert account.total.lost == lost


def test_a_dead_letter_that_stays_is_no_loss(run: Run) -> None:
    """A delivery that ended in the dead letters for good is at fault, but not lost."""
    drop_an_id(run)
    keep_a_dead_letter(run)
    assert run.account().total.lost == 0
    assert any("left a dead letter" in fault for fault in run.account().faults)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("lost", 2, "the bus counted 2 lost"),
        ("unsettled", 1, "the bus holds 1 events that are not settled"),
    ],
)
def test_what_the_bus_admits_is_at_fault(run: Run, name: str, value: int, fault: str) -> None:
    """The account does not add up when the bus itself says so."""
    counters = attrs.evolve(run.counters, state=attrs.evolve(run.counters.state, **{name: value}))
    assert fault in make_account(run.journal, counters, seconds=1.0).faults


@pytest.mark.parametrize("name", ["handled", "failed_attempts", "retried", "dead_lettered", "redriven"])
def test_a_counter_that_disagrees_is_at_fault(run: Run, name: str) -> None:
    """Each counter of a subscription is compared with the journals."""
    first, *others = run.counters.state.subscriptions
    wrong = attrs.evolve(first, **{name: getattr(first, name) + 1})
    state = attrs.evolve(run.counters.state, subscriptions=(wrong, *others))
    account = make_account(run.journal, attrs.evolve(run.counters, state=state), seconds=1.0)
    assert [fault for fault in account.faults if name.replace("_", "-").partition("-")[0] in fault]
    assert len(account.faults) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("#", 1), ("test.#", 1), ("test.*.made", 1), ("*.*.*", 1), ("test.*", 0), ("testXthing.made", 0)],
)
def test_a_pattern_calls_for_deliveries(pattern: str, expected: int) -> None:
    """A subscription is expected to get the topics that its pattern matches, and no others."""
    journal = Journal()

    async def publish() -> BusCounters:
        async with open_bus({"bus": {"adapter": "memory"}}) as bus:
            journaled = JournaledBus(bus, journal)

            async def handle(_event: Event) -> None:
                pass

            journaled.subscribe(pattern if expected else "#", handle, name="test.pattern")
            await journaled.publish(THING_MADE, ThingMade(aggregate_id=uuid4(), number=1))
            await bus.drain()
            return BusCounters(bus.published(), bus.state())

    counters = asyncio.run(publish())
    journal.handlers["test.pattern"].pattern = pattern
    account = make_account(journal, counters, seconds=1.0)
    assert account.total.expected == expected
    assert bool(account.faults) is not bool(expected)


async def test_what_a_batch_had_refused_is_not_expected() -> None:
    """Of a batch those events are journaled that the bus has accepted."""
    journal = Journal()
    good, wrong = ThingMade(aggregate_id=uuid4(), number=1), ThingLost(aggregate_id=uuid4())
    async with open_bus({"bus": {"adapter": "memory"}}) as bus:
        with pytest.raises(PublishManyError):
            await JournaledBus(bus, journal).publish_many([(THING_MADE, good), (THING_MADE, wrong)])
    assert journal.publishers[THING_MADE.name].accepted == {good.event_id: 1}
    assert journal.published_count == 1
