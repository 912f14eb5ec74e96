"""Servers and proxies as fixtures. A conftest.py imports the ones that it hands on.

- ``redis_server``: a server that the tests of a process share, with a key prefix of the test's own. The test
  runs once for every server that is found, or on the one that ``REDIS_URL`` names.
- ``binary``: once for every server that is found; for tests that start servers of their own.
  ``TEST_SERVERS=newest`` leaves one server for both, and ``TEST_SERVERS=2/3`` the second of three parts:
  the first is the newest one, and the others share the rest.
- ``start_server``, ``start_proxy``: make such servers, and proxies, and end them after the test.
- ``certificates``: for TLS.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from redis_support.binaries import NONE_FOUND, ServerBinary, find_binaries, newest_binary
from redis_support.certificates import Certificates
from redis_support.proxy import FaultProxy
from redis_support.servers import Server, async_client_options, client_options

GIVEN = "REDIS_URL"
SERVERS = "TEST_SERVERS"
NONE = "none"
PART = re.compile(r"([1-9])/([1-9])")

StartServer = Callable[..., Server]
StartProxy = Callable[..., FaultProxy]


@dataclass(frozen=True)
class SharedServer:
    """A server that others use as well: stay below ``prefix``, and leave its settings alone."""

    url: str
    prefix: str
    binary: ServerBinary | None
    """None for the server that ``REDIS_URL`` names."""

    def client(self, **options: Any) -> redis.Redis:
        """A synchronous client without retries, whose replies are texts."""
        return redis.Redis.from_url(self.url, **client_options(**options))

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        """The same for asyncio; close it with ``aclose``."""
        return redis.asyncio.Redis.from_url(self.url, **async_client_options(**options))

    def ask(self, *command: Any) -> Any:
        """The plain reply to one command, on a connection of its own."""
        with self.client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def keys(self) -> list[str]:
        """Every key of this test, sorted."""
        with self.client() as client:
            return sorted(client.scan_iter(f"{self.prefix}*", count=1000))


def _own_binaries() -> list[str]:
    return [binary.id for binary in _wanted_binaries(os.environ.get(SERVERS, "all"))] or [NONE]


def _wanted_binaries(wanted: str) -> list[ServerBinary]:
    found = [*find_binaries()]
    if wanted == "all" or not found:
        return found
    if wanted == "newest":
        return [newest_binary()]
    if (match := PART.fullmatch(wanted)) is None:
        raise pytest.UsageError(f"{SERVERS} is {wanted!r}; it can be 'all', 'newest' or a part such as '2/3'")
    part, parts = map(int, match.groups())
    if parts == 1:
        return found
    others = [binary for binary in found if binary != newest_binary()]
    # The last part has the last one: older ones may be missing where that part is tried.
    shared_out = [binary for index, binary in enumerate(reversed(others)) if max(2, parts - index) == part]
    return shared_out or [newest_binary()]


def _binary(name: str) -> ServerBinary:
    if name == NONE:
        pytest.fail(NONE_FOUND, pytrace=False)
    return next(binary for binary in find_binaries() if binary.id == name)


@pytest.fixture(params=_own_binaries())
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    """Each server that is found."""
    return _binary(request.param)


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Callable[[str], Server]]:
    """Starts each server at its first use, and ends all of them with the session."""
    servers: dict[str, Server] = {}
    with ExitStack() as stack:

        def start(name: str) -> Server:
            if name not in servers:
                servers[name] = stack.enter_context(Server(_binary(name)))
            return servers[name]

        yield start


_numbers = itertools.count(1)


@pytest.fixture(params=[GIVEN] if os.environ.get(GIVEN) else _own_binaries())
def redis_server(
    request: pytest.FixtureRequest, shared_servers: Callable[[str], Server]
) -> Iterator[SharedServer]:
    """A shared server with a key prefix of this test's own; what lies below it is deleted afterwards."""
    prefix = f"t{os.getpid()}-{os.urandom(3).hex()}-{next(_numbers)}"
    if request.param == GIVEN:
        server = SharedServer(os.environ[GIVEN], prefix, None)
    else:
        started = shared_servers(request.param)
        server = SharedServer(started.url, prefix, started.binary)
    yield server
    with server.client() as client:
        if keys := server.keys():
            client.delete(*keys)


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """``start_server(binary, settings=..., password=..., users=...)``: a server of the test's own."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Server:
            return stack.enter_context(Server(*arguments, **options))

        yield start


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    """``start_proxy(server)``, or ``start_proxy((host, port))``, with ``tls=`` if wanted."""
    with ExitStack() as stack:

        def start(target: Server | tuple[str, int], **options: Any) -> FaultProxy:
            where = target if isinstance(target, tuple) else (target.host, target.port)
            return stack.enter_context(FaultProxy(where, **options))

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority with certificates, the same for all tests of a process."""
    directory: Path = tmp_path_factory.mktemp("certificates")
    return Certificates(directory)
