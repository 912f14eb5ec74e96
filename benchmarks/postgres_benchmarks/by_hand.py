"""A queue on psycopg as one writes it by hand: it inserts a hundred in a transaction, and takes a hundred.

A transaction locks rows with SKIP LOCKED, handles them and deletes them, and its commit is the
acknowledgement. No retries, no groups, no leases, no dead letters; the durability is that of the adapter.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from promenade_benchmarks.batches import BATCH, ORDER_PLACED, SERIALIZER, OrderPlaced, order

__all__ = ["consume", "prepare", "publish", "put", "take"]

_TABLE = "CREATE TABLE queue (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text, body bytea)"
_INSERT = "INSERT INTO queue (topic, body) SELECT * FROM unnest(%b::text[], %b::bytea[])"
_CLAIM = "SELECT id, body FROM queue ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED"
_DELETE = "DELETE FROM queue WHERE id = ANY(%s)"
_EMPTY = 0.0005
"""Seconds until it looks again when there was nothing."""


def prepare(url: str) -> None:
    """Creates the table."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(_TABLE)


def put(db: psycopg.Connection[tuple[int, bytes]], first: int) -> None:
    """Stores a batch in one transaction."""
    topic = ORDER_PLACED.name
    numbers = range(first, first + BATCH)
    bodies = [SERIALIZER.encode(order(number), topic=topic, source="benchmark") for number in numbers]
    db.execute(_INSERT, ([topic] * BATCH, bodies))


def take(db: psycopg.Connection[tuple[int, bytes]]) -> int:
    """Handles a batch in one transaction; the number of its events."""
    with db.transaction(), db.cursor(binary=True) as cursor:
        rows = cursor.execute(_CLAIM, (BATCH,)).fetchall()
        for _, body in rows:
            assert isinstance(SERIALIZER.decode(body, event_class=OrderPlaced), OrderPlaced)
        if rows:
            db.execute(_DELETE, ([number for number, _ in rows],))
    return len(rows)


def publish(url: str, count: int, ready: Callable[[], None]) -> None:
    """Stores so many events."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=1) as db:
        ready()
        for first in range(0, count, BATCH):
            put(db, first)


def consume(url: str, count: int, ready: Callable[[], None]) -> float:
    """Handles so many events; the moment of the last one, on the clock of the machine."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=1) as db:
        ready()
        handled = 0
        while handled < count:
            taken = take(db)
            handled += taken
            if not taken:
                time.sleep(_EMPTY)
        return time.monotonic()
