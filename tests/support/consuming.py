"""Messages and outcomes for tests that use an adapter without a bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bus_core import Consumer, DeadLetter, Message, Outcome, Received, SubscriptionSpec

TOPIC = "test.thing.happened"


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
