"""Database connections around handlers: no handler meets the broken connection of an earlier one."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections

from bus_core import Delivery
from bus_core.dispatch import inspect_handler
from django_support.shop.events import PLACED, Placed
from postgres_support.servers import HOST, PostgresServer
from promenade_bus_django import DjangoBus
from promenade_bus_django.connections import KeptConnections, with_connections
from redis_support.child_processes import wait_until


def placed(number: int = 0) -> Placed:
    return Placed(aggregate_id=uuid4(), number=number)


@pytest.fixture
def postgres(shop: DjangoBus, postgres_server: PostgresServer, postgres_database: str) -> Iterator[str]:
    """The alias of a database whose connections are kept, as in production."""
    alias = "postgres"
    connections.settings[alias] = connections.configure_settings(
        {
            "default": {},
            alias: {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": postgres_database,
                "USER": "promenade",
                "HOST": HOST,
                "PORT": str(postgres_server.port),
                "CONN_MAX_AGE": None,
            },
        }
    )[alias]
    yield alias
    shop.close()
    connections[alias].close()
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{postgres_database}'"
    wait_until(lambda: postgres_server.ask(count)[0][0] == 0, "closing the bus closes all connections", 10)
    del connections.settings[alias], connections[alias]


def backend(alias: str) -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def cut(alias: str, pid: int) -> None:
    """Ends a connection, as a restart of the server does."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def test_a_thread_replaces_a_broken_connection(shop: DjangoBus, postgres: str) -> None:
    """Only the attempt that meets it fails; its retry and all later events get a new connection."""
    pids: list[int] = []
    failures: list[int] = []
    seen = threading.Semaphore(0)

    @shop.subscribe(PLACED, name="looking", concurrency=1)
    def look(event: Placed) -> None:
        try:
            pids.append(backend(postgres))
        except OperationalError:
            failures.append(event.number)
            raise
        seen.release()

    shop.publish(PLACED, placed(0))
    assert seen.acquire(timeout=10)
    cut(postgres, pids[0])
    for number in range(1, 6):
        shop.publish(PLACED, placed(number))
    shop.drain(10)
    assert len(pids) == 6
    assert len(failures) <= 1
    assert pids[0] not in pids[1:]
    assert len({*pids[1:]}) == 1, "the new connection is kept"


def test_an_attempt_that_breaks_its_connection_leaves_none_behind(shop: DjangoBus, postgres: str) -> None:
    """A handler that raises because its connection is cut is retried on another one."""
    pids: list[int] = []

    @shop.subscribe(PLACED, name="looking")
    def look(event: Placed, delivery: Delivery) -> None:
        pids.append(backend(postgres))
        if delivery.attempt == 1:
            with connections[postgres].cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    shop.publish(PLACED, placed())
    shop.drain(10)
    first, second = pids
    assert first != second


def test_async_handlers_have_connections_of_their_own(shop: DjangoBus, postgres: str) -> None:
    """Handlers that run at the same time do not wait for each other's queries, and leave none open."""
    together = threading.Barrier(2)
    pids: list[int] = []

    @shop.subscribe(PLACED, name="looking")
    async def look(event: Placed) -> None:
        await sync_to_async(together.wait)(10)
        pids.append(await sync_to_async(backend)(postgres))
        assert await sync_to_async(lambda: connections[postgres].connection is not None)()

    shop.publish_many([(PLACED, placed(1)), (PLACED, placed(2))])
    shop.drain(10)
    assert len({*pids}) == 2
    with connections[postgres].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [pids])
        assert cursor.fetchone()[0] == 0


class _Handler:
    def __call__(self, event: Placed, delivery: Delivery) -> str:
        return f"{event.number} {delivery}"


class _AsyncHandler:
    async def __call__(self, event: Placed) -> str:
        return str(event.number)


def _with_more(event: Placed, delivery: Delivery, more: int = 3) -> str:
    return f"{event.number} {delivery} {more}"


@pytest.mark.once
@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (_with_more, "_with_more"),
        (functools.partial(_with_more, more=3), "_with_more"),
        (_Handler(), "_Handler"),
        (_Handler().__call__, "_Handler.__call__"),
        (_AsyncHandler(), "_AsyncHandler"),
    ],
)
def test_a_wrapped_handler_is_called_like_the_handler(handler: Any, name: str) -> None:
    """Its shape and name are the handler's, and so is its result."""
    wrapped = with_connections(handler, KeptConnections())
    shape = inspect_handler(handler)
    assert (inspect_handler(wrapped).is_async, inspect_handler(wrapped).takes_delivery) == (
        shape.is_async,
        shape.takes_delivery,
    )
    assert wrapped.__qualname__.endswith(name)
    if shape.is_async:
        assert asyncio.run(wrapped(placed(1))) == "1"
    else:
        arguments = (placed(1), "d") if shape.takes_delivery else (placed(1),)
        assert wrapped(*arguments).startswith("1 d")
