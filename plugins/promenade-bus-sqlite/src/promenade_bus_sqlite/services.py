"""The shared state of a started adapter's parts."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from bus_core.adapters import Heartbeats
from promenade_bus_sqlite.config import SqliteOptions
from promenade_bus_sqlite.file import File
from promenade_bus_sqlite.topics import Topics
from promenade_bus_sqlite.worker import Worker

__all__ = ["Services"]


@attrs.frozen
class Services:
    """The shared parts. ``woken`` gets the number of a subscription whose other consumers may have events."""

    options: SqliteOptions
    file: File
    worker: Worker
    heartbeats: Heartbeats
    topics: Topics
    woken: Callable[[int], None]
