"""A process that receives: ``python -m postgres_benchmarks.arrivals WAY URL COUNT``.

It says ``ready``, and at the end the moment of each arrival, on the clock of the machine. The way is ``bus``
or ``notify``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

import psycopg

from postgres_benchmarks.with_the_bus import open_on
from promenade_benchmarks.batches import ORDER_PLACED, OrderPlaced

__all__ = ["CHANNEL"]

CHANNEL: Final = "bare"
"""Where bare notifications go."""

_LONGEST: Final = 120.0


def _hear(url: str, samples: int) -> list[float]:
    arrived: list[float] = []
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(f"LISTEN {CHANNEL}".encode())
        print("ready", flush=True)
        while len(arrived) < samples:
            for _ in db.notifies(timeout=_LONGEST, stop_after=1):
                arrived.append(time.monotonic())
    return arrived


async def _handle(url: str, samples: int) -> list[float]:
    arrived: dict[str, float] = {}
    over = asyncio.Event()

    async def handle(event: OrderPlaced) -> None:
        arrived.setdefault(event.number, time.monotonic())
        if len(arrived) == samples:
            over.set()

    async with open_on(url) as bus:
        await bus.subscribe(ORDER_PLACED, handle, name="orders").ready()
        print("ready", flush=True)
        await over.wait()
    return [arrived[number] for number in sorted(arrived)]


def main() -> None:
    """Receives so many, and says when."""
    way, url, samples = sys.argv[1:]
    if way == "notify":
        print(json.dumps(_hear(url, int(samples))), flush=True)
    else:
        print(json.dumps(asyncio.run(_handle(url, int(samples)))), flush=True)


if __name__ == "__main__":
    main()
