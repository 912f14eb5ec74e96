"""Each database, by each kind of driver; and a bus in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus_core import Bus, open_bus
from outbox_support.stage import Stage
from postgres_support.fixtures import postgres_database, postgres_server, start_postgres
from postgres_support.servers import PostgresServer
from redis_support.fixtures import redis_server, shared_servers

__all__ = ["postgres_database", "postgres_server", "redis_server", "shared_servers", "start_postgres"]

DRIVERS = ("aiosqlite", "pysqlite", "asyncpg", "psycopg")


async def stage_of(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    if driver in ("aiosqlite", "pysqlite"):
        url = f"sqlite+{driver}:///{tmp_path}/app.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url(driver, request.getfixturevalue("postgres_database"))
    stage = Stage(url)
    stage.create()
    try:
        yield stage
    finally:
        await stage.close()


@pytest.fixture(params=DRIVERS)
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """A database with all tables, once by each driver."""
    async for made in stage_of(request.param, request, tmp_path):
        yield made


@pytest.fixture(params=["aiosqlite", "asyncpg"])
async def async_stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """The same, once for each database."""
    async for made in stage_of(request.param, request, tmp_path):
        yield made


@pytest.fixture
async def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """The same on PostgreSQL."""
    async for made in stage_of("asyncpg", request, tmp_path):
        yield made


@pytest.fixture
async def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """The same on SQLite."""
    async for made in stage_of("aiosqlite", request, tmp_path):
        yield made


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    """A bus in memory, started."""
    async with open_bus({"bus": {"adapter": "memory"}}) as opened:
        yield opened
