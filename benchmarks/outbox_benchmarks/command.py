"""Runs each pair in turn, several times, and prints the ratios of their medians."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Column, Integer, MetaData, Table, Text, event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from bus_core import Bus, Event, Message, Topic, open_bus
from bus_core import event as event_class
from postgres_support.servers import USER, PostgresServer
from promenade_bus_outbox import Outbox, outbox_tables
from redis_support.servers import HOST

__all__ = ["main"]

METADATA = MetaData()
TABLES = outbox_tables(METADATA)
ROWS = Table("row", METADATA, Column("id", Integer, primary_key=True), Column("name", Text))
OTHER = Table("other", METADATA, Column("id", Integer, primary_key=True), Column("body", Text))

TARGETS: Final = {
    "publish_vs_insert_postgres": ("at most", 1.3),
    "publish_vs_insert_sqlite": ("at most", 1.3),
    "relay_vs_claim_loop": ("at least", 1 / 3),
    "latency_vs_notify": ("at most", 3.0),
}


@event_class
class Moved(Event):
    """The events that are published."""

    number: int = 0
    name: str = ""


MOVED = Topic("bench.thing.moved", Moved)


def _moved(number: int = 0, key: UUID | None = None) -> Moved:
    return Moved(aggregate_id=key or uuid4(), number=number, name="a name of usual length")


def _memory() -> Bus:
    return open_bus({"bus": {"adapter": "memory"}})


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    if url.startswith("sqlite"):

        @event.listens_for(engine.sync_engine, "connect")
        def set_up(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")

    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    try:
        yield engine
    finally:
        await engine.dispose()


async def _publishing(url: str, rounds: int, count: int) -> dict[str, float]:
    """Seconds for each transaction: with nothing more than a row, with another INSERT, with an event."""
    async with _database(url) as engine:
        sessions = async_sessionmaker(engine)
        outbox = Outbox(_memory(), sessions, TABLES, relay=False)
        body = "x" * 400  # as long as the document of the event

        async def nothing(session: AsyncSession) -> None:
            pass

        async def plain_insert(session: AsyncSession) -> None:
            await session.execute(insert(OTHER).values(body=body))

        async def publish(session: AsyncSession) -> None:
            await outbox.publish(session, MOVED, _moved())

        ways: dict[str, Callable[[AsyncSession], Awaitable[None]]] = {
            "base": nothing,
            "insert": plain_insert,
            "publish": publish,
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                for _ in range(count):
                    began = time.perf_counter()
                    async with sessions.begin() as session:
                        await session.execute(insert(ROWS).values(name="a"))
                        await way(session)
                    taken[name].append(time.perf_counter() - began)
        return {name: median(each) for name, each in taken.items()}


async def _fill(engine: AsyncEngine, bus: Bus, count: int) -> None:
    """So many events of a thousand keys."""
    sessions = async_sessionmaker(engine)
    outbox = Outbox(bus, sessions, TABLES, relay=False)
    keys = [uuid4() for _ in range(1000)]
    for some in range(0, count, 1000):
        async with sessions.begin() as session:
            for number in range(some, min(count, some + 1000)):
                await outbox.publish(session, MOVED, _moved(number, keys[number % 1000]))


async def _claimed_by_hand(server: PostgresServer, database: str, engine: AsyncEngine, count: int) -> float:
    """Events a second: a loop that claims by 100 with SKIP LOCKED, publishes, and deletes."""
    async with _memory() as bus:
        await _fill(engine, bus, count)
        connection = await asyncpg.connect(host=HOST, port=server.port, user=USER, database=database)
        began = time.perf_counter()
        done = 0
        while done < count:
            async with connection.transaction():
                rows = await connection.fetch(
                    "SELECT position, event_id, topic, key, body FROM promenade_outbox ORDER BY position "
                    "LIMIT 100 FOR UPDATE SKIP LOCKED"
                )
                messages = [Message(row[1], row[2], row[3], row[4]) for row in rows]
                await bus.publish_prepared(messages)
                await connection.execute(
                    "DELETE FROM promenade_outbox WHERE position = ANY($1)", [row[0] for row in rows]
                )
            done += len(rows)
        rate = count / (time.perf_counter() - began)
        await connection.close()
        return rate


async def _relayed(engine: AsyncEngine, count: int) -> float:
    """Events a second of one relay."""
    async with _memory() as bus:
        await _fill(engine, bus, count)
        outbox = Outbox(bus, async_sessionmaker(engine), TABLES)
        began = time.perf_counter()
        async with outbox:
            while outbox.relay is None or outbox.relay.delivered < count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            return count / (time.perf_counter() - began)


async def _latency(
    server: PostgresServer, database: str, engine: AsyncEngine, count: int
) -> tuple[float, float]:
    """Seconds from a commit to the handler, and from NOTIFY to its listener."""
    arrived = asyncio.Event()
    through: list[float] = []
    async with _memory() as bus:

        @bus.subscribe(MOVED, name="looking")
        async def look(event: Moved) -> None:
            arrived.set()

        sessions = async_sessionmaker(engine)
        async with Outbox(bus, sessions, TABLES) as outbox:
            for number in range(count):
                arrived.clear()
                async with sessions.begin() as session:
                    await outbox.publish(session, MOVED, _moved(number))
                committed = time.perf_counter()
                await arrived.wait()
                through.append(time.perf_counter() - committed)
    options = {"host": HOST, "port": server.port, "user": USER, "database": database}
    listener, sender = await asyncpg.connect(**options), await asyncpg.connect(**options)
    bare: list[float] = []
    await listener.add_listener("bench", lambda *_: arrived.set())
    for _ in range(count):
        arrived.clear()
        began = time.perf_counter()
        await sender.execute("NOTIFY bench")
        await arrived.wait()
        bare.append(time.perf_counter() - began)
    await listener.remove_listener("bench", lambda *_: None)
    await listener.close()
    await sender.close()
    return median(through), median(bare)


async def _measure(quick: bool) -> dict[str, float]:
    rounds, count, events = (2, 30, 2_000) if quick else (7, 200, 20_000)
    figures: dict[str, float] = {}
    settings = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    with tempfile.TemporaryDirectory() as directory, PostgresServer(settings) as server:
        urls = {
            "postgres": server.url("asyncpg", server.create_database("publishing")),
            "sqlite": f"sqlite+aiosqlite:///{Path(directory) / 'app.db'}",
        }
        for name, url in urls.items():
            taken = await _publishing(url, rounds, count)
            for way, seconds in taken.items():
                figures[f"transaction_{way}_{name}_us"] = seconds * 1e6
            figures[f"publish_vs_insert_{name}"] = taken["publish"] / taken["insert"]
        database = server.create_database("relaying")
        async with _database(server.url("asyncpg", database)) as engine:
            hand, relay = [], []
            for _ in range(1 if quick else 3):
                hand.append(await _claimed_by_hand(server, database, engine, events))
                relay.append(await _relayed(engine, events))
                async with engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.execute(text("VACUUM promenade_outbox"))
            figures["claim_loop_per_s"], figures["relay_per_s"] = median(hand), median(relay)
            figures["relay_vs_claim_loop"] = median(relay) / median(hand)
            through, bare = await _latency(server, database, engine, count)
            figures["commit_to_handler_us"], figures["notify_us"] = through * 1e6, bare * 1e6
            figures["latency_vs_notify"] = through / bare
    return figures


def _is_met(name: str, value: float) -> bool:
    relation, bound = TARGETS[name]
    return value <= bound if relation == "at most" else value >= bound


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a ratio is not what it has to be."""
    parser = argparse.ArgumentParser(prog="run_outbox.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events: to see that it works")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args(arguments)
    figures = asyncio.run(_measure(options.quick))
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            target = ""
            if name in TARGETS:
                relation, bound = TARGETS[name]
                target = f"   {relation} {bound:.2f}: {'met' if _is_met(name, value) else 'missed'}"
            print(f"{name:34} {value:12,.2f}{target}")
    return 0 if options.quick or all(_is_met(name, figures[name]) for name in TARGETS) else 1
