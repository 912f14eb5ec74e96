"""The measurements, and their bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from promenade_benchmarks.figures import Figure, cost, rate
from promenade_benchmarks.results import Results
from promenade_benchmarks.segments import Contender, Timing, take_turns_by
from redis_benchmarks import native
from redis_benchmarks.consuming import backlogs
from redis_benchmarks.delays import MANY, delays
from redis_benchmarks.idling import idle_load
from redis_benchmarks.processes import CONTENDERS, memory_over
from redis_benchmarks.publishing import alone, together
from redis_benchmarks.side_by_side import Found, at_rates, end_to_end
from redis_benchmarks.subjects import SERIALIZERS
from redis_support.servers import Server

__all__ = ["FULL", "ONE_WORKER", "QUICK", "STEPS", "TWO_WORKERS", "Effort", "measure", "peers"]

ONE_WORKER = "end to end, wall"
TWO_WORKERS = "end to end with two worker processes, wall"
IDLE = (100, 1_000)
SOAK_STEPS = 10

_CLOCKS = (time.perf_counter_ns, time.process_time_ns)


@dataclass(frozen=True)
class Effort:
    """The size of a run: events per segment, seconds for each part in one process, and so on.

    ``share`` is the part of its events that each contender gets that has processes of its own; ``soak`` is
    a number of events, or 0.
    """

    events: int
    seconds: float
    alone: int
    share: float
    process_rounds: int
    delay_samples: int
    rates: tuple[int, ...]
    rate_seconds: float
    idle: tuple[int, ...]
    idle_seconds: float
    native_events: int
    soak: int = 0


FULL = Effort(4_000, 25, 300, 1.0, 3, 2_000, (100, 2_000), 3.0, IDLE, 10.0, 200_000)
QUICK = Effort(500, 0, 20, 0.01, 1, 100, (100,), 0.5, (3, 10), 1.0, 1_000)


Step = Callable[[Server, Effort, Results, Callable[[str], None]], None]


def measure(effort: Effort, only: tuple[str, ...], say: Callable[[str], None]) -> Results:
    """Runs the steps of these names on a server of its own; ``say`` gets a line for each of them."""
    results = Results()
    chosen = {name: step for name, step in STEPS.items() if name in only}
    began = time.monotonic()
    for number, (name, step) in enumerate(chosen.items(), 1):
        say(f"[{number}/{len(chosen)}] {name} ({time.monotonic() - began:.0f} s so far)")
        with Server() as server:
            step(server, effort, results, say)
    say(f"done after {time.monotonic() - began:.0f} s")
    return results


def _take_turns(
    results: Results,
    effort: Effort,
    name: str,
    contenders: Callable[[AsyncExitStack], Awaitable[list[Contender]]],
) -> tuple[Mapping[str, Timing], Mapping[str, Timing]]:
    """By the clock on the wall, and of the processor."""

    async def run() -> list[Mapping[str, Timing]]:
        async with AsyncExitStack() as stack:
            return await take_turns_by(_CLOCKS, await contenders(stack), effort.seconds)

    wall, processor = asyncio.run(run())
    results.timings[f"{name}, wall"], results.timings[f"{name}, processor"] = wall, processor
    return wall, processor


def _publish(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    async def contenders(stack: AsyncExitStack) -> list[Contender]:
        both = [await together(stack, server.address, name, effort.events) for name in SERIALIZERS]
        return [contender for each in both for contender in each]

    wall, processor = _take_turns(results, effort, "publish", contenders)
    for found, by, asked in ((wall, "", True), (processor, ", processor time", False)):
        suffix = by and "_processor"
        for serializer, least in zip(SERIALIZERS, (4, 5), strict=True):
            bus = found[f"bus-{serializer}"]
            results.add(
                "publish",
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
            )
    try:
        native_rates = native.publish_rates(server, effort.native_events)
    except LookupError as error:
        results.absent["redis-benchmark"] = str(error)
        return
    for serializer in SERIALIZERS:
        timing = wall[f"bus-{serializer}"]
        for name, title, reached in native_rates:
            results.add(
                "publish",
                Figure(
                    f"publish_{serializer}_vs_{name}",
                    f"publish in 50 tasks, {serializer}: rate of the bus / of {title}",
                    1e9 / timing.least / reached,
                    1e9 / timing.median / reached,
                ),
            )


def _publish_alone(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    async def contenders(stack: AsyncExitStack) -> list[Contender]:
        return await alone(stack, server.address, effort.alone)

    wall, _ = _take_turns(results, effort, "publish alone", contenders)
    results.add(
        "publish",
        cost(
            "publish_alone_vs_xadd",
            "one event after the other: cost of a publish / of an XADD",
            wall["bus-alone"],
            wall["raw-alone"],
            at_most=1.3,
        ),
    )


def _consume(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    async def contenders(stack: AsyncExitStack) -> list[Contender]:
        both = [await backlogs(stack, server.address, name, effort.events) for name in SERIALIZERS]
        return [contender for each in both for contender in each]

    wall, processor = _take_turns(results, effort, "consume", contenders)
    for found, by, asked in ((wall, "", True), (processor, ", processor time", False)):
        for serializer, least in zip(SERIALIZERS, (0.80, 0.75), strict=True):
            results.add(
                "consume",
                rate(
                    f"consume_{serializer}_vs_raw" + (by and "_processor"),
                    f"consume to ack, {serializer}: rate of the bus / of XREADGROUP and XACK{by}",
                    found[f"bus-{serializer}"],
                    found[f"raw-{serializer}"],
                    at_least=least if asked else None,
                ),
            )


def _end_to_end(server: Server, effort: Effort, results: Results, say: Callable[[str], None]) -> None:
    found = end_to_end(server, effort.share, effort.process_rounds, say)
    results.absent |= found.absent
    results.timings[ONE_WORKER] = {
        contender.name: found.timing(contender, 1) for contender in found.present(1)
    }
    for serializer in SERIALIZERS:
        bus = found.timing_of(f"bus-{serializer}", 1)
        results.add(
            "end to end",
            *(
                rate(
                    f"end_to_end_{serializer}_vs_{contender.name.replace('-', '_')}",
                    f"end to end, {serializer}: rate of the bus / of {contender.title}",
                    bus,
                    found.timing(contender, 1),
                    at_least=_FASTER.get(contender.name, {}).get(serializer, 1),
                )
                for contender in found.present(1)
                if contender.module not in ("bus", "raw")
            ),
            *(
                rate(
                    f"end_to_end_{serializer}_vs_raw",
                    f"end to end, {serializer}: rate of the bus / of {contender.title}",
                    bus,
                    found.timing(contender, 1),
                )
                for contender in found.present(1)
                if contender.module == "raw"
            ),
        )
    results.add(
        "several worker processes",
        *(
            rate(
                f"two_workers_{contender.name.replace('-', '_')}",
                f"end to end with two worker processes / with one, {contender.title}",
                found.timing(contender, 2),
                found.timing(contender, 1),
            )
            for contender in found.present(2)
        ),
    )
    results.timings[TWO_WORKERS] = {
        contender.name: found.timing(contender, 2) for contender in found.present(2)
    }
    _add_server(results, found)


_FASTER: Mapping[str, Mapping[str, float]] = {
    "faststream": {"json": 14, "msgspec": 20},
    "faststream-batch": {"json": 3, "msgspec": 3},
}
"""The factor by which the bus has to be faster; ahead of the others it has to be as well."""


def _add_server(results: Results, found: Found) -> None:
    """The counters of the server, end to end with one worker process."""
    for contender in found.present(1):
        runs = found.runs[contender.name, 1]
        name = contender.name.replace("-", "_")
        for what, title, values in (
            ("commands", "commands", [run.commands for run in runs]),
            ("bytes_in", "bytes that the server receives", [run.bytes_in for run in runs]),
            ("bytes_out", "bytes that the server sends", [run.bytes_out for run in runs]),
        ):
            results.add(
                "what the server counts, end to end",
                Figure(
                    f"server_{what}_{name}",
                    f"{title} for each event, {contender.title}",
                    min(values),
                    median(values),
                    unit="number",
                    listed=False,
                ),
            )


def _rates(server: Server, effort: Effort, results: Results, say: Callable[[str], None]) -> None:
    for per_second in effort.rates:
        section = f"latency at {per_second:,} events a second"
        found = at_rates(server, per_second, effort.rate_seconds, effort.process_rounds, say)
        results.absent |= found.absent
        present = {contender.name: contender for contender in found.present(1)}
        for quantile in ("p50", "p99"):
            values = {name: [getattr(run, quantile) for run in found.runs[name, 1]] for name in present}
            bus = values["bus-json"]
            for name, contender in present.items():
                if contender.module == "bus":
                    continue
                results.add(
                    section,
                    Figure(
                        f"latency_{per_second}_{quantile}_vs_{name.replace('-', '_')}",
                        f"{quantile}: the bus, json / {contender.title}",
                        min(bus) / min(values[name]),
                        median(bus) / median(values[name]),
                        at_most=1.25 if name == "raw" else 1 if quantile == "p99" else None,
                    ),
                )
            for name, contender in present.items():
                results.add(
                    section,
                    Figure(
                        f"latency_{per_second}_{quantile}_{name.replace('-', '_')}",
                        f"{quantile}, {contender.title}",
                        min(values[name]),
                        median(values[name]),
                        unit="us",
                        listed=False,
                    ),
                )


def _latency(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    found = asyncio.run(delays(server.address, effort.delay_samples))
    raw, bus, many = found["raw"], found["bus"], found["many"]
    for name, title, value, at_most in (
        ("latency_p50_vs_raw", "p50: the bus / by hand", bus[0] / raw[0], 1.25),
        ("latency_p99_vs_raw", "p99: the bus / by hand", bus[1] / raw[1], 1.25),
        (
            "latency_many_p50_vs_raw",
            f"p50: one of {MANY} subscriptions of the bus / by hand",
            many[0] / raw[0],
            2.0,
        ),
    ):
        results.add(
            "latency in one process, 200 events a second", Figure(name, title, value, value, at_most=at_most)
        )
    for name, (p50, p99) in found.items():
        for quantile, value in (("p50", p50), ("p99", p99)):
            results.add(
                "latency in one process, 200 events a second",
                Figure(f"latency_{name}_{quantile}", f"{quantile}, {name}", value, value, unit="us"),
            )


def _idle(server: Server, effort: Effort, results: Results, _say: Callable[[str], None]) -> None:
    for subscriptions in effort.idle:
        load = asyncio.run(idle_load(server.address, subscriptions, effort.idle_seconds))
        for name, title, value, unit, at_most in (
            ("commands", "commands a second", load.commands, "1/s", 10),
            ("connections", "connections", load.connections, "number", 8),
            ("drain", "a drain", max(load.drains) * 1e3, "ms", 1_000),
        ):
            results.add(
                "idle",
                Figure(
                    f"idle_{subscriptions}_{name}",
                    f"idle with {subscriptions:,} subscriptions: {title}",
                    value,
                    value,
                    unit=unit,
                    at_most=at_most,
                ),
            )


def _soak(server: Server, effort: Effort, results: Results, say: Callable[[str], None]) -> None:
    memory = memory_over(server, effort.soak, SOAK_STEPS, say)
    growth = memory[-1] / memory[1]
    results.scales["memory"] = {
        "kilobytes": {
            (number + 1) * effort.soak // SOAK_STEPS: float(size) for number, size in enumerate(memory)
        }
    }
    results.add(
        "soak",
        Figure(
            "soak_memory_growth",
            f"memory of a worker after {effort.soak:,} events / after a fifth of them",
            growth,
            growth,
            at_most=1.02,
        ),
    )


def peers() -> dict[str, str]:
    """The versions of the peers that are installed beside the bus."""
    found: dict[str, str] = {}
    for distribution in dict.fromkeys(contender.distribution for contender in CONTENDERS):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


STEPS: dict[str, Step] = {
    "publish": _publish,
    "publish-alone": _publish_alone,
    "consume": _consume,
    "end-to-end": _end_to_end,
    "rates": _rates,
    "latency": _latency,
    "idle": _idle,
    "soak": _soak,
}
"""By the names that the command line takes."""
