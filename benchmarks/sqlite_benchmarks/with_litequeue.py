"""The same with litequeue: put, pop and done, one event at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from promenade_benchmarks.batches import ORDER_PLACED, SERIALIZER, OrderPlaced, order

__all__ = ["consume", "prepare", "publish"]


def _queue(path: str) -> Any:
    litequeue: Any = import_module("litequeue")  # which only this environment has
    return litequeue.LiteQueue(path, timeout=30)


def prepare(path: str) -> None:
    """Creates the table."""
    _queue(path).close()


def publish(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> None:
    """Puts each event."""
    queue = _queue(path)
    ready()
    for number in range(count):
        queue.put(SERIALIZER.encode(order(number), topic=ORDER_PLACED.name, source="benchmark").decode())


def consume(path: str, count: int, synchronous: str, ready: Callable[[], None]) -> float:
    """Pops so many events; the moment of the last one."""
    queue = _queue(path)
    ready()
    handled = 0
    while handled < count:
        message = queue.pop()
        if message is None:
            time.sleep(0.0005)
            continue
        event = SERIALIZER.decode(message.data.encode(), event_class=OrderPlaced)
        assert isinstance(event, OrderPlaced)
        queue.done(message.message_id)
        handled += 1
    return time.monotonic()
