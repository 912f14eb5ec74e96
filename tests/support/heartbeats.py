"""Instances that send heartbeats, and die, by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bus_core.adapters import Heartbeats

__all__ = ["beating", "die"]


@asynccontextmanager
async def beating(heartbeats: Heartbeats) -> AsyncIterator[None]:
    """Lets an instance send heartbeats all the time, however long its lease is."""

    async def beat() -> None:
        while True:
            await heartbeats.renewed()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


async def die(heartbeats: Heartbeats) -> None:
    """Ends the heartbeats of an instance, and leaves its rows in the storage as a killed process does."""
    heartbeats._stopping = True
    heartbeats._beat = lambda owners, gone: []
    await heartbeats.close()
