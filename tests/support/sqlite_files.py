"""Buses and consumers on one file, for the tests of the adapter."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import promenade_bus_sqlite
from bus_core import Bus, Consumer, DeadLetter, Message, Outcome, Received, SubscriptionSpec, open_bus
from promenade_bus_sqlite.adapter import SqliteAdapter

TOPIC = "test.thing.happened"


def config(path: Path, bus: Any = (), **options: Any) -> dict[str, Any]:
    return {
        "app": {"name": "tests"},
        "bus": {
            "adapter": "sqlite",
            "strict_topics": False,
            "sqlite": {"path": str(path), **options},
            **dict(bus),
        },
    }


def make_bus(path: Path, bus: Any = (), **options: Any) -> Bus:
    return open_bus(config(path, bus, **options), plugins=[promenade_bus_sqlite], installed=False)


@asynccontextmanager
async def started(path: Path, **options: Any) -> AsyncIterator[SqliteAdapter]:
    """An adapter without a bus."""
    adapter = make_bus(path, **options).adapter
    assert isinstance(adapter, SqliteAdapter)
    await adapter.start()
    try:
        yield adapter
    finally:
        await adapter.close()


def spec(name: str = "audit", topic: str = TOPIC, **more: Any) -> SubscriptionSpec:
    return SubscriptionSpec(name=name, group=f"tests.{name}", topic=topic, **more)


def message(number: int = 0, topic: str = TOPIC, body: bytes = b"{}") -> Message:
    return Message(str(uuid4()), topic, str(number), body)


def acks(received: Sequence[Received]) -> list[Outcome]:
    return [Outcome("ack", each.receipt) for each in received]


def buried(received: Received) -> Outcome:
    read = received.message
    letter = DeadLetter(
        str(uuid4()), read.topic, "audit", None, read.key, "gave up", (), read.body, dead_at=datetime.now(UTC)
    )
    return Outcome("dead_letter", received.receipt, letter=letter)


async def receive(consumer: Consumer, count: int) -> list[Received]:
    """So many messages."""
    received: list[Received] = []
    async with asyncio.timeout(10):
        while len(received) < count:
            received += await consumer.receive(count - len(received))
    return received


async def until(holds: Callable[[], object], what: str) -> None:
    """Returns when a condition holds."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, f"never came to hold: {what}"
        await asyncio.sleep(0.002)


def ask(path: Path, statement: str, *values: object) -> list[Any]:
    """Another program that reads the file, or changes it."""
    with closing(sqlite3.connect(path, timeout=10)) as db, db:
        return db.execute(statement, values).fetchall()
