"""The account: what it counts, and which planted bugs it catches."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
from click.testing import CliRunner

from bus_core import (
    Bus,
    BusError,
    Delivery,
    DrainReport,
    Envelope,
    Event,
    FixedRetry,
    Handler,
    Middleware,
    PublishManyError,
    Topic,
    event,
    open_sync_bus,
)
from promenade_bus_cli.main import cli
from promenade_bus_testing import Account, Journal, VirtualClock, isolated_bus, recording
from support.inline_plugins import middleware_plugin


@event
class Paid(Event):
    """Money changed hands."""

    cents: int = 0


@event
class Lent(Event):
    """Money that comes back."""


PAID = Topic("till.money.paid", Paid)
GIVEN = Topic("till.money.given", Paid)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journals", "test") as journal:
        yield journal


def account(journal: Journal, **options: Any) -> Account:
    return Account.of(journal.path.parent, **options)


def paid() -> Paid:
    return Paid(aggregate_id=uuid4())


async def business(bus: Bus, journal: Journal, count: int = 20) -> None:
    """Two subscriptions, one to a pattern, one that fails at first; then ``count`` events of each topic."""
    failed: set[object] = set()

    async def book(event: Paid) -> None:
        if event.event_id not in failed:
            failed.add(event.event_id)
            raise ConnectionError

    journal.subscribe(bus, PAID, book, name="book")
    journal.subscribe(bus, "till.#", lambda event: None, name="audit")
    for _ in range(count):
        await journal.publish(bus, PAID, paid())
        await journal.publish(bus, GIVEN, paid())
    await bus.drain()
    await journal.finish(bus)


# --- what it counts ---------------------------------------------------------------------------------------


@pytest.mark.promenade(allow_failures=True)
async def test_a_good_bus_adds_up(bus: Bus, journal: Journal) -> None:
    """Where every event is handled in the end, the account has every count and no fault."""
    await business(bus, journal)
    found = account(journal)
    assert found.faults == ()
    assert found.adds_up
    assert (found.attempted, found.acknowledged, found.stuck, found.torn) == (40, 40, 0, 0)
    audit, book = found.subscriptions
    assert (audit.name, audit.expected, audit.handled, audit.failed) == ("audit", 40, 40, 0)
    assert (book.name, book.expected, book.handled, book.failed) == ("book", 20, 20, 20)
    assert found.total("lost") == found.total("duplicated") == found.total("unexpected") == 0
    found.check()


@pytest.mark.promenade(allow_failures=True, retry={"policy": "none"})
async def test_dead_letters_are_an_end(bus: Bus, journal: Journal) -> None:
    """An event that is in the store of dead letters at the end is not lost, however many there are."""
    await business(bus, journal, count=120)
    (_, book) = account(journal).subscriptions
    assert (book.handled, book.dead_lettered, book.lost) == (0, 120, 0)
    assert account(journal).adds_up


@pytest.mark.promenade(allow_failures=True, retry={"policy": "none"}, memory={"dead_letters": 5})
async def test_only_what_is_kept_counts(bus: Bus, journal: Journal) -> None:
    """A dead letter that the store had to drop is lost; the counter of the bus covers it."""
    await business(bus, journal)
    found = account(journal)
    (_, book) = found.subscriptions
    assert (book.dead_lettered, book.lost, found.counted_lost) == (5, 15, 15)
    assert found.adds_up


async def test_a_sync_bus_is_journaled_too(journal: Journal) -> None:
    """Publishers and handlers in threads write the same records."""
    with open_sync_bus({"bus": {"adapter": "memory"}}) as bus:
        journal.subscribe_sync(bus, PAID, lambda event: None, name="book")
        journal.publish_sync(bus, PAID, paid())
        bus.drain()
        journal.finish_sync(bus)
    assert account(journal).total("handled") == 1
    assert account(journal).adds_up


async def test_a_batch_is_journaled_event_by_event(bus: Bus, journal: Journal) -> None:
    """Of a batch each event is written down; one that is refused is not expected by anybody."""
    journal.subscribe(bus, PAID, lambda event: None, name="book")
    await journal.publish_many(bus, [(PAID, paid()) for _ in range(5)])
    with pytest.raises(PublishManyError):
        await journal.publish_many(bus, [(PAID, paid()), (PAID, Lent(aggregate_id=uuid4())), (PAID, paid())])
    await bus.drain()
    found = account(journal)
    assert (found.attempted, found.acknowledged, found.total("handled")) == (8, 7, 7)
    assert found.adds_up


async def test_a_batch_that_is_interrupted_is_refused(bus: Bus, journal: Journal) -> None:
    """Where the bus takes nothing, no event of the batch counts as acknowledged."""
    await bus.close()
    with pytest.raises(BusError):
        await journal.publish_many(bus, [(PAID, paid()), (PAID, paid())])
    assert (account(journal).attempted, account(journal).acknowledged) == (2, 0)


async def test_the_same_event_on_two_topics(bus: Bus, journal: Journal) -> None:
    """An event is expected on each topic that it was published to."""
    journal.subscribe(bus, "till.#", lambda event: None, name="audit")
    event = paid()
    await journal.publish(bus, PAID, event)
    await journal.publish(bus, GIVEN, event)
    await bus.drain()
    assert (account(journal).total("expected"), account(journal).total("handled")) == (2, 2)
    journal.attempted(PAID, (other := paid()))
    journal.acknowledged(PAID, other)
    journal.attempted(GIVEN, other)
    journal.acknowledged(GIVEN, other)
    assert account(journal).total("lost") == 2


@pytest.mark.promenade(middleware={"publish": [{"chaos": {"fail_after": 1}}]})
async def test_what_was_not_acknowledged_may_be_handled_or_not(bus: Bus, journal: Journal) -> None:
    """An attempt that was not acknowledged is neither lost nor unexpected."""
    journal.subscribe(bus, PAID, lambda event: None, name="book")
    with pytest.raises(Exception, match="chaos"):
        await journal.publish(bus, PAID, paid())
    await bus.drain()
    journal.attempted(PAID, paid())
    found = account(journal)
    assert (found.attempted, found.acknowledged, found.total("expected")) == (2, 0, 0)
    assert found.adds_up


def test_recovery(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to recover is counted from the last mark ``healed``."""
    now = iter(range(100))
    monkeypatch.setattr("promenade_bus_testing.journal.time.monotonic", lambda: float(next(now)))
    journal.subscribed("book", PAID)  # 0
    early, late = str(uuid4()), str(uuid4())
    for kind, event_id in [("attempted", early), ("acknowledged", early)]:  # 1, 2
        journal.write(kind, topic=PAID.name, event_id=event_id)  # type: ignore[arg-type]
    journal.mark("healed")  # 3
    for event_id in (late, early):
        if event_id == late:
            journal.write("attempted", topic=PAID.name, event_id=late)  # 4
            journal.write("acknowledged", topic=PAID.name, event_id=late)  # 5
        of = {"topic": PAID.name, "event_id": event_id, "subscription": "book"}
        journal.write("begun", **of)  # 6, 8
        journal.write("handled", **of)  # 7, 9
    found = account(journal)
    assert (found.recovery, found.caught_up) == (4.0, 6.0)
    assert found.adds_up


# --- planted bugs -----------------------------------------------------------------------------------------


def lose_one(handler: Handler) -> Handler:
    """Settles one delivery without calling its handler."""
    count = iter(range(10_000))

    async def losing(envelope: Envelope) -> None:
        if next(count) != 5:
            await handler(envelope)

    return losing


def acknowledge_first(handler: Handler) -> Handler:
    """Settles every delivery, whatever comes of it."""

    async def acknowledging(envelope: Envelope) -> None:
        with contextlib.suppress(ConnectionError):
            await handler(envelope)

    return acknowledging


def deliver_twice(handler: Handler) -> Handler:
    """Hands one delivery to its handler twice."""
    count = iter(range(10_000))

    async def doubling(envelope: Envelope) -> None:
        await handler(envelope)
        if next(count) == 5:
            await handler(envelope)

    return doubling


def invent_one(handler: Handler) -> Handler:
    """Delivers an event that nobody has published."""
    count = iter(range(10_000))

    async def inventing(envelope: Envelope) -> None:
        await handler(envelope)
        assert envelope.delivery is not None
        if envelope.delivery.subscription == "audit" and next(count) == 5:
            envelope.event = paid()
            await handler(envelope)

    return inventing


def misroute_one(handler: Handler) -> Handler:
    """Delivers an event under another topic than the one it was published to."""
    count = iter(range(10_000))

    async def misrouting(envelope: Envelope) -> None:
        await handler(envelope)
        if next(count) == 5 and envelope.delivery is not None:
            envelope.delivery = attrs.evolve(envelope.delivery, topic="till.money.stolen")
            await handler(envelope)

    return misrouting


async def sabotaged(bug: Middleware, journal: Journal) -> None:
    """The same business on a bus with a bug; only ``audit``, whose handler never fails, and ``book``."""
    options: dict[str, Any] = {"plugins": [middleware_plugin(bug=bug)], "middleware": ["bug"]}
    async with isolated_bus(worker_pool_size=1, **options) as bus, recording(bus) as recorder:
        recorder.failures.allow()
        await business(bus, journal)


# Most bugs are in both subscriptions: a middleware is made for each of them.
PLANTED: list[tuple[Middleware, str, str, int]] = [
    (lose_one, "lost", "2 lost: audit till.money.", 2),
    (acknowledge_first, "lost", "20 lost: book till.money.paid ", 20),
    (deliver_twice, "duplicated", "2 duplicated, 0 allowed: audit till.money.", 2),
    (invent_one, "unexpected", "1 unexpected: audit till.money.", 1),
    (misroute_one, "unexpected", "2 unexpected: audit till.money.stolen ", 2),
]


@pytest.mark.parametrize(
    ("bug", "what", "says", "count"),
    PLANTED,
    ids=[row[0].__name__ for row in PLANTED],  # type: ignore[attr-defined]
)
async def test_planted_bugs_are_caught(
    journal: Journal, bug: Middleware, what: str, says: str, count: int
) -> None:
    """A bus that acks too early, loses, doubles, invents or misroutes does not add up, and why is told."""
    await sabotaged(bug, journal)
    found = account(journal)
    (fault,) = found.faults
    assert fault.startswith(says)
    assert found.total(what) == count
    with pytest.raises(AssertionError, match=f"the account does not add up:\n  {says[:6]}"):
        found.check()


async def test_a_bound_for_duplicates(journal: Journal) -> None:
    """Duplicates up to the stated bound are no fault, but they are counted."""
    await sabotaged(deliver_twice, journal)
    assert account(journal, duplicates=2).adds_up
    assert account(journal, duplicates=2).total("duplicated") == 2
    assert not account(journal, duplicates=1).adds_up


async def test_a_counted_loss_is_told(journal: Journal) -> None:
    """A loss that a counter of the bus covers is no fault; one more is."""
    await sabotaged(lose_one, journal)
    journal.counted_lost(2)
    assert account(journal).adds_up
    journal.attempted(GIVEN, (event := paid()))
    journal.acknowledged(GIVEN, event)
    assert account(journal).faults[0].startswith("3 lost, and the bus counted only 2 as lost: ")


async def test_what_is_stuck_or_abandoned_is_a_fault(
    bus: Bus, journal: Journal, virtual_clock: VirtualClock, fail_next: Callable[..., None]
) -> None:
    """Events that are pending at the end do not add up."""
    journal.subscribe(bus, PAID, lambda event: None, name="book", retry=FixedRetry(attempts=2, delay=60))
    fail_next("book", ConnectionError)
    await journal.publish(bus, PAID, paid())
    await virtual_clock.settle()
    journal.stuck(bus.state().unsettled)
    assert account(journal).faults == (
        account(journal).faults[0],
        "1 stuck: pending, unread or abandoned at the end",
    )
    await virtual_clock.run(bus.drain())
    journal.abandoned(DrainReport(True, (), 0.0))
    assert account(journal).total("lost") == 0


# --- journals that are not sound --------------------------------------------------------------------------


def test_nothing_is_shown_by_nothing(journal: Journal, tmp_path: Path) -> None:
    """Without a subscription nothing was expected, which is a fault; without a journal it is an error."""
    assert account(journal).faults == (
        "no journal records a subscription: no event was expected, so the account proves nothing",
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no journal at"):
        Account.of(tmp_path / "empty")


def test_a_torn_last_line_is_tolerated_and_counted(journal: Journal) -> None:
    """A process that died while it wrote leaves half a line, which counts as not written."""
    journal.subscribed("book", PAID)
    journal.attempted(PAID, (event := paid()))
    journal.acknowledged(PAID, event)
    journal.write("begun", topic=PAID.name, event_id=str(event.event_id), subscription="book")
    with journal.path.open("ab") as file:
        file.write(b'{"kind":"handled","at":1.0,"topic":"till.money.paid","ev')
    found = account(journal)
    assert (found.torn, found.total("lost"), found.total("interrupted")) == (1, 1, 1)


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[]", b'{"kind":"handeld","at":1}', b'{"kind":"mark"}', b'{"kind":"mark","x":1}'],
)
def test_any_other_damage_is_a_fault(journal: Journal, line: bytes) -> None:
    """A line that is no record, with others behind it, makes the whole account worthless."""
    journal.subscribed("book", PAID)
    with journal.path.open("ab") as file:
        file.write(line + b"\n")
    journal.mark("end")
    (fault,) = account(journal).faults
    assert fault.startswith(f"{journal.path}: line 2 is not a record: ")


def test_records_that_contradict_each_other_are_faults(journal: Journal) -> None:
    """Deliveries acknowledged untried, handled unbegun, or of no known subscription are reported."""
    journal.acknowledged(PAID, paid())
    journal.write("handled", topic=PAID.name, event_id=str(uuid4()), subscription="ghost")
    text = "\n".join(account(journal).faults)
    assert "ghost: no journal records the topic of this subscription; use Journal.subscribed" in text
    assert "1 acknowledged without having been attempted: till.money.paid " in text
    assert "1 attempts have an end and no beginning: ghost till.money.paid " in text
    assert "1 unexpected: ghost till.money.paid " in text


def test_nothing_happens_that_cannot_be_written_down(journal: Journal) -> None:
    """When the journal cannot be written, the handler is not called and fails."""
    called: list[object] = []
    handler = journal.wrap("book", lambda event: called.append(event))
    journal.close()
    journal.close()
    event = paid()
    delivery = Delivery(PAID.name, "book", str(event.event_id), 1, False, event.occurred_at, {})
    with pytest.raises(OSError, match="descriptor"):
        handler(event, delivery)
    assert called == []


# --- several processes ------------------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from uuid import uuid4
from bus_core import Event, Topic, event, open_bus
from promenade_bus_testing import Journal

@event
class Paid(Event):
    cents: int = 0

PAID = Topic("till.money.paid", Paid)

async def main():
    journal = Journal(sys.argv[1], "worker")
    async with open_bus({"bus": {"adapter": "memory"}}) as bus:
        async def book(event):
            await asyncio.sleep(0)
        journal.subscribe(bus, PAID, book, name="book")
        number = 0
        while True:
            await journal.publish(bus, PAID, Paid(aggregate_id=uuid4()))
            number += 1
            if number == 50:
                print("going", flush=True)

asyncio.run(main())
"""


def test_journals_of_killed_processes(tmp_path: Path) -> None:
    """Of processes that are killed, each record up to the last line is there, and what they lost is found."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    journals = tmp_path / "journals"
    workers = [
        subprocess.Popen([sys.executable, str(script), str(journals)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for worker in workers:
        with worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "going\n"
            worker.send_signal(signal.SIGKILL)
    files = sorted(journals.iterdir())
    assert len(files) == 2
    found = Account.of(*files)
    assert found.acknowledged >= 100
    assert found.attempted - found.acknowledged <= 2
    assert found.torn <= 2
    assert found.total("unexpected") == found.total("duplicated") == 0
    assert found.total("handled") + found.total("lost") == found.acknowledged
    assert [fault for fault in found.faults if " lost: " not in fault] == []


# --- the command ------------------------------------------------------------------------------------------


@pytest.mark.promenade(allow_failures=True)
async def test_the_command(bus: Bus, journal: Journal) -> None:
    """``promenade-bus account`` prints the counts; its exit status says whether they add up."""
    await business(bus, journal, count=5)
    good = CliRunner().invoke(cli, ["account", str(journal.path)])
    assert good.exit_code == 0, good.output
    lines = [" ".join(line.split()) for line in good.output.splitlines()]
    assert lines == [
        "SUBSCRIPTION EXPECTED HANDLED DEAD-LETTERED DUPLICATED LOST UNEXPECTED INTERRUPTED FAILED",
        "audit 10 10 0 0 0 0 0 0",
        "book 5 5 0 0 0 0 0 5",
        "10 events attempted, 10 acknowledged, 0 stuck, 0 counted as lost by the bus, 0 journals torn",
        "The account adds up.",
    ]
    journal.attempted(PAID, (event := paid()))
    journal.acknowledged(PAID, event)
    journal.mark("healed")
    bad = CliRunner().invoke(cli, ["account", str(journal.path.parent), "--json", "--duplicates", "3"])
    assert bad.exit_code == 1
    data = json.loads(bad.output)
    assert (data["acknowledged"], data["lost"], data["adds_up"]) == (11, 2, False)
    assert data["subscriptions"][1]["name"] == "book"
    text = CliRunner().invoke(cli, ["account", str(journal.path)])
    assert "The account does not add up:\n  2 lost: audit till.money.paid " in text.output


def test_the_command_without_journals(tmp_path: Path) -> None:
    """A path where there is no journal is an error of the command."""
    nothing = CliRunner().invoke(cli, ["account", str(tmp_path)])
    assert (nothing.exit_code, "no journal at" in nothing.output) == (1, True)
    assert CliRunner().invoke(cli, ["account", os.fspath(tmp_path / "nowhere")]).exit_code == 2
