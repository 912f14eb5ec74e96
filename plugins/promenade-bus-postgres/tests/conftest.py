"""A PostgreSQL server that the tests of a process share, and a schema of each test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from postgres_support.fixtures import postgres_database, postgres_server, start_postgres
from postgres_support.servers import PostgresServer
from support.postgres_schemas import Schema

__all__ = ["postgres_database", "postgres_server", "start_postgres"]

_numbers = itertools.count(1)


@pytest.fixture
def schema(postgres_server: PostgresServer) -> Iterator[Schema]:
    """A schema on the shared server."""
    made = Schema(postgres_server, f"s{next(_numbers)}")
    yield made
    made.drop()
