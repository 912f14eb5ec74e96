"""Buses and consumers in one database, for the tests of the adapter on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

import promenade_bus_postgres
from bus_core import Bus, open_bus
from postgres_support.servers import HOST, USER, PostgresServer
from promenade_bus_postgres.adapter import PostgresAdapter


@attrs.frozen
class Schema:
    """A schema of a test's own, whose tables are created by the first bus."""

    server: PostgresServer
    name: str
    database: str = "postgres"

    def options(self, **options: Any) -> dict[str, Any]:
        """The section ``bus.postgres``."""
        where = {"host": HOST, "port": self.server.port, "user": USER, "name": self.database}
        return {**where, "schema": self.name, "migrate": True, **options}

    def config(self, bus: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """The configuration of a bus; ``options`` are those of the adapter."""
        own = {"adapter": "postgres", "strict_topics": False, "postgres": self.options(**options)}
        return {"app": {"name": "tests"}, "bus": {**own, **(bus or {})}}

    def bus(self, bus: Mapping[str, Any] | None = None, **options: Any) -> Bus:
        """A bus, not started."""
        return open_bus(self.config(bus, **options), plugins=[promenade_bus_postgres], installed=False)

    @asynccontextmanager
    async def started(self, **options: Any) -> AsyncIterator[PostgresAdapter]:
        """An adapter without a bus."""
        adapter = self.bus(**options).adapter
        assert isinstance(adapter, PostgresAdapter)
        await adapter.start()
        try:
            yield adapter
        finally:
            await adapter.close()

    def ask(self, statement: str, *values: object) -> Sequence[Any]:
        """The rows of a statement of another program; the schema need not be named."""
        with self.server.connect(self.database) as connection:
            connection.execute(f'SET search_path TO "{self.name}"'.encode())
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def cut(self) -> None:
        """Ends every connection of buses on the server."""
        self.server.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'promenade-bus%'"
        )

    def drop(self) -> None:
        """Removes it."""
        self.server.ask(f'DROP SCHEMA IF EXISTS "{self.name}" CASCADE')
