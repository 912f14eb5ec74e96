"""Where the server is, and what is wrong with options."""

from __future__ import annotations

from typing import Any

import pytest

import promenade_bus_postgres
from bus_core import ConfigError, open_bus
from promenade_bus_postgres.adapter import PostgresAdapter


def place(own: dict[str, Any], database: dict[str, Any] | None = None) -> Any:
    config: dict[str, Any] = {"app": {"name": "shop"}, "bus": {"adapter": "postgres", "postgres": own}}
    if database is not None:
        config["database"] = {"postgres": database}
    adapter = open_bus(config, plugins=[promenade_bus_postgres], installed=False).adapter
    assert isinstance(adapter, PostgresAdapter)
    return adapter._place


def test_the_section_of_the_application() -> None:
    """``database.postgres`` is enough, and ``bus.postgres`` wins over it, key by key."""
    section = {"host": "db", "port": 5433, "name": "app", "user": "me", "password": "s3cret", "pool_size": 9}
    found = place({}, {**section, "driver": "asyncpg"})
    assert dict(found.parameters) == {
        "host": "db",
        "port": "5433",
        "dbname": "app",
        "user": "me",
        "password": "s3cret",
    }
    assert (found.pool_size, str(found)) == (9, "db:5433/app")
    assert "s3cret" not in repr(found)
    own = place({"name": "bus", "pool_size": 2}, section)
    assert (str(own), own.parameters["user"], own.pool_size) == ("db:5433/bus", "me", 2)


def test_a_url() -> None:
    """A URL replaces the keys of the application, may name several hosts, and never shows."""
    found = place({"url": "postgresql://me:s3cret@a,b/app"}, {"host": "db", "name": "other"})
    assert (found.parameters["host"], str(found)) == ("a,b", "a,b:5432/app")
    assert "s3cret" not in f"{found!r} {found}"
    assert str(place({}, {"url": "postgresql://db:6543/app"})) == "db:6543/app"


@pytest.mark.parametrize(
    ("own", "fault"),
    [
        ({}, "say where the server is: bus.postgres.url or host, or database.postgres @ $.bus.postgres"),
        ({"host": "db"}, "say which database: bus.postgres.name, or database.postgres.name @ $.bus.postgres"),
        ({"url": "mysql://me:s3cret@db/app"}, "must begin with postgresql:// @ $.bus.postgres.url"),
        ({"host": "db", "name": "a", "schema": "My Schema"}, "schema must be lower-case letters"),
        ({"host": "db", "name": "a", "poll": "0s"}, "poll"),
    ],
)
def test_faults(own: dict[str, Any], fault: str) -> None:
    """Each fault is told with its path, and without the secret."""
    with pytest.raises(ConfigError) as raised:
        place(own)
    assert fault in str(raised.value)
    assert "s3cret" not in str(raised.value)
