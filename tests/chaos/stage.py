"""The stage of injections: the servers, the processes, and a note of what was done."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

from chaos.crew import SERVICE, Crew, Post
from chaos.events import topic
from chaos.scenario import Scenario, Size
from chaos.sites import OfCluster, OneServer, Sentinels, Site
from promenade_bus_testing import Journal
from promenade_bus_testing.journal import Record, read_journal


class Stage:
    """One run. ``notes`` counts what was done, and other figures of the run."""

    def __init__(
        self, scenario: Scenario, site: Site, crew: Crew, journal: Journal, *, full: bool, scale: float = 1.0
    ) -> None:
        self.scenario = scenario
        self.site = site
        self.crew = crew
        self.journal = journal
        self.full = full
        self.scale = scale
        self.notes: Counter[str] = Counter()
        self.random = random.Random(scenario.number)

    def size(self, size: Size) -> float:
        """The time, or the number, in a run of this length."""
        return size.of(self.full) * self.scale

    def times(self, size: Size) -> int:
        """The number, at least 1."""
        return max(1, round(self.size(size)))

    @property
    def lease(self) -> float:
        """The lease of this run."""
        return self.scenario.load.lease.of(self.full)

    @property
    def one(self) -> OneServer:
        """The site, for injections that are made for one server."""
        assert isinstance(self.site, OneServer), "this fault needs a site of one server"
        return self.site

    @property
    def sentinels(self) -> Sentinels:
        """The site, for injections that are made for sentinels."""
        assert isinstance(self.site, Sentinels), "this fault needs a site with sentinels"
        return self.site

    @property
    def cluster(self) -> OfCluster:
        """The site, for injections that are made for a cluster."""
        assert isinstance(self.site, OfCluster), "this fault needs a cluster"
        return self.site

    def ticks(self, seconds: Size, every: float) -> Iterator[None]:
        """Yields every so many seconds, for some time."""
        deadline = time.monotonic() + self.size(seconds)
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(every, left))
            yield

    @property
    def groups(self) -> list[tuple[str, str]]:
        """The topics, each with the group that handles it."""
        count = self.scenario.load.topics
        return [(topic(index).name, f"{SERVICE}.worker{index}") for index in range(count)]

    def left(self) -> int:
        """The number of unsettled entries."""
        return sum(self.site.left(name, group) for name, group in self.groups)

    def runs_a_handler(self, post: Post) -> bool:
        """True if a stopped process is in the middle of a handler, as its journals have it."""
        journals = [*self.journal.path.parent.glob(f"*-{post.member.pid}-*.jsonl")]
        before: list[int] | None = None
        while before != (sizes := [path.stat().st_size for path in journals]):
            before = sizes
            time.sleep(0.01)  # the signal has just been sent
        kinds = Counter(
            record.kind for path in journals for record in read_journal(path) if isinstance(record, Record)
        )
        return kinds["begun"] > kinds["handled"] + kinds["failed"]

    def held_by(self, post: Post) -> int:
        """The number of entries pending for a consumer process."""
        return sum(self.site.held(name, group, post.member.pid) for name, group in self.groups)
