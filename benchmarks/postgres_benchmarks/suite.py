"""The parts of the benchmark, and what their figures need to be."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Final

from attrs import define, evolve, field, frozen

from postgres_benchmarks.bloat import Bloat, bytes_of_bodies, grow
from postgres_benchmarks.latency import delays
from postgres_benchmarks.runs import Run, run
from postgres_support.servers import PostgresServer
from promenade_benchmarks.batches import BATCH
from promenade_benchmarks.figures import Figure
from promenade_benchmarks.report import markdown_table, short
from promenade_benchmarks.results import Results
from promenade_benchmarks.segments import Timing

__all__ = ["FULL", "QUICK", "SETTINGS", "STEPS", "TITLES", "Effort", "measure", "peers", "ways_table"]

SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
}
"""A server as it comes: a commit is on disk. Other settings are those of the tests of this repository."""

TITLES: Final = {
    "with_the_bus": "the bus",
    "by_hand": "psycopg by hand, 100 at a time",
    "with_pgqueuer": "pgqueuer, batches of 100",
    "with_procrastinate": "procrastinate, 30 jobs at once",
}
_DISTRIBUTIONS: Final = {"with_pgqueuer": "pgqueuer", "with_procrastinate": "procrastinate"}

_DELAYS: Final = {
    "bus": "from the commit to the handler",
    "notify": "a bare NOTIFY",
    "commit": "an INSERT and its commit",
}
_SLOW: Final = ("with_procrastinate",)
_LEFT: Final = "bytes left in the database for each event, by events"
_BOTH: Final = ("publish", "consume")
_RATE: Final = {"by_hand": 0.5, "with_pgqueuer": 1.0, "with_procrastinate": 1.0}
"""The least that the rate of the bus may be, as a multiple of the rate of another way."""


@frozen(slots=False)
class Effort:
    """``events`` pass in each run, ``few_events`` on the slow way. ``rounds`` of runs take turns.

    ``samples`` are those of the latencies, and ``load`` the events that pass while the tables are watched.
    """

    events: int
    few_events: int
    rounds: int
    samples: int
    load: int

    def scaled(self, factor: float) -> Effort:
        """The same in proportion, in whole batches."""
        events, few, load = (
            max(BATCH, round(number * factor / BATCH) * BATCH)
            for number in (self.events, self.few_events, self.load)
        )
        return evolve(self, events=events, few_events=few, load=load)


FULL: Final = Effort(events=20_000, few_events=4_000, rounds=5, samples=400, load=60_000)
QUICK: Final = Effort(events=1_000, few_events=100, rounds=1, samples=20, load=4_000)

Report = Callable[[str], None]


def peers() -> Mapping[str, str]:
    """The peers that are installed, and their versions."""
    return {
        distribution: version(distribution)
        for distribution in _DISTRIBUTIONS.values()
        if importlib.util.find_spec(distribution) is not None
    }


@define
class _Measuring:
    """A measurement under way."""

    server: PostgresServer
    effort: Effort
    report: Report
    results: Results = field(factory=Results)

    def ways(self) -> Sequence[str]:
        """The ways that can be taken here; the others are noted as absent."""
        found = peers()
        for way, distribution in _DISTRIBUTIONS.items():
            if distribution not in found:
                self.results.absent[TITLES[way]] = f"{distribution} is not installed"
        return [way for way in TITLES if way not in _DISTRIBUTIONS or _DISTRIBUTIONS[way] in found]

    def in_turns(self, ways: Sequence[str], roles: Sequence[str], name: str) -> Mapping[str, Sequence[Run]]:
        """A run of each way in each round; each round begins with another one."""
        runs: dict[str, list[Run]] = {way: [] for way in ways}
        for number in range(self.effort.rounds):
            turn = number % len(ways)
            for way in (*ways[turn:], *ways[:turn]):
                events = self.effort.few_events if way in _SLOW else self.effort.events
                done = run(self.server, way, events, roles)
                runs[way].append(done)
                self.report(f"{name}, {TITLES[way]}: {events / done.wall:,.0f} events a second")
        self.results.timings[f"{name}, wall clock"] = _timings(runs, lambda each: each.wall)
        self.results.timings[f"{name}, processor time"] = _timings(runs, lambda each: each.processor)
        return runs

    def end_to_end(self) -> None:
        runs = self.in_turns(self.ways(), _BOTH, "end to end")
        self.results.timings["end to end, processor time of the server"] = _timings(
            runs, lambda each: each.server
        )
        self.results.scales[_LEFT] = {
            TITLES[way]: {done[0].events: median(each.size / each.events for each in done)}
            for way, done in runs.items()
        }
        figures = self.results.timings
        for way in [way for way in runs if way != "with_the_bus"]:
            short_name = way.removeprefix("with_")
            title = f"end to end: rate of the bus / of {TITLES[way]}"
            wall, processor = figures["end to end, wall clock"], figures["end to end, processor time"]
            self.results.add(
                "end to end",
                paired(f"end_to_end_vs_{short_name}", title, wall, way, at_least=_RATE[way]),
                paired(
                    f"end_to_end_vs_{short_name}_processor", f"{title}, by processor time", processor, way
                ),
            )

    def publish(self) -> None:
        self.in_turns(("with_the_bus", "by_hand"), ("publish",), "publish")
        title = f"publish: rate of the bus / of {TITLES['by_hand']}"
        wall, processor = (
            self.results.timings[f"publish, {clock}"] for clock in ("wall clock", "processor time")
        )
        self.results.add(
            "publish",
            paired("publish_vs_by_hand", title, wall, "by_hand"),
            paired("publish_vs_by_hand_processor", f"{title}, by processor time", processor, "by_hand"),
        )

    def latency(self) -> None:
        took = delays(self.server, self.effort.samples)
        self.report(f"latency: {median(took.bus) * 1e6:,.0f} us, NOTIFY {median(took.notify) * 1e6:,.0f} us")
        ways = {"bus": took.bus, "notify": took.notify, "commit": took.commit}
        # By the best of four interleaved parts, and by all.
        parts = {
            name: min(_quantile(each[first::4], 0.5) for first in range(4)) for name, each in ways.items()
        }
        middle = {name: _quantile(each, 0.5) for name, each in ways.items()}
        what = "p50: from the commit to the handler in another process"
        self.results.add(
            "latency",
            Figure(
                "latency_p50_vs_notify",
                f"{what} / a bare NOTIFY",
                parts["bus"] / parts["notify"],
                middle["bus"] / middle["notify"],
            ),
            Figure(
                "latency_p50_vs_notify_and_commit",
                f"{what} / a bare NOTIFY and a bare commit",
                parts["bus"] / (parts["notify"] + parts["commit"]),
                middle["bus"] / (middle["notify"] + middle["commit"]),
            ),
            *(
                _single(
                    f"latency_{quantile}_{name}", f"{quantile}, {title}", _quantile(ways[name], part), "us"
                )
                for name, title in _DELAYS.items()
                for quantile, part in (("p50", 0.5), ("p99", 0.99))
            ),
        )

    def bloat(self) -> None:
        events = self.effort.load
        grown: dict[str, Bloat] = {}
        for way in ("bus", "hand"):
            grown[way] = grow(self.server, way, events)
            self.report(f"tables under load, {way}: {grown[way].size:,} bytes, {grown[way].dead:,} dead rows")
        titles = {"bus": TITLES["with_the_bus"], "hand": TITLES["by_hand"]}
        for way, seen in grown.items():
            self.results.add(
                "tables under load",
                _single(
                    f"bloat_size_{way}",
                    f"largest size of the tables / bytes of all {events:,} events, {titles[way]}",
                    seen.size / bytes_of_bodies(events),
                ),
                _single(
                    f"bloat_dead_{way}", f"most dead rows for each event, {titles[way]}", seen.dead / events
                ),
            )


_STEPS: Final[Mapping[str, Callable[[_Measuring], None]]] = {
    "end-to-end": _Measuring.end_to_end,
    "publish": _Measuring.publish,
    "latency": _Measuring.latency,
    "bloat": _Measuring.bloat,
}
STEPS: Final = tuple(_STEPS)


def measure(server: PostgresServer, effort: Effort, only: Sequence[str], report: Report) -> Results:
    """Measures these parts on a server."""
    measuring = _Measuring(server, effort, report)
    for name in only:
        _STEPS[name](measuring)
    return measuring.results


def paired(
    name: str, title: str, timings: Mapping[str, Timing], way: str, *, at_least: float | None = None
) -> Figure:
    """The rate of the bus as a multiple of another: of the fastest runs, and the median over the rounds."""
    mine, theirs = timings["with_the_bus"], timings[way]
    rounds = zip(mine.nanoseconds, theirs.nanoseconds, strict=True)
    return Figure(
        name,
        title,
        theirs.least / mine.least,
        median(other / own for own, other in rounds),
        at_least=at_least,
    )


def ways_table(results: Results) -> str:
    """Each way in the end-to-end part, by the median of its runs; empty when that was not measured."""
    if "end to end, wall clock" not in results.timings:
        return ""
    wall, processor, server = (
        results.timings[f"end to end, {what}"]
        for what in ("wall clock", "processor time", "processor time of the server")
    )
    rows = [
        (
            timing.title,
            short(1e9 / timing.median),
            short(processor[way].median / 1e3),
            short(server[way].median / 1e3),
            *map(short, results.scales[_LEFT][timing.title].values()),
        )
        for way, timing in wall.items()
    ]
    head = (
        "",
        "events a second",
        "processor time for each event, us",
        "of it the server's",
        "bytes left for each event",
    )
    return markdown_table(head, rows)


def _timings(runs: Mapping[str, Sequence[Run]], seconds_of: Callable[[Run], float]) -> Mapping[str, Timing]:
    return {
        way: Timing(TITLES[way], done[0].events, tuple(seconds_of(each) / each.events * 1e9 for each in done))
        for way, done in runs.items()
    }


def _single(name: str, title: str, value: float, unit: str = "ratio") -> Figure:
    return Figure(name, title, value, value, unit)


def _quantile(seconds: Sequence[float], part: float) -> float:
    """A quantile in microseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(part * len(seconds)))] * 1e6
