"""The same with huey: a task for each event, and its consumer with one worker thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from promenade_benchmarks.batches import ORDER_PLACED, SERIALIZER, OrderPlaced, order

__all__ = ["consume", "prepare", "publish"]


def _huey(path: str) -> tuple[Any, Callable[[bytes], Any], list[int]]:
    huey: Any = import_module("huey")  # which only this environment has
    queue = huey.SqliteHuey("orders", filename=path, results=False)
    handled = [0]

    def handle(body: bytes) -> None:
        assert isinstance(SERIALIZER.decode(body, event_class=OrderPlaced), OrderPlaced)
        handled[0] += 1

    return queue, queue.task(name="handle")(handle), handled


def prepare(path: str) -> None:
    """Creates the tables."""
    _huey(path)


def publish(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> None:
    """Enqueues a task for each event."""
    _, handle, _ = _huey(path)
    ready()
    for number in range(count):
        handle(SERIALIZER.encode(order(number), topic=ORDER_PLACED.name, source="benchmark"))


def consume(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> float:
    """Runs the consumer until so many were handled; the moment of the last one."""
    queue, _, handled = _huey(path)
    consumer = queue.create_consumer(workers=1, periodic=False, initial_delay=0.001, max_delay=0.01)
    ready()
    consumer.start()
    while handled[0] < count:
        time.sleep(0.001)
    ended = time.monotonic()
    stopping = threading.Thread(target=consumer.stop, kwargs={"graceful": True})
    stopping.start()
    stopping.join()
    return ended
