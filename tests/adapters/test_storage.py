"""The base for adapters over a storage: what it owes to any storage, shown on one that keeps a dictionary."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from types import NoneType
from typing import Any
from uuid import uuid4

import attrs
import pytest

from bus_core import (
    AdapterError,
    DeadLetter,
    DeadLetterFilter,
    Features,
    Message,
    Outcome,
    PublishFailed,
    Received,
    SubscriptionSpec,
)
from bus_core.adapters import DEAD, NOBODY, Claim, Pending, Record, StorageAdapter, matches
from bus_core.adapters.leases import Heartbeats
from support.buses import until

TOPIC = "test.thing.happened"
SPEC = SubscriptionSpec(
    name="audit", group="tests.audit", topic=TOPIC, mode="group", ordered=False, start=None
)


class Storage(StorageAdapter):
    """Truly asynchronous: every call gives way, and a transaction that raises undoes all of it."""

    name = "storage"
    features = Features(durable=True, groups=True, delayed=True)

    def __init__(self) -> None:
        self.rows: dict[int, list[Any]] = {}
        self.patterns: dict[str, str] = {}
        self.keys = itertools.count()
        self.open_transactions = 0
        self.most_open = 0
        self.fails: Callable[[str], bool] = lambda call: False
        self.hearts: dict[str, int] = {}
        self.beating_in: set[str] = set()

    async def open(self) -> None: ...

    async def shut(self) -> None: ...

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        self.open_transactions += 1
        self.most_open = max(self.most_open, self.open_transactions)
        before = {key: [*row] for key, row in self.rows.items()}
        try:
            yield
        except BaseException:
            self.rows = before
            raise
        finally:
            self.open_transactions -= 1

    async def _call(self, name: str) -> None:
        await asyncio.sleep(0)
        if self.fails(name):
            raise OSError("the disk is gone")

    async def add(self, topic: str, text: str) -> None:
        await self._call("add")
        for name, pattern in self.patterns.items():
            if matches(pattern, topic):
                self.rows[next(self.keys)] = [name, text, "", 0.0]
        await self._call("added")

    async def subscribe(self, subscription: str, pattern: str, replay: bool) -> None:
        self.patterns[subscription] = pattern

    async def claim(
        self, subscription: str, owner: str, now: float, limit: int, dead: Collection[str]
    ) -> Sequence[Claim]:
        await self._call("claim")
        due = [
            (key, row)
            for key, row in self.rows.items()
            if row[0] == subscription and (row[3] <= now if row[2] == NOBODY else row[2] in dead)
        ]
        claims: list[Claim] = [(key, row[1], row[2] != "") for key, row in due[:limit]]
        for _, row in due[:limit]:
            row[2] = owner
        return claims

    def beat(self, owners: Sequence[str], gone: Sequence[str]) -> Iterable[tuple[str, int]]:
        self.beating_in.add(threading.current_thread().name)
        if self.fails("beat"):
            raise OSError("the disk is gone")
        for each in gone:
            self.hearts.pop(each, None)
        for each in owners:
            self.hearts[each] = self.hearts.get(each, 0) + 1
        return [*self.hearts.items()]

    async def change(self, key: Any, owner: str, record: Record | None) -> bool:
        await self._call("change")
        row = self.rows.get(key)
        if row is None or row[2] != owner:
            return False
        if record is None:
            del self.rows[key]
        else:
            row[1:] = attrs.astuple(record)
        return True

    async def pending(self) -> Sequence[Pending]:
        await self._call("pending")
        found: dict[tuple[str, str], list[float]] = {}
        for name, _, owner, due in self.rows.values():
            if owner != DEAD:
                found.setdefault((name, owner), []).append(due)
        return [(*place, len(dues), min(dues)) for place, dues in found.items()]

    async def dead(self) -> Sequence[tuple[Any, str]]:
        return [(key, row[1]) for key, row in self.rows.items() if row[2] == DEAD]


def message(number: int = 0) -> Message:
    return Message(id=str(uuid4()), topic=TOPIC, key=str(number), body=b"{}", headers={})


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with started() as adapter:
        yield adapter


@asynccontextmanager
async def started(lease: float = 30.0) -> AsyncIterator[Storage]:
    """A storage whose owners have a lease of so many seconds."""
    adapter = Storage()
    adapter.lease = lease
    await adapter.start()
    yield adapter
    await adapter.close()


async def beats(adapter: Storage, times: int) -> None:
    """Returns after so many heartbeats: six of them are a lease."""
    seen = adapter.heartbeats.beats
    await until(lambda: adapter.heartbeats.beats >= seen + times, "the heartbeats go on")


async def test_a_clock_that_is_set_robs_nobody(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting the time of day forward ends no lease of a process that runs."""
    consumer = await storage.open_consumer(SPEC)
    other = await storage.open_consumer(SPEC)
    await storage.publish([message()])
    [received] = await consumer.receive(1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    other.stop()  # so that it does not wait for anything
    assert await other.receive(1) == []
    another = await storage.open_consumer(SPEC)
    waiting = asyncio.create_task(another.receive(1))
    await until(lambda: another in storage._waiting, "it has claimed nothing, and waits")
    another.stop()
    assert await waiting == []
    assert await consumer.settle([_ack(received.receipt)]) == [None]
    for each in (consumer, other, another):
        await each.close()


async def test_each_problem_is_cleared_by_its_own_part() -> None:
    """Leases that cannot be renewed are told of while the storage can be read, until they can be renewed."""
    async with started(0.3) as storage:
        consumer = await storage.open_consumer(SPEC)
        storage.fails = lambda call: call == "beat"
        reading = asyncio.create_task(consumer.receive(1))
        await until(lambda: storage.degraded, "a renewal has failed")
        looks = 0
        real = storage.pending

        async def counted() -> Sequence[Pending]:
            nonlocal looks
            looks += 1
            return await real()

        storage.pending = counted  # type: ignore[method-assign]
        await until(lambda: looks > 3, "the storage was read again")
        assert storage.degraded == "the leases of 'storage' cannot be renewed: OSError"
        storage.fails = lambda call: call == "pending"
        await until(
            lambda: storage.degraded == "the storage of 'storage' cannot be read: OSError",
            "the other problem is left",
        )
        storage.fails = lambda call: False
        await until(lambda: storage.degraded is None, "all is well")
        consumer.stop()
        await reading
        await consumer.close()


async def test_without_heartbeats_it_does_not_start() -> None:
    """Leases that cannot be renewed are an error of the start, and nothing of it is left."""
    storage = Storage()
    storage.fails = lambda call: call == "beat"
    with pytest.raises(AdapterError, match="the leases of 'storage' cannot be renewed: OSError"):
        await storage.start()
    assert "promenade-storage-leases" not in {each.name for each in threading.enumerate()}


async def test_a_blocked_event_loop_loses_no_lease() -> None:
    """A handler that blocks for longer than a lease keeps what its process holds; a thread renews it."""
    async with started(0.3) as storage:
        consumer = await storage.open_consumer(SPEC)
        await storage.publish([message()])
        [received] = await consumer.receive(1)
        watcher = Heartbeats(storage.beat, name="watcher", lease=0.3)
        watcher.look_after([consumer._owner])
        watcher.start()
        await watcher.renewed()
        time.sleep(1.0)  # noqa: ASYNC251 - this is what it is about
        assert watcher.beats > 6
        assert consumer._owner not in watcher.dead
        assert not consumer.in_doubt
        assert await consumer.settle([_ack(received.receipt)]) == [None]
        await watcher.close()
        await consumer.close()
        assert storage.beating_in == {"promenade-storage-leases", "promenade-watcher-leases"}


async def test_transactions_do_not_mix(storage: Storage) -> None:
    """Where a transaction lasts over awaits, the next one begins when it has ended."""
    consumer = await storage.open_consumer(SPEC)
    results = await asyncio.gather(*[storage.publish([message(number)]) for number in range(20)])
    assert results == [[None]] * 20
    assert storage.most_open == 1
    assert len(await consumer.receive(100)) == 20
    await consumer.close()


async def test_a_transaction_that_fails_undoes_no_other(storage: Storage) -> None:
    """A publish that fails takes back its own messages, and not those of a caller at the same time."""
    consumer = await storage.open_consumer(SPEC)
    calls = itertools.count()
    storage.fails = lambda call: call == "added" and next(calls) == 1
    first, second, third = await asyncio.gather(*[storage.publish([message(n)]) for n in range(3)])
    assert (first, third) == ([None], [None])
    assert second[0] is not None
    received = await consumer.receive(100)
    assert [each.message.key for each in received] == ["0", "2"]
    await consumer.close()


class PickyStorage(Storage):
    """It takes no record that waits for a retry."""

    async def change(self, key: Any, owner: str, record: Record | None) -> bool:
        if record is not None:
            raise OSError("too large")
        return await super().change(key, owner, record)


async def test_an_outcome_that_is_refused_holds_up_no_other() -> None:
    """Those that are settled with it in one call are done, each in a transaction of its own."""
    storage = PickyStorage()
    await storage.start()
    consumer = await storage.open_consumer(SPEC)
    await storage.publish([message(number) for number in range(5)])
    first, *others = [each.receipt for each in await consumer.receive(5)]
    outcomes = [Outcome("retry", first, 0.0, 2, ()), *map(_ack, others)]
    refused, *done = await consumer.settle(outcomes)
    assert isinstance(refused, AdapterError)
    assert done == [None] * 4
    assert [*storage.rows] == [first.key]
    await consumer.close()
    await storage.close()


async def test_a_message_that_is_refused_holds_up_no_other(storage: Storage) -> None:
    """Publishes of others that travel with it are stored, each in a transaction of its own."""
    consumer = await storage.open_consumer(SPEC)
    calls = itertools.count()
    storage.fails = lambda call: call == "add" and next(calls) in (1, 2)  # in the batch, and then alone
    results = await storage.publish([message(number) for number in range(5)])
    assert sorted(map(type, results), key=str) == [NoneType] * 4 + [PublishFailed]
    assert len(await consumer.receive(100)) == 4
    await consumer.close()


async def test_where_several_are_refused_each_other_gets_its_turn() -> None:
    """A storage that may refuse everything is not asked for each of many; the next call begins elsewhere."""
    storage = PickyStorage()
    await storage.start()
    consumer = await storage.open_consumer(SPEC)
    await storage.publish([message(number) for number in range(20)])
    receipts = [each.receipt for each in await consumer.receive(20)]
    left = {receipt.key: Outcome("retry", receipt, 0.0, 2, ()) for receipt in receipts[:19]}
    left[receipts[19].key] = _ack(receipts[19])
    results: Sequence[object] = [AdapterError("not tried")]
    tries = 0
    while results[-1] is not None:
        results = await consumer.settle([*left.values()])
        tries += 1
        assert tries < 1000
    assert all(isinstance(each, AdapterError) for each in results[:-1])
    assert len(storage.rows) == 19
    await consumer.close()
    await storage.close()


@pytest.mark.parametrize("action", ["retry", "release", "hold"])
async def test_how_long_it_has_waited_is_kept(storage: Storage, action: Any) -> None:
    """The next delivery of a message shows its outcome; after a redrive it shows nothing."""
    consumer = await storage.open_consumer(SPEC)
    await storage.publish([message()])
    [received] = await consumer.receive(1)
    assert received.waited == 0
    await consumer.settle([Outcome(action, received.receipt, 0.0, 2, (), waited=7.5)])
    if action == "hold":
        await consumer.settle([Outcome("release", received.receipt, 0.0, 2, (), waited=7.5)])
    [again] = await consumer.receive(1)
    assert again.waited == 7.5
    await consumer.settle([_buried(again)])
    assert await storage.redrive([letter.id for letter in await storage.list(DeadLetterFilter(), 9)]) == 1
    [redriven] = await consumer.receive(1)
    assert (redriven.waited, redriven.published_at) == (0, received.published_at)
    await consumer.close()


async def test_a_record_that_makes_no_sense_harms_itself(storage: Storage) -> None:
    """It is received with a fault, and becomes a dead letter with its text; what is beside it is handled."""
    consumer = await storage.open_consumer(SPEC)
    await storage.publish([message(number) for number in range(3)])
    storage.rows[1][1] = "written by \ud800 somebody else"
    first, strange, last = await consumer.receive(9)
    assert [each.fault is None for each in (first, strange, last)] == [True, False, True]
    assert (strange.message.topic, strange.message.body) == (TOPIC, b"written by \\ud800 somebody else")
    outcomes = [_ack(first.receipt), _buried(strange), _ack(last.receipt)]
    assert await consumer.settle(outcomes) == [None] * 3
    [letter] = await storage.list(DeadLetterFilter(), 9)
    assert await storage.redrive([letter.id]) == 1
    [again] = await consumer.receive(9)
    assert (again.message.body, again.fault) == (strange.message.body, None)
    await consumer.close()


async def test_a_letter_that_makes_no_sense_harms_itself(storage: Storage) -> None:
    """The others are listed and redriven; health tells how many are left out."""
    consumer = await storage.open_consumer(SPEC)
    await storage.publish([message(number) for number in range(2)])
    await consumer.settle([_buried(each) for each in await consumer.receive(9)])
    storage.rows[0][1] = "somebody else's"
    [letter] = await storage.list(DeadLetterFilter(), 9)
    assert storage.degraded == (
        "1 dead letters in the storage of 'storage' are left out: they are not what the bus has written"
    )
    assert await storage.redrive([letter.id]) == 1
    assert await storage.purge(DeadLetterFilter()) == 0
    await consumer.close()


async def test_a_row_that_makes_no_sense_harms_itself(storage: Storage) -> None:
    """A record whose time is no number is passed over and named, and those who wait are told of others."""
    consumer = await storage.open_consumer(SPEC)
    real = storage.pending

    async def odd() -> Sequence[Pending]:
        return [("x", "y", 1, None), *await real()]  # type: ignore[list-item]

    storage.pending = odd  # type: ignore[method-assign]
    waiting = asyncio.create_task(consumer.receive(1))
    await until(lambda: storage.degraded, "it was seen")
    assert storage.degraded == (
        "records in the storage of 'storage' are passed over: when they are due is no number"
    )
    await storage.publish([message(7)])
    async with asyncio.timeout(30):
        [received] = await waiting
    assert received.message.key == "7"
    storage.pending = real  # type: ignore[method-assign]
    await until(lambda: storage.degraded is None, "all is well")
    await consumer.close()


async def test_its_task_goes_on(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """The task survives any error of a driver, its own cancellations, and cancellations by a program."""
    storage.lease = 0.03  # it looks often
    consumer = await storage.open_consumer(SPEC)
    real = storage.pending
    left: list[BaseException] = [TypeError("secret"), asyncio.CancelledError("secret")]
    told: set[str | None] = set()
    calls = 0

    async def fails(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if left:
            raise left.pop(0)
        told.add(storage.degraded)
        return await real(*arguments)

    storage.pending = fails  # type: ignore[method-assign]
    await until(lambda: not left and None in told, "it went on")
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    seen = calls
    await until(lambda: calls > seen + 1, "it goes on")
    assert any("TypeError" in (each or "") for each in told) or "TypeError" in caplog.text
    assert "secret" not in caplog.text
    await consumer.close()


async def test_what_a_driver_says_is_not_repeated(storage: Storage) -> None:
    """An error names the class and the place of its cause; a statement, or a password in it, stays there."""
    consumer = await storage.open_consumer(SPEC)

    async def refuse(*_: Any) -> Any:
        raise OSError("INSERT INTO record VALUES ('bob@example.com') at postgres://bus:secret@db")

    for call in ("claim", "pending", "add"):
        setattr(storage, call, refuse)
    with pytest.raises(AdapterError) as caught:
        await consumer.receive(1)
    assert re.fullmatch(
        r"the storage of 'storage' cannot claim records: OSError at \S+test_storage.py:\d+ in refuse",
        str(caught.value),
    )
    assert isinstance(caught.value.__cause__, OSError)
    [failed] = await storage.publish([message()])
    await until(lambda: storage.degraded, "it was looked for what is due")
    assert "secret" not in f"{failed}{storage.degraded}"
    assert "bob@" not in f"{failed}{storage.degraded}"
    await consumer.close()


async def test_two_of_one_subscription_wait(storage: Storage) -> None:
    """Each of them is woken, and one that ends its wait leaves the other waiting."""
    first, second = await storage.open_consumer(SPEC), await storage.open_consumer(SPEC)
    waiting = [asyncio.create_task(each.receive(1)) for each in (first, second)]
    await until(lambda: len(storage._waiting) == 2, "both wait")
    first.stop()
    assert await waiting[0] == []
    await storage.publish([message(7)])
    async with asyncio.timeout(30):
        [received] = await waiting[1]
    assert received.message.key == "7"
    waiting[1] = asyncio.create_task(second.receive(1))
    await until(lambda: storage._waiting, "it waits")
    waiting[1].cancel()
    await asyncio.wait(waiting)
    assert not storage._waiting
    for each in (first, second):
        await each.close()


async def test_what_the_dead_own_is_found_while_all_are_busy() -> None:
    """Somebody who died is noticed although nobody waits for anything, whatever the time of day there was."""
    async with started(0.1) as storage:
        dead, busy = await storage.open_consumer(SPEC), await storage.open_consumer(SPEC)
        await storage.publish([message(1)])
        assert len(await dead.receive(1)) == 1
        await dead.close()
        storage.rows[0][3] += 1e9  # its clock was wrong
        await storage.publish([message(number) for number in range(2, 1000)])
        received: list[Received] = []
        async with asyncio.timeout(10):
            while not any(each.message.key == "1" for each in received):
                received = [*await busy.receive(1)]
                await busy.settle([_ack(each.receipt) for each in received])
                await asyncio.sleep(0.005)
        assert [(each.attempt, each.owner_died) for each in received] == [(2, True)]
        await busy.close()


async def test_an_owner_without_heartbeats_dies_once(storage: Storage) -> None:
    """Numbers that somebody deleted rob nobody who lives; who has none is dead after a lease, not before."""
    async with started(0.3) as other:
        other.hearts, other.rows, other.patterns = storage.hearts, storage.rows, storage.patterns
        storage.lease = 0.3
        owner = await other.open_consumer(SPEC)
        await other.publish([message()])
        [received] = await owner.receive(1)
        watcher = Heartbeats(other.beat, name="watcher", lease=0.3)
        watcher.look_after([owner._owner, "gone.0.3"])
        watcher.start()
        await watcher.renewed()
        assert watcher.dead == {}
        for _ in range(5):
            other.hearts.clear()
            await beats(other, 2)
            assert owner._owner not in watcher.dead
        await until(lambda: watcher.dead == {"gone.0.3": None}, "who never had one is dead")
        assert await owner.settle([_ack(received.receipt)]) == [None]
        await watcher.close()
        await owner.close()


async def test_owners_are_judged() -> None:
    """A new process waits for a heartbeat of who lives, and for a lease of who does not."""
    numbers = {"alive.60.0": 1, "dead.0.2": 7}

    def beat(owners: Sequence[str], gone: Sequence[str]) -> Iterable[tuple[str, int]]:
        numbers["alive.60.0"] += 1
        return [*numbers.items()]

    heart = Heartbeats(beat, name="heart", lease=6.0)
    heart.start()
    await heart.judged(["alive.60.0", "dead.0.2", "unknown.60.0"])
    assert heart.dead == {"dead.0.2": 7}
    await heart.close()


async def test_who_stood_still_takes_nobody_for_dead() -> None:
    """After a standstill of its own a process watches the others anew: they may have stood still as well."""
    numbers = {"other.0.3": 7}
    failing = threading.Event()

    def beat(owners: Sequence[str], gone: Sequence[str]) -> Iterable[tuple[str, int]]:
        if failing.is_set():
            raise OSError("locked")
        return [*numbers.items()]

    heart = Heartbeats(beat, name="heart", lease=0.3)
    heart.start()
    await heart.renewed()
    first = heart.session
    failing.set()
    await until(lambda: not heart.is_sure(first), "it is not sure any more")
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 0.3, "more than a lease is over")
    failing.clear()
    await until(lambda: heart.session > first, "it beats again")
    assert heart.dead == {}
    await until(lambda: heart.dead == {"other.0.3": 7}, "it has watched for a lease")
    await heart.close()


async def test_numbers_of_the_dead_are_deleted() -> None:
    """When everybody knows of a death the number is deleted; those of closed consumers at once."""
    async with started(0.1) as storage:
        storage.hearts["crashed.0.1"] = 3
        consumer = await storage.open_consumer(SPEC)
        await until(lambda: len(storage.hearts) == 2, "it has a number")
        await consumer.close()
        await until(lambda: storage.hearts == {}, "both are deleted")


async def test_after_a_standstill_it_asks_what_is_its_own() -> None:
    """A consumer whose lease may have ended is in doubt, and keeps what nobody has taken."""
    async with started(0.3) as storage:
        consumer = await storage.open_consumer(SPEC)
        await storage.publish([message(number) for number in range(2)])
        first, second = await consumer.receive(9)
        await consumer.settle([Outcome("hold", first.receipt, 0.0, 2, ())])
        await until(lambda: not consumer.in_doubt, "it is sure")
        storage.fails = lambda call: call == "beat"
        await until(lambda: consumer.in_doubt, "it could not renew")
        with pytest.raises(AdapterError, match="the leases of 'storage' cannot be renewed: OSError"):
            await consumer.confirm([first.receipt])
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.3, "more than a lease is over")
        storage.fails = lambda call: False
        await beats(storage, 2)
        assert consumer.in_doubt  # although it has heartbeats again: others may have taken what it has
        storage.rows[1][2] = "another"
        assert await consumer.confirm([first.receipt, second.receipt]) == [True, False]
        await until(lambda: not consumer.in_doubt, "it is sure again")
        assert '"attempt":2' in storage.rows[0][1].replace(" ", "")
        await consumer.close()


def _buried(received: Received) -> Outcome:
    read = received.message
    letter = DeadLetter(
        str(uuid4()), TOPIC, "audit", None, read.key, "gave up", (), read.body, dead_at=datetime.now(UTC)
    )
    return Outcome("dead_letter", received.receipt, letter=letter)


def _ack(receipt: object) -> Any:
    return Outcome("ack", receipt, 0.0, 1, ())
