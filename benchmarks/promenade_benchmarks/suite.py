"""The groups of contenders that run together, and the figures that come out of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from promenade_benchmarks.closing import closing_times
from promenade_benchmarks.figures import Figure, cost, rate
from promenade_benchmarks.latency import latencies
from promenade_benchmarks.memory import bytes_per_queued_event
from promenade_benchmarks.peers import installed_peers
from promenade_benchmarks.segments import Timing, take_turns
from promenade_benchmarks.startup import start_up_times
from promenade_benchmarks.subjects import bare_loop, bus_subject, queue_and_workers

__all__ = ["FULL", "QUICK", "Effort", "Results", "measure"]

SUBSCRIBERS = (1, 10, 100)
TOPICS = (1, 10, 100, 1_000)
WORKERS = (1, 10, 100)
BACKLOGS = (1_000, 10_000, 100_000)
CLOSED = (10, 100)


@dataclass(frozen=True)
class Effort:
    """How much is run: deliveries per segment, segments, and so on."""

    deliveries: int
    rounds: int
    backlog_rounds: int
    processes: int
    latency_samples: int
    queued_events: int


FULL = Effort(10_000, 200, 40, 15, 5_000, 50_000)
QUICK = Effort(2_000, 7, 2, 1, 200, 5_000)


@dataclass
class Results:
    """Every figure, the timings they come from by group, and what lies along a scale."""

    figures: list[Figure] = field(default_factory=list)
    timings: dict[str, Mapping[str, Timing]] = field(default_factory=dict)
    scales: dict[str, dict[int, float]] = field(default_factory=dict)


def measure(effort: Effort, say: Callable[[str], None]) -> Results:
    """Runs everything; ``say`` gets a line per step."""
    results = Results()
    steps: dict[str, Callable[[Effort, Results], Coroutine[Any, Any, None] | None]] = {
        "one subscriber, and the peers": _one_subscriber,
        "ten subscribers": _ten_subscribers,
        "subscribers, topics, workers": _scales,
        "backlog": _backlog,
        "memory": _memory,
        "latency when idle": _latency,
        "start-up": _start_up,
        "closing": _closing,
    }
    for number, (title, step) in enumerate(steps.items(), 1):
        say(f"[{number}/{len(steps)}] {title}")
        running = step(effort, results)
        if running is not None:
            asyncio.run(running)
    return results


async def _one_subscriber(effort: Effort, results: Results) -> None:
    n = effort.deliveries
    async with AsyncExitStack() as stack:
        contenders = [
            bare_loop(n),
            await bus_subject(stack, "bus", "the bus, publish", deliveries=n),
            await bus_subject(stack, "bus-many", "the bus, publish_many", deliveries=n, many=True),
            await bus_subject(
                stack, "bus-middleware", "the bus, two middlewares", deliveries=n // 4, middleware=2
            ),
            await queue_and_workers(stack, deliveries=n // 2),
            *installed_peers(n // 2),
        ]
        found = results.timings["one subscriber"] = await take_turns(contenders, effort.rounds)
    bus, loop, queue = found["bus"], found["bare-loop"], found["queue"]
    results.figures += [
        rate("engine_vs_bare_loop", "rate of the bus / of a bare loop", bus, loop, at_least=0.18),
        rate("engine_vs_queue", "rate of the bus / of asyncio.Queue + 10 tasks", bus, queue, at_least=2.2),
        rate("publish_many_vs_bare_loop", "rate of publish_many / of a bare loop", found["bus-many"], loop),
        cost(
            "two_middlewares_vs_none", "cost with two middlewares / with none", found["bus-middleware"], bus
        ),
        *(
            rate(f"engine_vs_{peer.replace('-', '_')}", f"rate of the bus / of {timing.title}", bus, timing)
            for peer, timing in found.items()
            if peer not in ("bare-loop", "bus", "bus-many", "bus-middleware", "queue")
        ),
    ]


async def _ten_subscribers(effort: Effort, results: Results) -> None:
    n = effort.deliveries
    async with AsyncExitStack() as stack:
        contenders = [
            bare_loop(n),
            await bus_subject(stack, "bus", "the bus, publish", deliveries=n, subscribers=10),
            await queue_and_workers(stack, deliveries=n // 2, subscribers=10),
            *installed_peers(n // 2, handlers=10),
        ]
        found = results.timings["ten subscribers"] = await take_turns(contenders, effort.rounds)
    bus = found["bus"]
    results.figures += [
        rate(
            "engine_10_subscribers_vs_bare_loop",
            "deliveries of the bus to 10 subscribers / of a bare loop",
            bus,
            found["bare-loop"],
            at_least=0.25,
        ),
        rate(
            "engine_10_subscribers_vs_queue",
            "deliveries of the bus to 10 subscribers / of asyncio.Queue + 10 tasks",
            bus,
            found["queue"],
        ),
    ]


async def _scales(effort: Effort, results: Results) -> None:
    n = effort.deliveries
    async with AsyncExitStack() as stack:
        contenders = [
            *[
                await bus_subject(
                    stack, f"subscribers-{many}", f"{many} subscribers", deliveries=n, subscribers=many
                )
                for many in SUBSCRIBERS
            ],
            *[
                await bus_subject(stack, f"topics-{many}", f"{many} topics", deliveries=n, topics=many)
                for many in TOPICS
            ],
            *[
                await bus_subject(stack, f"workers-{many}", f"{many} workers", deliveries=n, workers=many)
                for many in WORKERS
            ],
        ]
        found = results.timings["scales"] = await take_turns(contenders, effort.rounds)
    for name, scale in (("subscribers", SUBSCRIBERS), ("topics", TOPICS), ("workers", WORKERS)):
        results.scales[name] = {many: found[f"{name}-{many}"].least for many in scale}
    results.figures += [
        cost(
            "cost_1000_topics_vs_one",
            "cost of an event over 1,000 topics / on one topic",
            found["topics-1000"],
            found["topics-1"],
            at_most=1.15,
        ),
        cost(
            "cost_100_subscribers_vs_one",
            "cost of a delivery to 100 subscribers / to one",
            found["subscribers-100"],
            found["subscribers-1"],
        ),
        cost(
            "cost_100_workers_vs_one",
            "cost of an event with 100 workers / with one",
            found["workers-100"],
            found["workers-1"],
        ),
    ]


async def _backlog(effort: Effort, results: Results) -> None:
    async with AsyncExitStack() as stack:
        contenders = [
            await bus_subject(
                stack, str(many), f"backlog of {many}", deliveries=effort.deliveries, backlog=many
            )
            for many in BACKLOGS
        ]
        found = results.timings["backlog"] = await take_turns(contenders, effort.backlog_rounds)
    results.scales["backlog"] = {many: found[str(many)].least for many in BACKLOGS}
    results.figures.append(
        cost(
            "cost_backlog_100000_vs_1000",
            "cost of an event in a backlog of 100,000 / of 1,000",
            found["100000"],
            found["1000"],
        )
    )


async def _memory(effort: Effort, results: Results) -> None:
    for name, title, subscribers, middleware, bound in (
        ("queued_event_bytes", "bytes per queued event", 1, 0, 150),
        ("queued_event_bytes_10_subscribers", "bytes per queued event, 10 subscribers", 10, 0, 150),
        ("queued_event_bytes_two_middlewares", "bytes per queued event, two middlewares", 1, 2, 150),
    ):
        size = await bytes_per_queued_event(
            effort.queued_events, subscribers=subscribers, middleware=middleware
        )
        results.figures.append(Figure(name, title, size, size, unit="bytes", at_most=bound))


async def _latency(effort: Effort, results: Results) -> None:
    found = await latencies(effort.latency_samples)
    (bus, bus_99), (future, _) = found["bus"], found["future"]
    results.figures += [
        Figure(
            "latency_vs_future",
            "publish to an idle handler / waking a task by a future, p50",
            bus / future,
            bus / future,
        ),
        Figure("latency_p50", "publish to an idle handler, p50", bus, bus, unit="us"),
        Figure("latency_p99", "publish to an idle handler, p99", bus_99, bus_99, unit="us"),
    ]


def _start_up(effort: Effort, results: Results) -> None:
    found = start_up_times(effort.processes)

    def against(baseline: str, name: str, title: str, subject: str, at_most: float | None = None) -> Figure:
        (least, middle), (base_least, base_middle) = found[subject], found[baseline]
        return Figure(name, title, least / base_least, middle / base_middle, at_most=at_most)

    opened, opened_median = found["open"]
    results.figures += [
        against(
            "dependencies",
            "import_vs_dependencies",
            "a process that imports the bus / asyncio, attrs, pluggy and yaml",
            "import",
            at_most=1.5,
        ),
        against(
            "command-dependencies",
            "help_vs_dependencies",
            "promenade-bus --help / a process that imports click, pluggy and attrs",
            "help",
            at_most=2.5,
        ),
        against(
            "dependencies",
            "all_names_vs_dependencies",
            "a process that uses every name of the bus / asyncio, attrs, pluggy, yaml",
            "names",
        ),
        against(
            "dependencies",
            "start_up_vs_dependencies",
            "a process that imports and opens the bus / asyncio, attrs, pluggy, yaml",
            "open",
        ),
        against(
            "asyncio",
            "start_up_vs_asyncio",
            "a process that imports and opens the bus / that imports asyncio",
            "open",
        ),
        Figure("start_up_time", "a process that imports and opens the bus", opened, opened_median, unit="ms"),
    ]


def _closing(effort: Effort, results: Results) -> None:
    found = closing_times(CLOSED, effort.processes)
    (few, few_median), (many, many_median) = (found[size] for size in CLOSED)
    results.figures.append(
        Figure(
            "closing_100_topics_vs_10",
            "closing: cost per subscription with 100 topics / with 10",
            many / few,
            many_median / few_median,
        )
    )
