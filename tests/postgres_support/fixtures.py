"""PostgreSQL as fixtures. A conftest.py imports the ones that it hands on.

- ``postgres_server``: one server for all tests of a process.
- ``postgres_database``: the name of an empty database of the test's own on it.
- ``start_postgres``: starts a server of the test's own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from postgres_support.servers import PostgresServer, programs

StartPostgres = Callable[..., PostgresServer]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server that all tests of this process share."""
    try:
        programs()
    except FileNotFoundError as error:
        pytest.fail(str(error), pytrace=False)
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database."""
    name = postgres_server.create_database(f"t{os.getpid()}_{next(_numbers)}")
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def start_postgres() -> Iterator[StartPostgres]:
    """Starts servers, with settings of their own if given, and ends them after the test."""
    with ExitStack() as stack:
        yield lambda settings=None: stack.enter_context(PostgresServer(settings))
