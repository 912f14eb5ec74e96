"""The adapter that the guide `write-an-adapter` builds keeps the contract."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from bus_core import BusError, Delivery, Features, Message, SubscriptionSpec, open_bus
from promenade_bus_testing.contract import AdapterContract, Place
from support.buses import HAPPENED, Happened, happened

GUIDE = Path(__file__).resolve().parent.parent / "docs/how-to/write-an-adapter.md"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def module_of_the_guide() -> ModuleType:
    """The code of the page up to where it is offered; what follows uses it."""
    text = GUIDE.read_text(encoding="utf-8")
    text = text[: text.index("That is all of it.")]
    module = ModuleType("sqlite_adapter")
    for found in CODE.finditer(text):
        source = "\n" * text.count("\n", 0, found.start(1)) + found[1]
        exec(compile(source, str(GUIDE), "exec", dont_inherit=True), module.__dict__)
    return module


sqlite_adapter = module_of_the_guide()


class TestSqlite(AdapterContract):
    """The adapter of the guide."""

    features = Features(durable=True, groups=True, delayed=True, replay=True)
    plugins = (sqlite_adapter,)

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "sqlite", "sqlite": {"path": str(place.directory / "events.db")}}

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        adapter = sqlite_adapter.SqliteAdapter(str(place.directory / "events.db"))
        await adapter.start()
        await adapter.publish([Message(str(uuid4()), topic, "", body)])
        await adapter.close()


SPEC = SubscriptionSpec(name="h", group="tests.h", topic=HAPPENED.name)


async def test_owner_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process owned that is gone comes to the next one when its lease ends, as one attempt."""
    monkeypatch.setattr(sqlite_adapter, "LEASE", 0.1)
    path = str(tmp_path / "events.db")
    dead = sqlite_adapter.SqliteAdapter(path)
    await dead.start()
    consumer = await dead.open_consumer(SPEC)
    seen: list[tuple[int, bool]] = []

    async def handler(event: Happened, delivery: Delivery) -> None:
        seen.append((delivery.attempt, delivery.redelivered))

    config = {
        "app": {"name": "tests"},
        "bus": {"adapter": "sqlite", "sqlite": {"path": path}},
    }
    async with open_bus(config, plugins=[sqlite_adapter], installed=False) as bus:
        await bus.publish(HAPPENED, happened())
        (received,) = await consumer.receive(10)
        await dead.close()
        await bus.subscribe(HAPPENED, handler, name="h").ready()
        await bus.drain(10)
    assert seen == [(2, True)]
    assert received.attempt == 1


async def test_lease_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that takes several leases keeps its message."""
    monkeypatch.setattr(sqlite_adapter, "LEASE", 0.15)
    adapter = sqlite_adapter.SqliteAdapter(str(tmp_path / "events.db"))
    await adapter.start()
    consumer = await adapter.open_consumer(SPEC)
    await adapter.publish([Message("1", HAPPENED.name, "", b"")])
    (received,) = await consumer.receive(10)
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        assert consumer.take(10) == []
        await asyncio.sleep(0.01)
    assert await adapter.backlog(SPEC) == 1
    await adapter.close()
    assert received.attempt == 1


async def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A file that cannot be opened is an error of the bus, at start."""
    with pytest.raises(BusError, match="SQLite"):
        await sqlite_adapter.SqliteAdapter(str(tmp_path / "missing" / "events.db")).start()
