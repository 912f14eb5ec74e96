"""The shared state of a started adapter's parts."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from bus_core.adapters import Heartbeats
from promenade_bus_postgres.config import PostgresOptions
from promenade_bus_postgres.connections import Database, Sql
from promenade_bus_postgres.topics import Topics

__all__ = ["Services"]


@attrs.frozen
class Services:
    """The shared parts. ``freed`` gets the number of a subscription with deliveries that came free."""

    options: PostgresOptions
    sql: Sql
    database: Database
    heartbeats: Heartbeats
    topics: Topics
    freed: Callable[[int], None]
