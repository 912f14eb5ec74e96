from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import promenade_bus_sqlite
from bus_core import Features
from promenade_bus_testing.contract import AdapterContract, Place


def path_of(place: Place) -> Path:
    return place.directory / "events.db"


@pytest.mark.once
class TestSqlite(AdapterContract):
    """The SQLite adapter keeps the contract, with every feature."""

    features = Features(
        durable=True, groups=True, broadcast=True, ordered=True, delayed=True, replay=True, admin=True
    )
    plugins = (promenade_bus_sqlite,)

    def settings(self, place: Place) -> Mapping[str, Any]:
        return {"adapter": "sqlite", "sqlite": {"path": str(path_of(place))}}

    def with_lease(self, settings: Mapping[str, Any], lease: float) -> Mapping[str, Any]:
        return {**settings, "sqlite": {**settings["sqlite"], "lease": f"{lease:g}s"}}

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        with closing(sqlite3.connect(path_of(place))) as db, db:
            db.execute("INSERT OR IGNORE INTO promenade_topic (name) VALUES (?)", (topic,))
            db.execute(
                "INSERT INTO promenade_event (topic, id, key, body, published) SELECT id, ?, '', ?, ?"
                " FROM promenade_topic WHERE name = ?",
                (str(uuid4()), body, time.time(), topic),
            )
