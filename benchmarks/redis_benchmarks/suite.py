"""What is measured, and what is required of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from promenade_benchmarks.figures import Figure, cost, rate
from promenade_benchmarks.segments import Timing, take_turns_by
from redis_benchmarks.consuming import backlogs
from redis_benchmarks.delays import MANY, delays
from redis_benchmarks.idling import idle_load
from redis_benchmarks.processes import end_to_end, memory_over
from redis_benchmarks.publishing import alone, together
from redis_benchmarks.subjects import SERIALIZERS
from redis_support.servers import Server

__all__ = ["FULL", "QUICK", "STEPS", "Effort", "Results", "measure", "peers"]

IDLE = (100, 1_000)
SOAK_STEPS = 10

_CLOCKS = (time.perf_counter_ns, time.process_time_ns)


@dataclass(frozen=True)
class Effort:
    """How much is run: events per segment, segments, and so on. ``soak`` is a number of events, or 0."""

    events: int
    rounds: int
    alone: int
    process_events: int
    peer_events: int
    process_rounds: int
    delay_samples: int
    idle: tuple[int, ...]
    idle_seconds: float
    soak: int = 0


FULL = Effort(4_000, 25, 300, 40_000, 5_000, 5, 2_000, IDLE, 10.0)
QUICK = Effort(500, 2, 20, 500, 100, 1, 100, (3, 10), 1.0)


@dataclass
class Results:
    """Every figure, and the timings that they come from: on the wall, and of the processor."""

    figures: list[Figure] = field(default_factory=list)
    timings: dict[str, Mapping[str, Timing]] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)


Step = Callable[[Server, Effort, Results, Callable[[str], None]], None]


def measure(effort: Effort, only: tuple[str, ...], say: Callable[[str], None]) -> Results:
    """Runs the steps of these names on a server of its own; ``say`` gets a line for each of them."""
    results = Results()
    chosen = {name: step for name, step in STEPS.items() if name in only}
    for number, (name, step) in enumerate(chosen.items(), 1):
        say(f"[{number}/{len(chosen)}] {name}")
        with Server() as server:
            step(server, effort, results, say)
    return results


def _publish(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    async def run() -> list[Mapping[str, Timing]]:
        async with AsyncExitStack() as stack:
            contenders = []
            for serializer in SERIALIZERS:
                contenders += await together(stack, server.address, serializer, effort.events)
            return await take_turns_by(_CLOCKS, contenders, effort.rounds)

    wall, processor = asyncio.run(run())
    results.timings["publish, wall"], results.timings["publish, processor"] = wall, processor
    for found, by, asked in ((wall, "", True), (processor, ", processor time", False)):
        suffix = by and "_processor"
        for serializer, least in zip(SERIALIZERS, (3, 4), strict=True):
            bus = found[f"bus-{serializer}"]
            results.figures += [
                rate(
                    f"publish_{serializer}_vs_tasks{suffix}",
                    f"publish in 50 tasks, {serializer}: rate of the bus / of redis-py{by}",
                    bus,
                    found[f"tasks-{serializer}"],
                    at_least=least if asked else None,
                ),
                rate(
                    f"publish_{serializer}_vs_pipelines{suffix}",
                    f"publish in 50 tasks, {serializer}: the bus / pipelines of 100{by}",
                    bus,
                    found[f"pipelines-{serializer}"],
                    at_least=0.7 if asked and serializer == SERIALIZERS[-1] else None,
                ),
            ]


def _publish_alone(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    async def run() -> list[Mapping[str, Timing]]:
        async with AsyncExitStack() as stack:
            contenders = await alone(stack, server.address, effort.alone)
            return await take_turns_by(_CLOCKS, contenders, effort.rounds)

    wall, processor = asyncio.run(run())
    results.timings["publish alone, wall"], results.timings["publish alone, processor"] = wall, processor
    results.figures.append(
        cost(
            "publish_alone_vs_xadd",
            "one event after the other: cost of a publish / of an XADD",
            wall["bus-alone"],
            wall["raw-alone"],
            at_most=1.3,
        )
    )


def _consume(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    async def run() -> list[Mapping[str, Timing]]:
        async with AsyncExitStack() as stack:
            contenders = []
            for serializer in SERIALIZERS:
                contenders += await backlogs(stack, server.address, serializer, effort.events)
            return await take_turns_by(_CLOCKS, contenders, effort.rounds)

    wall, processor = asyncio.run(run())
    results.timings["consume, wall"], results.timings["consume, processor"] = wall, processor
    for found, by, least in ((wall, "", 0.6), (processor, ", processor time", None)):
        for serializer in SERIALIZERS:
            results.figures.append(
                rate(
                    f"consume_{serializer}_vs_raw" + (by and "_processor"),
                    f"consume to ack, {serializer}: rate of the bus / of XREADGROUP and XACK{by}",
                    found[f"bus-{serializer}"],
                    found[f"raw-{serializer}"],
                    at_least=least,
                )
            )


def _end_to_end(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    peer_events = effort.peer_events if peers() else 0
    found = end_to_end(server, SERIALIZERS, effort.process_events, peer_events, effort.process_rounds)
    results.timings["end to end, wall"] = found
    for serializer in SERIALIZERS:
        bus = found[f"bus-{serializer}"]
        results.figures.append(
            Figure(
                f"end_to_end_{serializer}_rate",
                f"end to end, {serializer}",
                1e9 / bus.least,
                1e9 / bus.median,
                unit="1/s",
            )
        )
        if "faststream" in found:
            results.figures.append(
                rate(
                    f"end_to_end_{serializer}_vs_faststream",
                    f"end to end, {serializer}: rate of the bus / of FastStream's stream subscriber",
                    bus,
                    found["faststream"],
                    at_least=8,
                )
            )


def peers() -> dict[str, str]:
    """The versions of the peers that are installed."""
    try:
        return {"faststream": version("faststream")}
    except PackageNotFoundError:
        return {}


def _latency(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    found = asyncio.run(delays(server.address, effort.delay_samples))
    raw, bus, many = found["raw"], found["bus"], found["many"]
    for name, title, value, at_most in (
        ("latency_p50_vs_raw", "publish to handler at 200/s, p50: the bus / raw", bus[0] / raw[0], 1.5),
        ("latency_p99_vs_raw", "publish to handler at 200/s, p99: the bus / raw", bus[1] / raw[1], 1.5),
        (
            "latency_many_p50_vs_raw",
            f"publish to handler at 200/s, one of {MANY} subscriptions, p50: the bus / raw",
            many[0] / raw[0],
            2.0,
        ),
    ):
        results.figures.append(Figure(name, title, value, value, at_most=at_most))
    for name, (p50, p99) in found.items():
        results.figures.append(
            Figure(f"latency_{name}_p50", f"publish to handler, {name}, p50", p50, p50, unit="us")
        )
        results.figures.append(
            Figure(f"latency_{name}_p99", f"publish to handler, {name}, p99", p99, p99, unit="us")
        )


def _idle(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    for subscriptions in effort.idle:
        load = asyncio.run(idle_load(server.address, subscriptions, effort.idle_seconds))
        results.figures += [
            Figure(
                f"idle_{subscriptions}_commands",
                f"idle with {subscriptions:,} subscriptions: commands a second",
                load.commands,
                load.commands,
                unit="1/s",
                at_most=10,
            ),
            Figure(
                f"idle_{subscriptions}_connections",
                f"idle with {subscriptions:,} subscriptions: connections",
                load.connections,
                load.connections,
                unit="number",
                at_most=8,
            ),
            Figure(
                f"idle_{subscriptions}_drain",
                f"idle with {subscriptions:,} subscriptions: a drain",
                max(load.drains) * 1e3,
                max(load.drains) * 1e3,
                unit="ms",
                at_most=1_000,
            ),
        ]


def _soak(server: Server, effort: Effort, results: Results, say: Callable[[str], None]) -> None:
    results.memory = memory_over(server, effort.soak, SOAK_STEPS, say)
    growth = results.memory[-1] / results.memory[1]
    results.figures.append(
        Figure(
            "soak_memory_growth",
            f"memory of a worker after {effort.soak:,} events / after a fifth of them",
            growth,
            growth,
            at_most=1.02,
        )
    )


STEPS: dict[str, Step] = {
    "publish": _publish,
    "publish-alone": _publish_alone,
    "consume": _consume,
    "end-to-end": _end_to_end,
    "latency": _latency,
    "idle": _idle,
    "soak": _soak,
}
"""By the names that the command line takes."""
