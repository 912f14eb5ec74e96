"""Producer and consumer processes, which play a role that the runner has written down."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import attrs

from bus_core import Bus, BusError, FixedRetry, PublishUncertain, Topic, open_bus, open_sync_bus
from chaos.events import Task, key, topic
from chaos.plans import Effect
from chaos.planted import plant
from promenade_bus_testing import Journal

_CLOCK_STEPS = (3_600.0, -7_200.0, 3_600.0)


@attrs.frozen(kw_only=True)
class Role:
    """One process. Times are seconds.

    ``config`` is that of its bus. Consumers handle ``topics`` topics with ``concurrency`` handlers that take
    ``work``. Producers publish ``rate`` events a second, with at most ``in_flight`` unfinished publishes.
    ``mix`` gives plans to a share of them, ``limit`` ends it. ``threads`` publish through a sync bus.
    ``insists`` publishes the same event again for as long as it is not known to be stored.
    """

    kind: str
    name: str
    directory: str
    config: dict[str, Any]
    topics: int = 1
    generation: int = 0
    seed: int = 0
    concurrency: int = 16
    work: float = 0.002
    lease: float = 1.5
    ordered: bool = False
    broadcast: bool = False
    delay: float | None = None
    attempts: int = 10
    rate: float = 100.0
    in_flight: int = 256
    keys: int = 100
    mix: tuple[tuple[str, float], ...] = ()
    filling: int = 0
    limit: int | None = None
    threads: int = 0
    insists: bool = False
    sample_every: float = 0.2
    bug: str = ""


def play(facts: dict[str, Any]) -> None:
    """Runs a process from its beginning to its end."""
    role = Role(**{**facts, "mix": tuple((plan, share) for plan, share in facts["mix"])})
    logging.basicConfig(level=logging.WARNING, format="%(created).3f %(levelname)s %(name)s %(message)s")
    if role.bug:
        plant(role.bug)
    if role.threads:
        _produce_from_threads(role)
        return
    run = _consume if role.kind == "consumer" else _produce
    asyncio.run(run(role))


def _journal(role: Role) -> Journal:
    return Journal(Path(role.directory) / "journals", role.name)


class Samples:
    """The report of a process about itself, from time to time."""

    def __init__(self, role: Role) -> None:
        place = Path(role.directory) / "samples"
        place.mkdir(exist_ok=True)
        self._file = open(place / f"{role.name}.jsonl", "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def write(self, **facts: Any) -> None:
        self._file.write(json.dumps({"at": time.monotonic(), **facts}) + "\n")

    async def look(self, bus: Bus) -> None:
        report, state = await bus.health(), bus.state()
        self.write(
            memory=_resident(),
            descriptors=len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0,
            tasks=len(asyncio.all_tasks()),
            status=report.status.value,
            summaries={name: check.summary for name, check in report.checks.items()},
            lost=state.lost,
            late=sum(each.late for each in state.subscriptions),
            handled=sum(each.handled for each in state.subscriptions),
            published=state.published,
        )


def _resident() -> int:
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _until_told(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await work(told)


def _step_clock_on_signal() -> None:
    """SIGUSR1 puts the clock of the process, as Python sees it, an hour forward or back."""
    steps = iter(_CLOCK_STEPS * 1000)
    offset = 0.0
    true_time = time.time

    def step(_number: int, _frame: object) -> None:
        nonlocal offset
        offset += next(steps)

    time.time = lambda: true_time() + offset
    signal.signal(signal.SIGUSR1, step)


# --- consuming --------------------------------------------------------------------------------------------


async def _consume(role: Role) -> None:
    _step_clock_on_signal()
    await _until_told(lambda told: _consume_until(role, told))


async def _consume_until(role: Role, told: asyncio.Event) -> None:
    journal, samples = _journal(role), Samples(role)
    effect = Effect(role.work, role.lease, role.generation)
    bus = open_bus(role.config)
    options: dict[str, Any] = {"concurrency": role.concurrency, "ordered": role.ordered}
    if role.delay is not None:
        options["retry"] = FixedRetry(attempts=role.attempts, delay=role.delay)
    own = ""
    if role.broadcast:
        options["mode"], own = "broadcast", f"-{role.name}"
    for index in range(role.topics):
        journal.subscribe(bus, topic(index), effect.handle, name=f"worker{index}{own}", **options)
    await bus.start()
    for subscription in bus.subscriptions:
        await subscription.ready()
    samples.write(ready=True)
    while not told.is_set():
        await samples.look(bus)
        try:
            async with asyncio.timeout(role.sample_every):
                await told.wait()
        except TimeoutError:
            pass
    began = time.monotonic()
    await samples.look(bus)
    report = await bus.close()
    journal.counted_lost(bus.state().lost)
    samples.write(closed=time.monotonic() - began, abandoned=len(report.abandoned))


# --- producing --------------------------------------------------------------------------------------------


async def _produce(role: Role) -> None:
    await _until_told(lambda told: _produce_until(role, told))


class Source:
    """Makes the events of one producer, the same ones for the same seed, except for their ids."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._random = random.Random(role.seed)
        self._topics: list[Topic[Task]] = [topic(index) for index in range(role.topics)]
        self._filling = "x" * role.filling
        self.made = 0

    def make(self) -> tuple[Topic[Task], Task]:
        number, self.made = self.made, self.made + 1
        chance, plan, filling = self._random.random(), "", self._filling
        for name, share in self._role.mix:
            if chance < share:
                plan = name
                break
            chance -= share
        if plan.startswith("huge"):
            plan, filling = "", "x" * int(plan.partition(":")[2])
        event = Task(aggregate_id=key(number % self._role.keys), number=number, plan=plan, filling=filling)
        return self._topics[number % len(self._topics)], event


async def _produce_until(role: Role, told: asyncio.Event) -> None:
    journal, samples = _journal(role), Samples(role)
    source = Source(role)
    bus = open_bus(role.config)
    publishing: set[asyncio.Task[None]] = set()

    async def publish(place: Topic[Task], event: Task) -> None:
        while True:
            try:
                await journal.publish(bus, place, event)
            except PublishUncertain:
                if role.insists:
                    continue
            except BusError:
                pass  # the journal has it; the caller was told
            return

    async with bus:
        samples.write(ready=True)
        began = looked = time.monotonic()
        owed = 0.0
        while not told.is_set() and (role.limit is None or source.made < role.limit):
            now = time.monotonic()
            owed = min(owed + (now - began) * role.rate, role.rate)  # what an outage held up is not made good
            began = now
            while owed >= 1 and len(publishing) < role.in_flight:
                if role.limit is not None and source.made >= role.limit:
                    break
                owed -= 1
                task = asyncio.create_task(publish(*source.make()))
                publishing.add(task)
                task.add_done_callback(publishing.discard)
            if now - looked >= role.sample_every:
                looked = now
                await samples.look(bus)
            try:
                async with asyncio.timeout(min(0.01, 1 / role.rate)):
                    await told.wait()
            except TimeoutError:
                pass
        if publishing:
            await asyncio.wait(publishing)
        await samples.look(bus)
    journal.counted_lost(bus.state().lost)


def _produce_from_threads(role: Role) -> None:
    """The same by threads that share a sync bus, each with its part of the rate."""
    journal, samples = _journal(role), Samples(role)
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: told.set())
    lock, source = threading.Lock(), Source(role)
    with open_sync_bus(role.config) as bus:

        def publish() -> None:
            while not told.wait(role.threads / role.rate):
                with lock:
                    place, event = source.make()
                try:
                    journal.publish_sync(bus, place, event)
                except BusError:
                    pass

        threads = [threading.Thread(target=publish) for _ in range(role.threads)]
        for thread in threads:
            thread.start()
        samples.write(ready=True)
        for thread in threads:
            thread.join()
