"""Storing events: the messages of a call are rows of few statements."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import cache
from typing import Final

from bus_core import BusError, Message, PublishError, PublishFailed, PublishUncertain
from bus_core.adapters import text_fault_of, text_of_headers, together_or_apart
from promenade_bus_sqlite.failures import Kind, SqliteFailure
from promenade_bus_sqlite.topics import Topics
from promenade_bus_sqlite.worker import Worker

__all__ = ["Publisher", "insert_events"]

_ROWS: Final = (200, 20, 1)
"""The most rows of one statement.

Each statement gives up Python's lock once, and a busy event loop may keep it.
"""

_ONE_MAY_FIT: Final = (Kind.FULL, Kind.TOO_LARGE, Kind.INPUT_OUTPUT, Kind.OTHER)
"""Failures after which a smaller message may still be stored."""

Row = tuple[int, str, str, str | None, bytes, float]


@cache
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * rows)
    return f"INSERT INTO promenade_event (topic, id, key, headers, body, published) VALUES {values}"


def insert_events(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Stores rows in their order."""
    begin = 0
    for size in _ROWS:
        while len(rows) - begin >= size:
            db.execute(_insert(size), [value for row in rows[begin : begin + size] for value in row])
            begin += size


class Publisher:
    """Stores messages, those of a call in one transaction."""

    def __init__(self, worker: Worker, topics: Topics) -> None:
        self._worker = worker
        self._topics = topics

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """One result for each; see ``bus_core.Adapter``."""
        results: list[PublishError | None] = [None] * len(messages)
        sound: list[int] = []
        for index, message in enumerate(messages):
            why = text_fault_of(message)
            if why is None:
                sound.append(index)
            else:
                results[index] = PublishFailed(why, permanent=True)
        answers = await together_or_apart([messages[index] for index in sound], self._store)
        for index, answer in zip(sound, answers, strict=True):
            results[index] = None if answer is None else _as_publish_error(answer)
        return results

    async def _store(self, messages: Sequence[Message]) -> Sequence[BusError | None]:
        now = time.time()

        def run(db: sqlite3.Connection) -> None:
            topics: dict[str, int] = {}
            rows: list[Row] = []
            for message in messages:
                topic = topics.get(message.topic)
                if topic is None:
                    topic = topics[message.topic] = self._topics.add(db, message.topic)
                headers = text_of_headers(message.headers)
                rows.append((topic, message.id, message.key, headers, message.body, now))
            insert_events(db, rows)

        try:
            await self._worker.write(run)
        except SqliteFailure as failure:
            if failure.is_uncertain or failure.kind not in _ONE_MAY_FIT:
                return [failure] * len(messages)
            raise
        return [None] * len(messages)


def _as_publish_error(error: BusError) -> PublishError:
    failure: PublishError
    if not isinstance(error, SqliteFailure) or error.is_uncertain:
        failure = PublishUncertain(str(error))
    else:
        kind = error.kind
        failure = PublishFailed(str(error), transient=kind.passes, permanent=kind.is_of_value)
    failure.__cause__ = error
    return failure
