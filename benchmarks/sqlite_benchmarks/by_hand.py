"""A queue on sqlite3 as one writes it by hand: it inserts in batches, claims and deletes by a hundred.

No retries, no groups, no leases, no dead letters; the durability is that of the adapter.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from promenade_benchmarks.batches import BATCH, ORDER_PLACED, SERIALIZER, OrderPlaced, order

__all__ = ["consume", "prepare", "publish"]

_CLAIM = """UPDATE queue SET owner = 1 WHERE id IN (SELECT id FROM queue WHERE owner = 0 ORDER BY id LIMIT ?)
RETURNING id, body"""


def _connect(path: str, synchronous: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    return db


def prepare(path: str) -> None:
    """Creates the table."""
    db = _connect(path, "normal")
    db.execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, topic TEXT, body BLOB, owner INTEGER DEFAULT 0)")
    db.execute("CREATE INDEX queue_free ON queue (id) WHERE owner = 0")
    db.close()


def publish(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> None:
    """Stores events, a hundred in each transaction."""
    db = _connect(path, synchronous)
    ready()
    topic = ORDER_PLACED.name
    for begin in range(0, count, BATCH):
        rows = [
            (topic, SERIALIZER.encode(order(number), topic=topic, source="benchmark"))
            for number in range(begin, begin + BATCH)
        ]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO queue (topic, body) VALUES (?, ?)", rows)
        db.execute("COMMIT")
    db.close()


def consume(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> float:
    """Handles so many events; the moment of the last one, on the clock of the machine."""
    db = _connect(path, synchronous)
    ready()
    handled = 0
    while handled < count:
        db.execute("BEGIN IMMEDIATE")
        rows = db.execute(_CLAIM, (BATCH,)).fetchall()
        db.execute("COMMIT")
        if not rows:
            time.sleep(0.0005)
            continue
        for _, body in rows:
            _handle(SERIALIZER.decode(body, event_class=OrderPlaced))
        handled += len(rows)
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM queue WHERE id = ?", [(number,) for number, _ in rows])
        db.execute("COMMIT")
    ended = time.monotonic()
    db.close()
    return ended


def _handle(event: object) -> None:
    assert isinstance(event, OrderPlaced)
