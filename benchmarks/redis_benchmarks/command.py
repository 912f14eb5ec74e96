"""The command line of the benchmarks of the Redis adapter."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from promenade_benchmarks.report import figure_lines, machine_lines
from promenade_benchmarks.surroundings import surroundings
from redis_benchmarks.suite import FULL, QUICK, STEPS, Effort, Results, measure, peers
from redis_support.binaries import newest_binary

__all__ = ["main"]

DEFAULT_OUTPUT = Path(__file__).resolve().parents[2] / "build" / "bench-redis"

_DISTRIBUTIONS = (
    "promenade-bus",
    "promenade-bus-redis",
    "promenade-bus-msgspec",
    "redis",
    "hiredis",
    "msgspec",
)


def main() -> int:
    """Measures, prints, and writes the figures; a bound that is not met is no error."""
    parser = argparse.ArgumentParser(
        prog="run_redis.py", description="Measures the Redis adapter against redis-py by hand, and a peer."
    )
    parser.add_argument("--quick", action="store_true", help="a few events: does it run, not how fast")
    parser.add_argument(
        "--soak",
        type=int,
        default=0,
        metavar="EVENTS",
        help="also see whether the memory of a worker stays flat over so many events, such as 1000000",
    )
    parser.add_argument("--only", action="append", choices=[*STEPS], help="this part; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where the file goes")
    arguments = parser.parse_args()
    effort = dataclasses.replace(QUICK if arguments.quick else FULL, soak=arguments.soak)
    only = tuple(arguments.only or STEPS)
    if not effort.soak:
        only = tuple(name for name in only if name != "soak")
    ran = surroundings(_DISTRIBUTIONS, peers())
    ran["server"] = newest_binary().id
    results = measure(effort, only, lambda line: print(line, file=sys.stderr, flush=True))
    document = _as_json(results, effort, ran)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "figures.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1) if arguments.json else "\n".join(_table(results, ran)))
    print(f"figures: {arguments.output}", file=sys.stderr)
    return 0


def _as_json(results: Results, effort: Effort, ran: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ran": {**ran, "effort": vars(effort)},
        "figures": {figure.name: figure.as_json() for figure in results.figures},
        "nanoseconds_per_event": {
            group: {
                name: {"title": timing.title, "least": timing.least, "median": timing.median}
                for name, timing in timings.items()
            }
            for group, timings in results.timings.items()
        },
        "memory": results.memory,
    }


def _table(results: Results, ran: Mapping[str, Any]) -> Iterator[str]:
    yield from machine_lines(ran)
    yield f"server: {ran['server']}"
    yield ""
    yield from figure_lines([figure for figure in results.figures if figure.verdict])
    yield ""
    yield from figure_lines([figure for figure in results.figures if not figure.verdict])
    for group, timings in results.timings.items():
        yield ""
        yield f"{group}: microseconds per event, at best and in the middle"
        for timing in timings.values():
            yield f"  {timing.title:<70}{timing.least / 1e3:>9.1f}{timing.median / 1e3:>9.1f}"
