"""Handlers that tests subscribe."""

from __future__ import annotations

import asyncio
from typing import Any

from bus_core import Bus, Event, Topic
from support.buses import HAPPENED, Happened


async def ignore(event: Event) -> None:
    """Does nothing."""


class Collecting:
    """Keeps the numbers of the events that its method gets."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def collect(self, event: Happened) -> None:
        self.numbers.append(event.number)


def listen(bus: Bus, topic: Topic[Any] | str = HAPPENED, name: str = "listener") -> list[Any]:
    """Subscribes a handler; returns the list in which it collects what it gets."""
    received: list[Any] = []

    async def collect(event: Event) -> None:
        received.append(event)

    bus.subscribe(topic, collect, name=name)
    return received


async def outlast_cancellation(gate: asyncio.Event) -> None:
    """Waits for the gate, and swallows whatever cancels it meanwhile."""
    while not gate.is_set():
        try:
            await gate.wait()
        except asyncio.CancelledError:
            continue
