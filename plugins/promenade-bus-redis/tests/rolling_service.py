"""A service in its old or its new version: publishes events, and writes down those that it handles.

``python rolling_service.py VERSION URL PREFIX JOURNAL FIRST COUNT`` runs until SIGTERM. The old version then
publishes more events, and leaves them to others.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

from bus_core import Event, Topic, event, open_bus, upcaster


@event(type="order.placed")
class OldPlaced(Event):
    """Version 1."""

    number: int
    customer: str


@event(type="order.placed", version=2)
class NewPlaced(Event):
    """Version 2: the name is in two parts."""

    number: int
    first: str
    last: str


@upcaster(NewPlaced, from_version=1)
def split(data: dict[str, Any]) -> dict[str, Any]:
    """Old names had both parts in one text."""
    first, _, last = data.pop("customer").partition(" ")
    return data | {"first": first, "last": last}


def placed(version: str, number: int) -> Event:
    if version == "old":
        return OldPlaced(aggregate_id=UUID(int=number), number=number, customer="Ada King")
    return NewPlaced(aggregate_id=UUID(int=number), number=number, first="Ada", last="King")


async def main(version: str, url: str, prefix: str, journal: str, first: int, count: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    lines = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    topic: Topic[Any] = Topic("shop.order.placed", OldPlaced if version == "old" else NewPlaced)
    config = {
        "app": {"name": "shop"},
        "bus": {"adapter": "redis", "redis": {"url": url, "prefix": prefix, "lease": "2s", "block": "200ms"}},
    }
    async with open_bus(config) as bus:

        async def book(event: Any) -> None:
            name = event.customer if version == "old" else f"{event.first} {event.last}"
            os.write(lines, f"handled {version} {event.number} {name}\n".encode())

        subscription = bus.subscribe(topic, book, name="book")
        await subscription.ready()
        os.write(lines, f"ready {version}\n".encode())
        await bus.publish_many([(topic, placed(version, first + number)) for number in range(count)])
        os.write(lines, f"published {version}\n".encode())
        await stopped.wait()
        if version == "old":
            subscription.pause()
            last = [(topic, placed(version, 2 * count + number)) for number in range(count)]
            await bus.publish_many(last)
        letters = await bus.dead_letters.count()
        os.write(lines, f"letters {version} {letters}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], *map(int, sys.argv[5:])))  # type: ignore[arg-type]
