"""The cost of an event on each path, in numbers that no other work on the machine can change.

They are the calls of Python functions and the allocated blocks of memory, each for one event. ``make cost``
writes them to ``tests/bus/cost_per_event.json``, by the version of Python.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest import mock

import attrs

from bus_core import Bus, Topic
from promenade_benchmarks.shapes import EVERYDAY, PLAIN, SHAPES, Shape, subscribers
from promenade_benchmarks.subjects import Ping, bus_of, pings, publisher_of, subscribe
from promenade_benchmarks.waiting import WAITING_SHAPES, fail_once, settle_retries, wait_once
from promenade_bus_testing import VirtualClock

__all__ = ["FILE", "PATHS", "VERSION", "Cost", "cost_of", "stored_costs"]

FILE: Final = Path(__file__).resolve().parents[1] / "bus" / "cost_per_event.json"
VERSION: Final = ".".join(map(str, sys.version_info[:2]))
EVENTS: Final = 1_000
_BUFFER: Final = 500  # so that the publisher waits for room

_TOPIC: Final = Topic("benchmark.topic.n0", Ping)
_RETRY: Final = Shape("retry", "an attempt that fails and its retry")

PATHS: Final[Mapping[str, tuple[Shape, Callable[..., Awaitable[None]] | None]]] = {
    **{shape.name: (shape, None) for shape in (*SHAPES, EVERYDAY, subscribers(PLAIN, 10))},
    **{shape.name: (shape, wait_once) for shape in WAITING_SHAPES},
    _RETRY.name: (_RETRY, fail_once),
}
"""A shape and its handler, or None for one that does nothing."""


@attrs.frozen
class Cost:
    """``calls`` of Python functions from publish to settled, ``blocks`` of memory while it is queued.

    The blocks of a serialized event are not counted: their sizes differ from event to event.
    """

    calls: float
    blocks: float | None


def cost_of(path: str) -> Cost:
    """The cost of an event on that path, to a tenth."""
    shape, handler = PATHS[path]
    calls = asyncio.run(_calls(shape, handler))
    return Cost(calls, None if shape.serializer else asyncio.run(_blocks(shape, handler)))


def stored_costs() -> dict[str, dict[str, Cost]]:
    """Those of the file, by version and path."""
    document: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        version: {path: Cost(**cost) for path, cost in costs.items()} for version, costs in document.items()
    }


async def _calls(shape: Shape, handler: Callable[..., Awaitable[None]] | None) -> float:
    with _steady():
        clock = VirtualClock() if shape is _RETRY else None
        async with bus_of(shape, buffer_size=_BUFFER if clock is None else EVENTS, clock=clock) as bus:
            subscribe(bus, shape, _TOPIC, handler)
            await _handle(bus, shape, clock)  # what is done once is done
            calls = 0

            def count(frame: FrameType, event: str, argument: object) -> None:
                nonlocal calls
                calls += event == "call"

            sys.setprofile(count)
            try:
                await _handle(bus, shape, clock)
            finally:
                sys.setprofile(None)
    return round(calls / EVENTS, 1)


async def _handle(bus: Bus, shape: Shape, clock: VirtualClock | None) -> None:
    events = pings(shape, EVENTS)
    if shape.many:
        await bus.publish_many([(_TOPIC, event) for event in events])
    else:
        publish = publisher_of(bus, shape)
        for event in events:
            await publish(_TOPIC, event)
    if clock is None:
        await bus.drain()
    else:
        await settle_retries(bus, clock)


async def _blocks(shape: Shape, handler: Callable[..., Awaitable[None]] | None) -> float:
    with _steady():
        clock = VirtualClock() if shape is _RETRY else None
        async with bus_of(shape, buffer_size=2 * EVENTS, clock=clock) as bus:
            subscribe(bus, shape, _TOPIC, handler)
            publish = publisher_of(bus, shape)
            events = pings(shape, EVENTS)
            for event in events[: 2 * shape.keys]:
                await publish(_TOPIC, event)
            gc.collect()  # empties the free lists, whose objects are allocated already
            before = sys.getallocatedblocks()
            for event in events:
                await publish(_TOPIC, event)
            after = sys.getallocatedblocks()
            if clock is not None:
                await settle_retries(bus, clock)
    return round((after - before) / EVENTS, 1)


@contextmanager
def _steady() -> Iterator[None]:
    """No collection of garbage comes in between, and workers never find that their time is over."""
    stopped = itertools.repeat(0.0).__next__
    logger = logging.getLogger("promenade.bus")
    with (
        mock.patch("bus_core.dispatch.worker_pool.lease_clock", stopped),
        mock.patch.object(logger, "disabled", True),
    ):
        gc.collect()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


def main() -> None:
    """Counts for the running Python, and keeps the counts of others."""
    document = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    document[VERSION] = {path: attrs.asdict(cost_of(path)) for path in PATHS}
    FILE.write_text(json.dumps(dict(sorted(document.items())), indent=1) + "\n", encoding="utf-8")
    print(f"{FILE}: counted on CPython {VERSION}")


if __name__ == "__main__":
    main()
