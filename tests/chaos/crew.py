"""The processes of one run."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from chaos.forkserver import Member, shared_forkserver
from chaos.roles import Role
from chaos.scenario import Scenario
from chaos.sites import Site
from redis_support.child_processes import wait_until

SERVICE = "chaos"


@attrs.frozen
class Exit:
    """The end of a process: ``killed`` by a scenario, or asked to by SIGTERM."""

    name: str
    status: int
    seconds: float
    killed: bool


@attrs.define
class Post:
    """A place in the crew, and the process that holds it at the moment."""

    kind: str
    index: int
    generation: int
    member: Member

    @property
    def name(self) -> str:
        """Names the process, and its files."""
        return f"{self.kind}-{self.index}-{self.generation}"


class Crew:
    """Starts, kills and replaces producers and consumers."""

    def __init__(self, site: Site, scenario: Scenario, directory: Path, *, full: bool, bug: str = "") -> None:
        self._site = site
        self._scenario = scenario
        self._full = full
        self._bug = bug
        self.directory = directory
        self.consumers: list[Post] = []
        self.producers: list[Post] = []
        self.exits: list[Exit] = []
        self.strange: list[str] = []

    # --- starting -----------------------------------------------------------------------------------------

    def start_consumers(self) -> None:
        """Starts all of them, and waits until they listen."""
        for index in range(int(self._scenario.load.consumers.of(self._full))):
            self.consumers.append(self._post("consumer", index))
        for post in self.consumers:
            self.wait_ready(post)

    def start_producers(self) -> None:
        """Starts all of them, and waits until they publish."""
        for index in range(self._scenario.load.producers):
            self.producers.append(self._post("producer", index))
        for post in self.producers:
            self.wait_ready(post)

    def wait_ready(self, post: Post, timeout: float = 30.0) -> None:
        """Waits until a process works."""

        def ready() -> bool:
            if any("ready" in sample for sample in self.samples(post.name)):
                return True
            if (status := post.member.poll()) is not None:
                raise RuntimeError(f"{post.name} ended with status {status}:\n{post.member.log_text()}")
            return False

        wait_until(ready, f"{post.name} is ready", timeout)

    def _post(self, kind: str, index: int) -> Post:
        return Post(kind, index, 0, self._start(kind, index, 0))

    def _start(self, kind: str, index: int, generation: int) -> Member:
        load = self._scenario.load
        name = f"{kind}-{index}-{generation}"
        role = Role(
            kind=kind,
            name=name,
            directory=str(self.directory),
            config=self._config(kind),
            topics=load.topics,
            generation=generation,
            seed=1000 * index + generation,
            concurrency=load.concurrency,
            work=load.work,
            lease=load.lease.of(self._full),
            ordered=load.ordered,
            broadcast=load.broadcast,
            delay=load.delay,
            attempts=load.attempts,
            rate=load.rate.of(self._full) / load.producers,
            in_flight=load.in_flight,
            keys=load.keys,
            mix=load.mix,
            filling=load.filling,
            limit=None if load.limit is None else int(load.limit.of(self._full)) // load.producers,
            threads=load.threads if kind == "producer" else 0,
            insists=load.insists,
            bug=self._bug,
        )
        return shared_forkserver().start(attrs.asdict(role), self.directory / f"{name}.log")

    def _config(self, kind: str) -> dict[str, Any]:
        load = self._scenario.load
        proxied = self._scenario.proxied in ("all", f"{kind}s")
        return bus_config(
            self._site,
            proxied=proxied,
            bus={
                "worker_pool_size": load.concurrency * load.topics,
                "shutdown_timeout": load.shutdown_timeout,
                "publish_timeout": load.publish_timeout,
                "health": {"probes": ["engine", {"event-loop": {"interval": 0.05}}]},
            },
            own={"lease": load.lease.of(self._full), "durability": load.durability, **load.more},
        )

    # --- ending -------------------------------------------------------------------------------------------

    def kill(self, post: Post) -> None:
        """SIGKILL, and another process in its place at once."""
        post.member.signal(signal.SIGKILL)
        self._ended(post, killed=True, timeout=10.0)
        self.replace(post)

    def replace(self, post: Post) -> None:
        """Starts the next process of a place."""
        post.generation += 1
        post.member = self._start(post.kind, post.index, post.generation)

    def end(self, *posts: Post, timeout: float = 30.0) -> None:
        """SIGTERM to all of them, and waits until they have ended."""
        for post in posts:
            post.member.signal(signal.SIGTERM)
        for post in posts:
            self._ended(post, killed=False, timeout=timeout)

    def _ended(self, post: Post, *, killed: bool, timeout: float) -> None:
        status = post.member.wait(timeout)
        closed = [sample["closed"] for sample in self.samples(post.name) if "closed" in sample]
        self.exits.append(Exit(post.name, status, closed[0] if closed else 0.0, killed))
        if status not in ((0, -signal.SIGKILL) if killed else (0,)):
            self.strange.append(f"{post.name} ended with status {status}: {post.member.log_text()[-600:]}")

    def check_alive(self) -> None:
        """Notes every process that has ended although nobody asked it to; and replaces it."""
        for post in [*self.consumers, *self.producers]:
            status = post.member.poll()
            if status is not None and not (status == 0 and self._scenario.load.limit is not None):
                self._ended(post, killed=False, timeout=1.0)
                if status == 0:
                    self.strange.append(f"{post.name} ended by itself")

    def end_all(self) -> None:
        """Kills whatever is left."""
        for post in [*self.consumers, *self.producers]:
            if post.member.poll() is None:
                post.member.kill()

    # --- looking on ---------------------------------------------------------------------------------------

    def samples(self, name: str) -> list[dict[str, Any]]:
        """The reports of a process so far."""
        path = self.directory / "samples" / f"{name}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


def bus_config(
    site: Site, *, proxied: bool = False, bus: Mapping[str, Any] | None = None, own: Any = ()
) -> dict[str, Any]:
    """The configuration of a bus at a site; ``own`` are options of its adapter."""
    return {"app": {"name": SERVICE}, "bus": {**site.section(dict(own), proxied=proxied), **(bus or {})}}
