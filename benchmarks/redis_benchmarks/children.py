"""The processes of the end-to-end benchmark: ``children.py ROLE ADDRESS NAME``, told what to do line by line.

A consumer is told how many events to expect, and says when it handled the last of them. A producer is told
how many to publish, and says when it began. Times are nanoseconds of the clock that all processes share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import Any

__all__ = ["main"]

TASKS = 50


async def _lines() -> AsyncIterator[int]:
    """The numbers that come in, line by line."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield int(line)


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class _Counter:
    """Waits for so many events."""

    def __init__(self) -> None:
        self._left = 0
        self._done = asyncio.Event()

    def note(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    def expect(self, events: int) -> None:
        self._left = events
        self._done.clear()

    async def wait(self) -> int:
        await self._done.wait()
        return time.monotonic_ns()


async def _count(counter: _Counter) -> None:
    _say(ready=True)
    async for events in _lines():
        counter.expect(events)
        _say(expecting=events)
        ended = await counter.wait()
        # In kilobytes on Linux, and in bytes on macOS: what is compared is of one machine.
        _say(ended=ended, memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


async def _produce(publish: Callable[[], Awaitable[object]]) -> None:
    async def work(events: int) -> None:
        for _ in range(events):
            await publish()

    _say(ready=True)
    async for events in _lines():
        began = time.monotonic_ns()
        await asyncio.gather(*(work(events // TASKS) for _ in range(TASKS)))
        _say(began=began)


async def _consume_by_bus(address: str, serializer: str) -> None:
    from redis_benchmarks.subjects import ORDER_PLACED, OrderPlaced, bus_on

    counter = _Counter()
    async with bus_on(address, serializer, prefix=f"process-{serializer}") as bus:

        async def handler(_event: OrderPlaced) -> None:
            counter.note()

        await bus.subscribe(ORDER_PLACED, handler, name="benchmark").ready()
        await _count(counter)


async def _produce_by_bus(address: str, serializer: str) -> None:
    from redis_benchmarks.subjects import ORDER, ORDER_PLACED, bus_on

    async with bus_on(address, serializer, prefix=f"process-{serializer}") as bus:
        await _produce(lambda: bus.publish(ORDER_PLACED, ORDER))


def _faststream(address: str) -> Any:
    # Imported by name: it is there for benchmarks only.
    broker = import_module("faststream.redis").RedisBroker
    return broker(f"redis://{address}", logger=None, log_level=logging.CRITICAL)


async def _consume_by_faststream(address: str, stream: str) -> None:
    stream_sub = import_module("faststream.redis").StreamSub
    counter = _Counter()
    broker = _faststream(address)

    @broker.subscriber(stream=stream_sub(stream, group="benchmark", consumer="one"))  # type: ignore[untyped-decorator]
    async def handler(_body: dict[str, Any]) -> None:
        counter.note()

    async with broker:
        await broker.start()
        await _count(counter)


async def _produce_by_faststream(address: str, stream: str) -> None:
    from redis_benchmarks.subjects import ORDER, fields_of, serializer_of

    body = json.loads(fields_of(ORDER, serializer_of("json"))["body"])
    async with _faststream(address) as broker:
        await _produce(lambda: broker.publish(body, stream=stream))


ROLES = {
    "consume-bus": _consume_by_bus,
    "produce-bus": _produce_by_bus,
    "consume-faststream": _consume_by_faststream,
    "produce-faststream": _produce_by_faststream,
}


def main() -> None:
    """Plays one role until there are no more lines."""
    role, address, name = sys.argv[1:]
    asyncio.run(ROLES[role](address, name))


if __name__ == "__main__":
    main()
