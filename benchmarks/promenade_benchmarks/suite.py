"""The groups of contenders that run together, and the figures that come out of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from promenade_benchmarks import events_and_codecs
from promenade_benchmarks.figures import Figure, cost, rate
from promenade_benchmarks.growth import Once, growing, patterns_at, payloads, topics_at
from promenade_benchmarks.latency import latencies
from promenade_benchmarks.memory import bytes_per_queued_event
from promenade_benchmarks.peers import open_peers
from promenade_benchmarks.results import Results
from promenade_benchmarks.segments import Contender, Timing, take_turns, take_turns_by
from promenade_benchmarks.shapes import EVERYDAY, PLAIN, SHAPES, Shape, subscribers
from promenade_benchmarks.startup import start_up_times
from promenade_benchmarks.subjects import bare_loop, bus_subject, queue_and_workers
from promenade_benchmarks.waiting import WAITING_SHAPES, at_once, blocking, failing, waiting_once

__all__ = ["FULL", "QUICK", "STEPS", "Effort", "measure"]


@dataclass(frozen=True)
class Effort:
    """The size of a run: deliveries per segment, seconds for all of it, and the sizes that things grow to.

    ``compared`` is the size that the largest one of topics and patterns is compared with.
    """

    deliveries: int
    seconds: float
    calls: int
    latency_samples: int
    queued_events: int
    subscribers: tuple[int, ...]
    workers: tuple[int, ...]
    backlogs: tuple[int, ...]
    payloads: tuple[int, ...]
    topics: tuple[int, ...]
    patterns: tuple[int, ...]
    compared: int


FULL = Effort(
    deliveries=1_200,
    seconds=275,
    calls=100,
    latency_samples=5_000,
    queued_events=2_000,
    subscribers=(1, 10, 100, 1_000),
    workers=(1, 10, 100, 1_000),
    backlogs=(1_000, 10_000, 100_000, 1_000_000),
    payloads=(100, 1_000, 10_000, 100_000, 1_000_000),
    topics=(1, 10, 100, 1_000, 10_000, 100_000),
    patterns=(1, 10, 100, 1_000),
    compared=1_000,
)
QUICK = Effort(
    deliveries=100,
    seconds=0,
    calls=2,
    latency_samples=50,
    queued_events=200,
    subscribers=(1, 10),
    workers=(1, 10),
    backlogs=(100, 1_000),
    payloads=(100, 1_000),
    topics=(1, 10),
    patterns=(1, 10),
    compared=1,
)

Step = Callable[[Effort, Results, float], Coroutine[Any, Any, None] | None]
"""Runs a part within so many seconds, more or less."""


def measure(effort: Effort, only: tuple[str, ...], say: Callable[[str], None]) -> Results:
    """Runs the parts of these names, each in its share of the time left; ``say`` gets a line for each."""
    results = Results()
    chosen = [(name, *part) for name, part in STEPS.items() if name in only]
    began = time.monotonic()
    for number, (name, step, share) in enumerate(chosen):
        left = max(0.0, effort.seconds - (time.monotonic() - began))
        say(f"[{number + 1}/{len(chosen)}] {name} ({time.monotonic() - began:.0f} s so far)")
        running = step(effort, results, left * share / sum(share for *_, share in chosen[number:]))
        if running is not None:
            asyncio.run(running)
    say(f"done after {time.monotonic() - began:.0f} s")
    return results


async def _shapes(effort: Effort, results: Results, seconds: float) -> None:
    n = effort.deliveries
    async with AsyncExitStack() as stack:
        contenders = [
            bare_loop(n * 40),
            await queue_and_workers(stack, deliveries=n * 3),
            *[await bus_subject(stack, shape, deliveries=n) for shape in SHAPES],
        ]
        found = results.timings["shapes"] = await take_turns(contenders, seconds)
    queue, plain = found["queue"], found["plain"]
    results.add(
        "shapes",
        rate(
            "plain_vs_bare_loop", "rate of plain / of a bare loop", plain, found["bare-loop"], at_least=0.20
        ),
        *_in_queues(SHAPES, found, queue),
        cost(
            "publish_many_vs_publish",
            "cost of publish_many / of publish",
            found["publish_many"],
            plain,
            at_most=1,
        ),
    )


def _in_queues(shapes: tuple[Shape, ...], found: Mapping[str, Timing], queue: Timing) -> list[Figure]:
    return [
        cost(
            f"{shape.name}_vs_queue",
            f"cost of an event in queues, {shape.title}",
            found[shape.name],
            queue,
            at_most=shape.at_most,
        )
        for shape in shapes
    ]


async def _waiting(effort: Effort, results: Results, seconds: float) -> None:
    n = effort.deliveries
    async with AsyncExitStack() as stack:
        found = await take_turns(await waiting_once(stack, n), seconds * 0.5)
        results.timings["handlers that wait once"] = found
    results.add("handlers that wait", *_in_queues(WAITING_SHAPES, found, found["queue"]))
    async with AsyncExitStack() as stack:
        clocks = [time.perf_counter_ns, time.process_time_ns]
        wall, processor = await take_turns_by(clocks, await at_once(stack), seconds * 0.14)
        results.timings["1,000 handlers at once, wall"] = wall
    title = "1,000 handlers that wait 10 ms: time of the bus / of asyncio.gather"
    results.add(
        "handlers that wait",
        cost("at_once_vs_gather", title, wall["plain"], wall["gather"], at_most=1.1),
        cost(
            "at_once_vs_gather_processor",
            f"{title}, processor time",
            processor["plain"],
            processor["gather"],
        ),
    )
    async with AsyncExitStack() as stack:
        found = await take_turns(await failing(stack, max(10, n // 2)), seconds * 0.18)
        results.timings["a failing attempt"] = found
    results.add(
        "handlers that wait",
        cost(
            "retry_vs_queue",
            "cost of a failing attempt and its retry, in queues",
            found["retry"],
            found["queue"],
            at_most=10,
        ),
    )
    async with AsyncExitStack() as stack:
        found = await take_turns(await blocking(stack, max(10, n // 2)), seconds * 0.18)
        results.timings["a sync handler"] = found
    results.add(
        "handlers that wait",
        cost(
            "sync_vs_executor",
            "cost of a sync handler / of run_in_executor",
            found["sync"],
            found["executor"],
            at_most=1.3,
        ),
    )


async def _peers(effort: Effort, results: Results, seconds: float) -> None:
    n = effort.deliveries
    for handlers, group, share in ((1, "one subscriber", 0.6), (10, "ten subscribers", 0.4)):
        shapes = [subscribers(shape, handlers) for shape in (PLAIN, EVERYDAY)]
        async with AsyncExitStack() as stack:
            peers, absent = await open_peers(stack, handlers)
            contenders = [
                bare_loop(n * 40),
                *[await bus_subject(stack, shape, deliveries=n) for shape in shapes],
                await queue_and_workers(stack, deliveries=n * 3, subscribers=handlers),
                *peers,
            ]
            found = results.timings[group] = await take_turns(contenders, seconds * share)
        results.absent |= absent
        if handlers > 1:
            results.add(
                "shapes",
                rate(
                    "ten_subscribers_vs_bare_loop",
                    "deliveries of plain to ten subscribers / of a bare loop",
                    found[shapes[0].name],
                    found["bare-loop"],
                    at_least=0.40,
                ),
            )
        results.add(
            f"peers, {group}",
            *(
                rate(
                    f"{shape.name}_vs_{peer.name.replace('-', '_')}",
                    f"rate of the bus, {shape.title} / of {peer.name}",
                    found[shape.name],
                    found[peer.name],
                    listed=False,
                )
                for peer in peers
                for shape in shapes
            ),
        )


async def _steady(effort: Effort, results: Results, seconds: float) -> None:
    n = effort.deliveries
    groups: list[tuple[str, str, list[Contender]]] = []
    async with AsyncExitStack() as stack:
        groups.append(
            (
                "subscribers",
                "a delivery to {} subscribers / to one",
                [
                    await bus_subject(
                        stack,
                        subscribers(PLAIN, many),
                        deliveries=max(n, many),
                        name=f"subscribers-{many}",
                        title=f"{many:,} subscribers",
                    )
                    for many in effort.subscribers
                ],
            )
        )
        groups.append(
            (
                "workers",
                "an event with {} workers / with one",
                [
                    await bus_subject(
                        stack,
                        PLAIN,
                        deliveries=n,
                        workers=many,
                        name=f"workers-{many}",
                        title=f"{many:,} workers",
                    )
                    for many in effort.workers
                ],
            )
        )
        contenders = [contender for *_, group in groups for contender in group]
        found = results.timings["growth"] = await take_turns(contenders, seconds)
        _scale(results, "growth", {name: group for name, _, group in groups}, found)
        for name, title, group in groups:
            _last_to_first(results, name, title, group, found)


async def _backlog(effort: Effort, results: Results, seconds: float) -> None:
    async with AsyncExitStack() as stack:
        group = [
            await bus_subject(
                stack,
                PLAIN,
                deliveries=effort.deliveries * 5,
                backlog=many,
                name=f"backlog-{many}",
                title=f"a backlog of {many:,}",
            )
            for many in effort.backlogs
        ]
        found = results.timings["backlog"] = await take_turns(group, seconds)
    _scale(results, "growth", {"backlog": group}, found)
    _last_to_first(results, "backlog", "an event in a backlog of {} / of " + _size_of(group[0]), group, found)


async def _payload(effort: Effort, results: Results, seconds: float) -> None:
    async with AsyncExitStack() as stack:
        group = await payloads(stack, effort.payloads)
        found = results.timings["payload"] = await take_turns(group, seconds)
    for shape, title in (("plain", "in memory"), ("json", "serialized")):
        own = [contender for contender in group if contender.name.startswith(shape)]
        _scale(results, "payload", {title: own}, found)
        _last_to_first(
            results,
            f"payload_{shape}",
            f"an event of {{}} bytes, {title} / of {_size_of(own[0])} bytes",
            own,
            found,
        )


def _size_of(contender: Contender) -> str:
    return f"{int(contender.name.rpartition('-')[2]):,}"


def _scale(
    results: Results, plot: str, groups: Mapping[str, list[Contender]], found: Mapping[str, Timing]
) -> None:
    for name, group in groups.items():
        results.scales.setdefault(plot, {})[name] = {
            int(contender.name.rpartition("-")[2]): found[contender.name].least / 1e3 for contender in group
        }


def _last_to_first(
    results: Results, name: str, title: str, group: list[Contender], found: Mapping[str, Timing]
) -> None:
    first, last = group[0], group[-1]
    results.add(
        "growth",
        cost(
            f"{name}_growth",
            "cost of " + title.format(_size_of(last)),
            found[last.name],
            found[first.name],
        ),
    )


def _topics(effort: Effort, results: Results, seconds: float) -> None:
    _growing(effort, results, "topics", topics_at, effort.topics, seconds, 1.3)


def _patterns(effort: Effort, results: Results, seconds: float) -> None:
    _growing(effort, results, "patterns", patterns_at, effort.patterns, seconds, None)


def _growing(
    effort: Effort,
    results: Results,
    name: str,
    measured: Callable[[int, float], Coroutine[Any, Any, Once]],
    sizes: tuple[int, ...],
    seconds: float,
    at_most: float | None,
) -> None:
    found = dict(growing(measured, sizes, seconds))
    lines = results.scales[name] = {
        step.replace("_", " "): {size: getattr(once, step) for size, once in found.items()}
        for step in ("subscribe", "first_publish", "close")
    }
    reached = max(found)
    complete = reached == sizes[-1]
    base = effort.compared if effort.compared < reached else sorted(found)[-2]
    missing = "" if complete else f" (no time for {sizes[len(found)]:,})"
    results.add(
        "growth",
        *(
            Figure(
                f"{name}_{step.replace(' ', '_')}_growth",
                f"{step}: cost for each of {reached:,} {name} / of {base:,}{missing}",
                line[reached] / line[base],
                line[reached] / line[base],
                at_most=at_most,
                complete=complete,
            )
            for step, line in lines.items()
        ),
    )


async def _memory(effort: Effort, results: Results, seconds: float) -> None:
    for shape in [*SHAPES, subscribers(PLAIN, 10)]:
        size = await bytes_per_queued_event(effort.queued_events, shape)
        results.add(
            "memory",
            Figure(
                f"{shape.name}_bytes",
                f"a queued event, {shape.title}",
                size,
                size,
                unit="bytes",
                at_most=shape.bytes_at_most,
            ),
        )


async def _latency(effort: Effort, results: Results, seconds: float) -> None:
    found = await latencies(effort.latency_samples)
    (bus, bus_99), (future, _) = found["bus"], found["future"]
    title = "publish to an idle handler"
    results.add(
        "idle",
        Figure(
            "latency_vs_future",
            f"{title} / waking a task by a future, p50",
            bus / future,
            bus / future,
            at_most=1.5,
        ),
        Figure("latency_p50", f"{title}, p50", bus, bus, unit="us"),
        Figure("latency_p99", f"{title}, p99", bus_99, bus_99, unit="us"),
    )


def _start_up(effort: Effort, results: Results, seconds: float) -> None:
    found = start_up_times(seconds)

    def against(baseline: str, name: str, title: str, subject: str, at_most: float | None = None) -> Figure:
        (least, middle), (base_least, base_middle) = found[subject], found[baseline]
        return Figure(name, title, least / base_least, middle / base_middle, at_most=at_most)

    everything = "asyncio, attrs, pluggy and yaml"
    results.add(
        "start-up",
        against("dependencies", "import_vs_dependencies", f"import bus_core / {everything}", "import", 1.5),
        against(
            "command-dependencies",
            "help_vs_dependencies",
            "promenade-bus --help / import click, pluggy and attrs",
            "help",
            2.5,
        ),
        against(
            "dependencies", "all_names_vs_dependencies", f"every name of the bus / {everything}", "names"
        ),
        against(
            "dependencies", "start_up_vs_dependencies", f"import and open the bus / {everything}", "open"
        ),
        against("asyncio", "start_up_vs_asyncio", "import and open the bus / import asyncio", "open"),
        *(
            Figure(f"{name}_time", title, *found[name], unit="ms")
            for name, title in (("import", "import bus_core"), ("open", "import and open the bus"))
        ),
    )


def _events_and_codecs(effort: Effort, results: Results, seconds: float) -> None:
    found = events_and_codecs.measure(effort.calls, effort.calls)
    ratios = [
        (name, at_most, found[subject] / found[baseline])
        for name, (subject, baseline, at_most) in events_and_codecs.RATIOS.items()
    ]
    results.add(
        "making events, and codecs",
        *(Figure(name, _words(name), value, value, at_most=at_most) for name, at_most, value in ratios),
        *(Figure(name, _words(name), value, value, unit="us") for name, value in found.items()),
    )


def _words(name: str) -> str:
    return name.replace("_vs_", " / ").replace("_", " ")


STEPS: dict[str, tuple[Step, float]] = {
    "shapes": (_shapes, 30),
    "waiting": (_waiting, 20),
    "peers": (_peers, 16),
    "events-and-codecs": (_events_and_codecs, 8),
    "memory": (_memory, 4),
    "idle": (_latency, 2),
    "start-up": (_start_up, 10),
    "growth": (_steady, 6),
    "backlog": (_backlog, 6),
    "payload": (_payload, 3),
    "topics": (_topics, 24),
    "patterns": (_patterns, 6),
}
"""By the names that the command line takes, with their shares of the time."""
