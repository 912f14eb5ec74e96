"""The demo on PostgreSQL, Redis and SQLite: several processes share the work, and one is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from bus_core import HealthReport
from crm.app import Application
from crm.customer import visible_name
from crm.identity import Population
from crm.progress import Progress
from crm.worker import Part, join
from promenade_bus_testing import Account
from promenade_bus_testing import Journal as FileJournal

__all__ = ["SeveralOutcome", "run_several"]

_EVERY_LETTER = 2**31
_MOST_REDRIVES = 3

_IN_HAND = 1_000
"""The deliveries of a killed worker that may be handled once more: what its handlers had done, and had not
been acknowledged. It is the size of its buffer, which holds all that it has taken."""

_AT_ONCE = 250
"""The number of people who register at the same time."""

_START = 60.0
"""Seconds that a worker may take until it listens."""


@attrs.frozen
class SeveralOutcome:
    """The result of a run. ``killed`` is the process id of the worker that was killed.

    ``seconds`` is the time in which events were published and handled. It includes the death of a worker and
    the start of its replacement. It excludes the start of the other workers and the deployment at the end.
    """

    account: Account
    health: HealthReport
    seconds: float
    killed: int
    redriven: int
    facts: Mapping[str, int]

    @property
    def lost(self) -> int:
        """The number of lost deliveries."""
        return self.account.total("lost")

    @property
    def adds_up(self) -> bool:
        """True when every published event is accounted for."""
        return self.account.adds_up


def redis_config(address: str, **more: Any) -> dict[str, Any]:
    """The configuration of the demo on a server. The lease is short: a dead worker is missed soon."""
    options = {"addr": address, "lease": "2s", "block": "500ms", "topic_refresh": "500ms"}
    return _config("redis", options, more)


def postgres_config(socket: str, **more: Any) -> dict[str, Any]:
    """The configuration of the demo on a server that listens on a socket in a directory, with that lease."""
    options = {"host": socket, "name": "postgres", "user": "promenade", "migrate": True, "lease": "2s"}
    return _config("postgres", options, more)


def sqlite_config(path: str, **more: Any) -> dict[str, Any]:
    """The configuration of the demo in a file, with the same lease."""
    return _config("sqlite", {"path": path, "lease": "2s"}, more)


def _config(adapter: str, options: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    bus = {
        "adapter": adapter,
        "worker_pool_size": 50,
        "retry_delay": "100ms",
        "shutdown_timeout": "10s",
        "health": {"probes": ["event-loop", "engine"]},
        adapter: options,
    }
    return {"app": {"name": "promenade"}, "bus": {**bus, **more}}


async def run_several(
    config: Mapping[str, Any], *, seed: int, users: int, workers: int, progress: Progress
) -> SeveralOutcome:
    """Runs the story with so many workers besides this process, and makes the account of all journals."""
    with tempfile.TemporaryDirectory(prefix="promenade-demo-") as directory:
        part = Part(config, directory, seed)
        crew = _Crew(part)
        try:
            with join(part, "main") as (app, file):
                return await _Story(app, file, crew, part, progress).run(users, workers)
        finally:
            crew.kill_all()


class _Story:
    def __init__(
        self, app: Application, file: FileJournal, crew: _Crew, part: Part, progress: Progress
    ) -> None:
        self.app = app
        self.file = file
        self.crew = crew
        self.part = part
        self.progress = progress
        self.redriven = 0
        self.seconds = 0.0

    async def run(self, users: int, workers: int) -> SeveralOutcome:
        app, progress = self.app, self.progress
        progress.step(f"starting {workers} workers")
        app.reference_data_publisher.prepare()
        async with app.bus:
            for subscription in app.bus.subscriptions:
                await subscription.ready()
            await self.crew.start(workers)
            progress.tell(f"processes {', '.join(map(str, self.crew.pids))}")
            progress.step("shared publishes every country, currency, language and time zone")
            with self._traffic():
                await app.reference_data_publisher.announce()
                await app.bus.drain()  # two topics are in no order: changes come when all is known
                await app.reference_data_publisher.change()
                await app.bus.drain()
                killed = await self._enrol(users)
                progress.step("waiting until everything that follows has been handled")
                await app.bus.drain()
            await self._repair()
            await self.file.finish(app.bus)
            health = await app.bus.health()
            await self.crew.end_all()
        account = Account.of(Path(self.part.directory) / "journals", duplicates=_IN_HAND)
        facts = {
            "processes": workers + 1,
            "users registered": app.registration.registered,
            "customers": len(app.customers.salutations),
            "workers killed": 1,
            "deliveries handled twice": account.total("duplicated"),
            "deliveries cut short": account.total("interrupted"),
        }
        return SeveralOutcome(account, health, self.seconds, killed, self.redriven, facts)

    @contextmanager
    def _traffic(self) -> Iterator[None]:
        """A block whose time counts, because events are published and handled in it."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    async def _enrol(self, users: int) -> int:
        """Lets people register, and kills a worker when a third of them have."""
        killed = 0
        replacing: asyncio.Task[None] | None = None
        self.progress.step(f"{users:,} people register with identity; customer follows", users)
        people = [*Population(seed=self.part.seed, size=users)]
        for first in range(0, users, _AT_ONCE):
            enrolling = asyncio.gather(
                *(self.app.registration.enrol(person) for person in people[first : first + _AT_ONCE])
            )
            if not replacing and first + _AT_ONCE > users // 3:
                killed = await self.crew.kill_one()
                self.progress.step(f"SIGKILL to worker {killed}; another one takes its place")
                replacing = asyncio.create_task(self.crew.start(1))
            await enrolling
        if replacing:
            await replacing
        return killed

    async def _repair(self) -> None:
        """Deploys a version without the bug, worker by worker, and sends the dead letters back."""
        letters = await self.app.bus.dead_letters.list(limit=_EVERY_LETTER)
        if not letters:
            return
        self.progress.step(f"deploying the mended handler to every worker, and redriving {len(letters)}")
        self.app.customers.salutation_of = visible_name
        self.crew.part = attrs.evolve(self.part, mended=True)
        await self.crew.replace_all()
        for _ in range(_MOST_REDRIVES):
            with self._traffic():
                self.redriven += await self.app.bus.dead_letters.redrive(letters)
                await self.app.bus.drain()
            letters = await self.app.bus.dead_letters.list(limit=_EVERY_LETTER)
            if not letters:
                return


class _Crew:
    """The worker processes. ``part`` is that of those that are started from now on."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._workers: list[asyncio.subprocess.Process] = []

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    async def start(self, count: int) -> None:
        """Starts so many, and waits until they listen; raises ``RuntimeError`` when one does not."""
        part = json.dumps(attrs.asdict(self.part))
        started = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "crm.worker", part),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(count)
        ]
        self._workers += started
        async with asyncio.timeout(_START):
            for worker in started:
                assert worker.stdout is not None
                if await worker.stdout.readline() != b"ready\n":
                    raise RuntimeError(f"the worker {worker.pid} ended before it was ready")

    async def kill_one(self) -> int:
        """SIGKILL, in the middle of whatever it does."""
        worker = self._workers.pop(0)
        worker.kill()
        await worker.wait()
        return worker.pid

    async def replace_all(self) -> None:
        """Ends one after the other in good order, as a deployment does; each is replaced first."""
        for worker in [*self._workers]:
            await self.start(1)
            await self._end(worker)

    async def end_all(self) -> None:
        """Ends all in good order."""
        for worker in [*self._workers]:
            await self._end(worker)

    async def _end(self, worker: asyncio.subprocess.Process) -> None:
        self._workers.remove(worker)
        worker.send_signal(signal.SIGTERM)
        status = await worker.wait()
        if status:
            raise RuntimeError(f"the worker {worker.pid} ended with status {status}")

    def kill_all(self) -> None:
        """Leaves none behind when something went wrong."""
        for worker in self._workers:
            if worker.returncode is None:
                worker.kill()
