"""From a commit to the handler in another process, in turns with a bare NOTIFY to another process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psycopg
from attrs import frozen

from postgres_benchmarks.arrivals import CHANNEL
from postgres_benchmarks.runs import database_on
from postgres_benchmarks.with_the_bus import open_on, prepare
from postgres_support.servers import PostgresServer
from promenade_benchmarks.batches import ORDER_PLACED, order

__all__ = ["Delays", "delays"]

_PAUSE: Final = 0.02
"""Seconds from an event to the next one: each finds the processes idle."""

_LONGEST: Final = 120.0


@frozen
class Delays:
    """Seconds of each event: ``bus`` since its ``publish`` has returned, ``notify`` since before NOTIFY.

    ``commit`` is the time of an INSERT by hand, which is committed: the bus stores its claim before it calls
    the handler.
    """

    bus: tuple[float, ...]
    notify: tuple[float, ...]
    commit: tuple[float, ...]


def delays(server: PostgresServer, samples: int) -> Delays:
    """So many delays of each way, in turns."""
    with database_on(server) as url:
        prepare(url)
        children = {way: _child(way, url, samples) for way in ("bus", "notify")}
        for child in children.values():
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise RuntimeError("a process of the latencies did not get ready")
        sent = asyncio.run(_send(url, samples))
        arrived = {way: json.loads(child.communicate(timeout=_LONGEST)[0]) for way, child in children.items()}
    bus, notify = (
        tuple(there - here for here, there in zip(sent[way], arrived[way], strict=True))
        for way in ("bus", "notify")
    )
    return Delays(bus, notify, tuple(sent["commit"]))


async def _send(url: str, samples: int) -> dict[str, list[float]]:
    sent: dict[str, list[float]] = {"bus": [], "notify": [], "commit": []}
    async with open_on(url) as bus, await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        await db.execute("CREATE TABLE bare (number int)")
        for number in range(samples):
            await bus.publish(ORDER_PLACED, order(number))
            sent["bus"].append(time.monotonic())
            await asyncio.sleep(_PAUSE)
            sent["notify"].append(time.monotonic())
            await db.execute(f"NOTIFY {CHANNEL}".encode())
            await asyncio.sleep(_PAUSE)
            began = time.monotonic()
            await db.execute("INSERT INTO bare VALUES (1)")
            sent["commit"].append(time.monotonic() - began)
            await asyncio.sleep(_PAUSE)
    return sent


def _child(way: str, url: str, samples: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "postgres_benchmarks.arrivals", way, url, str(samples)]
    return subprocess.Popen(
        command, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.PIPE, text=True
    )
