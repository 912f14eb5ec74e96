"""The protocol between the processes of a measurement and their parent, a line of JSON at a time.

It needs nothing but the standard library, so that a peer can live in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

__all__ = ["Meter", "Publish", "Stamped", "answer", "publish_as_told", "say", "stamped"]

TASKS = 50
"""So many publishes are under way at the same time."""

Publish = Callable[[str], Awaitable[object]]
"""Publishes one event whose number is the text."""

Stamped = Callable[[str], dict[str, Any]]
"""The body of one event whose number is the text."""


def say(**facts: Any) -> None:
    """Tells the parent."""
    print(json.dumps(facts), flush=True)


def stamped(body: dict[str, Any]) -> Stamped:
    """Makes bodies like this one."""
    data = body["data"]
    return lambda number: {**body, "data": {**data, "number": number}}


class Meter:
    """Counts events in a consumer, from any thread. ``timed`` says that their numbers are times."""

    def __init__(self) -> None:
        self.timed = False
        self.latencies: list[int] = []
        self.last = 0
        self._next = count(1).__next__
        self.handled = 0

    def note(self, number: str) -> None:
        """Called by a handler."""
        self.last = now = time.monotonic_ns()
        self.handled = self._next()
        if self.timed:
            self.latencies.append(now - int(number))


async def answer(meter: Meter) -> None:
    """Answers the parent until it has no more questions. A thread does: the loop may be busy or blocked."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def listen() -> None:
        for line in sys.stdin:
            question = json.loads(line)
            if "timed" in question:
                meter.timed = question["timed"]
                meter.latencies = []
            latencies = meter.latencies if question.get("latencies") else []
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            say(handled=meter.handled, last=meter.last, memory=memory, latencies=latencies)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    say(ready=True)
    await ended.wait()


async def publish_as_told(publish: Publish) -> None:
    """Publishes as many events as the parent says: 50 at a time, or at a steady rate, each with its time."""
    say(ready=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        told = json.loads(line)
        began = time.monotonic_ns()
        if told["rate"]:
            await _steadily(publish, told["events"], told["rate"])
        else:
            await _together(publish, told["events"])
        say(began=began, ended=time.monotonic_ns())


async def _together(publish: Publish, events: int) -> None:
    async def work(own: int) -> None:
        for _ in range(own):
            await publish("2025-000417")

    share, rest = divmod(events, TASKS)
    await asyncio.gather(*(work(share + (number < rest)) for number in range(TASKS)))


async def _steadily(publish: Publish, events: int, rate: float) -> None:
    async def one() -> None:
        await publish(str(time.monotonic_ns()))

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(events):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.create_task(one())
