"""Contract tests of resources: a closed bus leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterable
from uuid import uuid4

import pytest

from bus_core import Bus, PermanentError, RetryLater
from promenade_bus_testing.contract.events import OTHER, THING
from promenade_bus_testing.contract.harness import FAR, Call, Harness
from promenade_bus_testing.contract.running import contract

__all__ = ["ResourceTests"]

_DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


def descriptors() -> Iterable[str]:
    """Yields the target of every open file descriptor, or nothing where the system has no list."""
    try:
        numbers = os.listdir(_DESCRIPTORS)
    except OSError:  # such as on Windows
        return
    for number in numbers:
        try:
            target = os.readlink(f"{_DESCRIPTORS}/{number}")
        except OSError:  # the descriptor of the listing itself, or a system without links
            continue
        kind = target.partition(":[")[0]
        yield f"descriptor of a {kind}" if kind in ("socket", "pipe") else f"descriptor of {target}"


def sample(harness: Harness) -> Counter[str]:
    """Counts everything in use: tasks, threads, descriptors, timers, and the author's own items."""
    gc.collect()
    loop_threads = "asyncio_"  # threads of the loop's own pool live as long as the loop
    return Counter(
        [
            *(f"task {task.get_name()} {task.get_coro()}" for task in asyncio.all_tasks()),
            *(f"thread {t.name}" for t in threading.enumerate() if not t.name.startswith(loop_threads)),
            *descriptors(),
            *(f"timer due in {due} s" for due in harness.clock.timers),
            *harness.suite.left_behind(harness.place),
        ]
    )


async def used_bus(harness: Harness, *, troubled: bool) -> Bus:
    """Makes a bus of a new service on which every kind of outcome has happened."""
    bus = harness.new_bus(service=f"contract-{uuid4().hex}")
    await harness.finish(bus.start(), "a bus starts")

    async def misbehave(call: Call) -> None:
        if call.number == 1:
            raise PermanentError("never")
        if troubled and call.number == 2:
            raise RetryLater(after=FAR)
        if troubled and call.number == 3:
            await asyncio.Event().wait()

    listener = await harness.listen(bus, THING, "listener", misbehave, timeout=FAR, start="latest")
    pattern = await harness.listen(bus, "contract.#", "pattern", start="latest")
    leaving = await harness.listen(bus, OTHER, "leaving", start="latest")
    names: list[str] = []

    def in_a_thread(_event: object) -> None:
        names.append(threading.current_thread().name)

    bus.subscribe(THING, in_a_thread, name="thread", mode=harness.default_mode, start="latest")
    await harness.publish(bus, *range(5))
    await harness.publish(bus, 0, topic=OTHER)
    await harness.until(
        lambda: len(listener.calls) >= 5 and len(pattern.done) >= 6 and len(names) >= 5 and leaving.done,
        "a bit of everything happens",
    )
    await harness.finish(leaving.subscription.unsubscribe(), "a subscription leaves")
    await bus.dead_letters.list()
    await bus.health()
    return bus


class ResourceTests:
    """Nothing is left behind."""

    @contract()
    @pytest.mark.parametrize("troubled", [False, True], ids=["in calm", "in trouble"])
    async def test_nothing_is_left_behind(self, harness: Harness, troubled: bool) -> None:
        """After close no task, thread, timer, descriptor or connection of the bus is left."""
        await harness.close(await used_bus(harness, troubled=troubled), 1)  # the first bus imports modules
        before = sample(harness)
        for _ in range(harness.scale(3, 30)):
            await harness.close(await used_bus(harness, troubled=troubled), 1)
        left: Counter[str] = Counter()

        def all_gone() -> bool:
            left.clear()
            left.update(sample(harness) - before)
            return not left

        try:
            await harness.until(all_gone, "everything is given back")
        except AssertionError:
            raise AssertionError(f"left behind: {dict(left)}") from None

    @contract()
    async def test_closed_bus_is_collected(self, harness: Harness) -> None:
        """Nothing keeps a closed bus or its handlers alive."""
        bus = await used_bus(harness, troubled=False)
        await harness.close(bus)
        gone = weakref.ref(bus)
        del bus
        await harness.until(lambda: gc.collect() >= 0 and gone() is None, "the bus is collected")

    @contract()
    async def test_bus_that_was_never_started(self, harness: Harness) -> None:
        """A bus that was opened but not started leaves nothing behind, with subscriptions and without."""
        before = sample(harness)
        for subscribing in (False, True):
            bus = harness.new_bus()
            if subscribing:
                await harness.listen(bus)
            await bus.close()
        assert sample(harness) - before == Counter()
