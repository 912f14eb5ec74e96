"""The load of an idle worker on the server, and the time of its drain, by its number of subscriptions."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import attrs

from bus_core import Bus, Topic
from redis_benchmarks.subjects import OrderPlaced, bus_on, client_of

__all__ = ["IdleLoad", "idle_load"]

_STEADY = 3
"""So many equal looks in a row, and whatever it takes to begin is over."""


@attrs.frozen
class IdleLoad:
    """``commands`` are those of a second; ``drains`` seconds, all on one topic and on a topic each."""

    commands: float
    connections: int
    drains: tuple[float, float]


async def idle_load(address: str, subscriptions: int, seconds: float) -> IdleLoad:
    """The cost of an idle worker with so many subscriptions, over so many seconds."""

    async def handler(_event: OrderPlaced) -> None:
        raise AssertionError("nothing is published")

    client = client_of(address)
    others = await _connections(client)
    async with client, bus_on(address) as bus:
        topics = [Topic(f"shop.thing{number}.placed", OrderPlaced) for number in range(subscriptions)]
        for number, topic in enumerate(topics):
            bus.subscribe(topic, handler, name=f"handler-{number}")
        await _ready(bus)
        await _settle_down(client)
        connections = await _connections(client) - others
        commands = await _commands_sent(client, seconds) / seconds
        apart = await _drain(bus)
    async with bus_on(address) as bus:
        for number in range(subscriptions):
            bus.subscribe(topics[0], handler, name=f"handler-{number}")
        await _ready(bus)
        return IdleLoad(commands, connections, (await _drain(bus), apart))


async def _ready(bus: Bus) -> None:
    for subscription in bus.subscriptions:
        await subscription.ready()


async def _drain(bus: Bus) -> float:
    began = time.perf_counter()
    await bus.drain()
    return time.perf_counter() - began


async def _settle_down(client: Any) -> None:
    """Returns when no more than the idle worker's commands come in."""
    quiet = 0
    while quiet < _STEADY:
        before = await _commands(client)
        await asyncio.sleep(1.0)
        quiet = quiet + 1 if await _commands(client) - before < 50 else 0


async def _commands_sent(client: Any, seconds: float) -> int:
    """The commands that arrive at the server; a script is one command, whatever it calls."""
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
