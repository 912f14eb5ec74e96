"""Buses and consumers on one file, for the tests of the adapter."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import promenade_bus_sqlite
from bus_core import Bus, open_bus
from promenade_bus_sqlite.adapter import SqliteAdapter


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


def ask(path: Path, statement: str, *values: object) -> list[Any]:
    """Another program that reads the file, or changes it."""
    with closing(sqlite3.connect(path, timeout=10)) as db, db:
        return db.execute(statement, values).fetchall()
