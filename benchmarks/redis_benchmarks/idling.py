"""What an idle worker asks of the server, by how many subscriptions it has."""

from __future__ import annotations

import asyncio
from typing import Any

from bus_core import Topic
from redis_benchmarks.subjects import OrderPlaced, bus_on, client_of

__all__ = ["idle_load"]

_STEADY = 3
"""So many equal looks in a row, and whatever it takes to begin is over."""


async def idle_load(address: str, subscriptions: int, seconds: float) -> tuple[float, int]:
    """Commands a second that the worker sends, and its connections."""

    async def handler(_event: OrderPlaced) -> None:
        raise AssertionError("nothing is published")

    client = client_of(address)
    others = await _connections(client)
    async with client, bus_on(address) as bus:
        opened = [
            bus.subscribe(Topic(f"shop.thing{number}.placed", OrderPlaced), handler, name=f"handler-{number}")
            for number in range(subscriptions)
        ]
        for subscription in opened:
            await subscription.ready()
        await _settle_down(client)
        connections = await _connections(client) - others
        return await _commands_sent(client, seconds) / seconds, connections


async def _settle_down(client: Any) -> None:
    """Returns when no more than the idle worker's commands come in."""
    quiet = 0
    while quiet < _STEADY:
        before = await _commands(client)
        await asyncio.sleep(1.0)
        quiet = quiet + 1 if await _commands(client) - before < 50 else 0


async def _commands_sent(client: Any, seconds: float) -> int:
    """What arrives at the server; a script is one command, whatever it calls."""
    sent = 0
    async with client.monitor() as monitor:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    command = await monitor.next_command()
                    sent += command["client_type"] != "lua"
        except TimeoutError:
            return sent


async def _commands(client: Any) -> int:
    return int((await client.info("stats"))["total_commands_processed"])


async def _connections(client: Any) -> int:
    return len(await client.client_list())
