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
    """``woken`` is told the number of a subscription for whose other consumers there may be something."""

    options: SqliteOptions
    file: File
    worker: Worker
    heartbeats: Heartbeats
    topics: Topics
    woken: Callable[[int], None]
