"""The base for adapters over a storage: what it owes to any storage, shown on one that keeps a dictionary."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
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
from bus_core.adapters import DEAD, Claim, Record, StorageAdapter, matches
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
        self.renewed = 0

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
        self, subscription: str, owner: str, now: float, until: float, limit: int
    ) -> Sequence[Claim]:
        await self._call("claim")
        due = [
            (key, row)
            for key, row in self.rows.items()
            if row[0] == subscription and row[2] != DEAD and row[3] <= now
        ]
        claims: list[Claim] = [(key, row[1], row[2] != "") for key, row in due[:limit]]
        for _, row in due[:limit]:
            row[2:] = owner, until
        return claims

    async def renew(self, subscription: str, owner: str, until: float) -> None:
        await self._call("renew")
        self.renewed += 1
        for row in self.rows.values():
            if row[0] == subscription and row[2] == owner:
                row[3] = until

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

    async def pending(self) -> Sequence[tuple[str, int, float]]:
        await self._call("pending")
        found: dict[str, list[float]] = {}
        for name, _, owner, due in self.rows.values():
            if owner != DEAD:
                found.setdefault(name, []).append(due)
        return [(name, len(dues), min(dues)) for name, dues in found.items()]

    async def dead(self) -> Sequence[tuple[Any, str]]:
        return [(key, row[1]) for key, row in self.rows.items() if row[2] == DEAD]


def message(number: int = 0) -> Message:
    return Message(id=str(uuid4()), topic=TOPIC, key=str(number), body=b"{}", headers={})


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    adapter = Storage()
    await adapter.start()
    yield adapter
    await adapter.close()


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
    await until(lambda: another in storage._waiting.values(), "it has claimed nothing, and waits")
    another.stop()
    assert await waiting == []
    assert await consumer.settle([_ack(received.receipt)]) == [None]
    for each in (consumer, other, another):
        await each.close()


async def test_each_problem_is_cleared_by_its_own_part(storage: Storage) -> None:
    """Leases that cannot be renewed are told of while the storage can be read, until they can be renewed."""
    storage.lease = 0.03
    storage.fails = lambda call: call == "renew"
    consumer = await storage.open_consumer(SPEC)
    reading = asyncio.create_task(consumer.receive(1))
    try:
        await until(lambda: storage.degraded, "a renewal has failed")
        looks = 0
        real = storage.pending

        async def counted() -> Sequence[tuple[str, int, float]]:
            nonlocal looks
            looks += 1
            return await real()

        storage.pending = counted  # type: ignore[method-assign]
        await until(lambda: looks > 3, "the storage was read again")
        assert storage.degraded == "its leases cannot be renewed: OSError"
        storage.fails = lambda call: call == "pending"
        await until(
            lambda: storage.degraded == "its storage cannot be read: OSError", "the other problem is left"
        )
        storage.fails = lambda call: False
        await until(lambda: storage.degraded is None, "all is well")
    finally:
        consumer.stop()
        await reading
        await consumer.close()


async def test_a_closed_consumer_has_no_problem(storage: Storage) -> None:
    """What a consumer could not do is no problem any more when it is closed."""
    storage.lease = 0.03
    storage.fails = lambda call: call == "renew"
    consumer = await storage.open_consumer(SPEC)
    await until(lambda: storage.degraded, "a renewal has failed")
    await consumer.close()
    assert storage.degraded is None


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
    assert [*storage.rows] == [first[0]]
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
    left = {receipt[0]: Outcome("retry", receipt, 0.0, 2, ()) for receipt in receipts[:19]}
    left[receipts[19][0]] = _ack(receipts[19])
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


async def test_a_redrive_is_dated(storage: Storage) -> None:
    """What comes back from the dead letters tells when it was redriven, also after a retry."""
    consumer = await storage.open_consumer(SPEC)
    await storage.publish([message()])
    [received] = await consumer.receive(1)
    assert received.redriven_at is None
    await consumer.settle([_buried(received)])
    began = datetime.now(UTC)
    assert await storage.redrive([letter.id for letter in await storage.list(DeadLetterFilter(), 9)]) == 1
    [again] = await consumer.receive(1)
    assert again.redriven_at is not None
    assert began <= again.redriven_at <= datetime.now(UTC)
    await consumer.settle([Outcome("retry", again.receipt, 0.0, 2, ())])
    [retried] = await consumer.receive(1)
    assert (retried.redriven_at, retried.published_at) == (again.redriven_at, received.published_at)
    await consumer.close()


def _buried(received: Received) -> Outcome:
    read = received.message
    letter = DeadLetter(
        str(uuid4()), TOPIC, "audit", None, read.key, "gave up", (), read.body, dead_at=datetime.now(UTC)
    )
    return Outcome("dead_letter", received.receipt, letter=letter)


def _ack(receipt: object) -> Any:
    return Outcome("ack", receipt, 0.0, 1, ())
