"""The adapter that the guide `write-an-adapter` builds keeps the contract."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from bus_core import (
    AdapterError,
    Delivery,
    Features,
    LeaseLost,
    Message,
    Outcome,
    PublishFailed,
    SubscriptionSpec,
    open_bus,
)
from promenade_bus_testing.contract import AdapterContract, Place
from support.buses import HAPPENED, Happened, happened

pytestmark = pytest.mark.once

GUIDE = Path(__file__).resolve().parents[2] / "docs/how-to/write-an-adapter.md"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def source_of_the_guide() -> str:
    """The code of the page up to where it is offered, as the file that it is; what follows uses it."""
    text = GUIDE.read_text(encoding="utf-8")
    return "\n\n".join(CODE.findall(text[: text.index("The adapter is complete.")]))


def module_of(source: str) -> ModuleType:
    module = ModuleType("sqlite_adapter")
    exec(compile(source, str(GUIDE), "exec", dont_inherit=True), module.__dict__)
    return module


sqlite_adapter = module_of(source_of_the_guide())


@pytest.mark.long
class TestSqlite(AdapterContract):
    """The adapter of the guide."""

    features = Features(durable=True, groups=True, delayed=True, replay=True)
    plugins = (sqlite_adapter,)

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "sqlite", "sqlite": {"path": str(place.directory / "events.db")}}

    def with_lease(self, settings: Mapping[str, Any], lease: float) -> Mapping[str, Any]:
        return {**settings, "sqlite": {**settings["sqlite"], "lease": lease}}

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        adapter = sqlite_adapter.SqliteAdapter(str(place.directory / "events.db"))
        await adapter.start()
        await adapter.publish([Message(str(uuid4()), topic, "", body)])
        await adapter.close()


SPEC = SubscriptionSpec(name="h", group="tests.h", topic=HAPPENED.name)


def adapter_on(directory: Path, lease: float = 30.0) -> Any:
    adapter = sqlite_adapter.SqliteAdapter(str(directory / "events.db"))
    adapter.lease = lease
    return adapter


def test_it_is_short() -> None:
    """The whole adapter has fewer than 100 lines: imports, blank lines and the hook included."""
    assert len(source_of_the_guide().splitlines()) < 100


async def test_owner_that_died(tmp_path: Path) -> None:
    """The messages of a dead process come to the next one when its lease ends, as one attempt."""
    dead = adapter_on(tmp_path, lease=0.1)
    await dead.start()
    consumer = await dead.open_consumer(SPEC)
    seen: list[tuple[int, bool]] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        seen.append((delivery.attempt, delivery.redelivered))

    config = {
        "app": {"name": "tests"},
        "bus": {"adapter": "sqlite", "sqlite": {"path": dead.path}},
    }
    async with open_bus(config, plugins=[sqlite_adapter], installed=False) as bus:
        await bus.publish(HAPPENED, happened())
        (received,) = await consumer.receive(10)
        await consumer.close()
        await dead.close()
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        await bus.drain(10)
    assert seen == [(2, True)]
    assert received.attempt == 1


async def test_lease_is_renewed(tmp_path: Path) -> None:
    """A handler that takes several leases keeps its message, for as long as its consumer is open."""
    adapter, other = adapter_on(tmp_path, lease=0.3), adapter_on(tmp_path)
    await adapter.start()
    await other.start()
    slow, idle = await adapter.open_consumer(SPEC), await other.open_consumer(SPEC)
    await adapter.publish([Message("1", HAPPENED.name, "", b"")])
    (received,) = await slow.receive(10)
    began = time.monotonic()
    assert await idle.receive(10) == []
    assert time.monotonic() - began > 3 * adapter.lease
    assert await other.backlog(SPEC) == 1

    await slow.close()  # and leaves it to others
    while not (taken := await idle.receive(10)):
        assert time.monotonic() - began < 30
    assert await slow.settle([Outcome("ack", received.receipt)]) != [None]
    assert (taken[0].attempt, taken[0].owner_died) == (2, True)
    assert [each.error.partition(":")[0] for each in taken[0].history] == ["ConsumerDied"]

    await idle.close()
    await adapter.close()
    await other.close()


async def test_settled_twice(tmp_path: Path) -> None:
    """A settlement that comes late, or again, changes nothing that came after it."""
    adapter = adapter_on(tmp_path)
    await adapter.start()
    consumer = await adapter.open_consumer(SPEC)
    await adapter.publish([Message("1", HAPPENED.name, "", b"")])
    (first,) = await consumer.receive(10)
    assert await consumer.settle([Outcome("ack", first.receipt)]) == [None]
    await adapter.publish([Message("2", HAPPENED.name, "", b"")])
    (second,) = await consumer.receive(10)
    (again,) = await consumer.settle([Outcome("ack", first.receipt)])
    assert isinstance(again, LeaseLost)
    assert await consumer.settle([Outcome("ack", second.receipt)]) == [None]
    await consumer.close()
    await adapter.close()


async def test_storage_that_fails(tmp_path: Path) -> None:
    """An error of the storage is an error of the bus, or a result; nothing of that batch is stored."""
    adapter = adapter_on(tmp_path)
    await adapter.start()
    consumer = await adapter.open_consumer(SPEC)
    add, added = adapter.add, iter((True, False))

    async def add_one(topic: str, text: str) -> None:
        if not next(added):
            raise sqlite3.OperationalError("database or disk is full")
        await add(topic, text)

    adapter.add = add_one
    results = await adapter.publish([Message(str(each), HAPPENED.name, "", b"") for each in range(2)])
    assert [(type(each), each.transient) for each in results] == [(PublishFailed, True)] * 2
    assert await adapter.backlog(SPEC) == 0
    await consumer.close()
    await adapter.close()
    with pytest.raises(AdapterError, match="the storage of 'sqlite' cannot claim records: ProgrammingError"):
        await consumer.receive(1)


async def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A file that cannot be opened is an error of the bus, at start."""
    with pytest.raises(AdapterError, match="cannot be opened: OperationalError"):
        await adapter_on(tmp_path / "missing").start()
