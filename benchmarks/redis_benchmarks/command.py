"""The command line of the benchmarks of the Redis adapter."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from promenade_benchmarks.documents import ROOT, show, write
from promenade_benchmarks.report import as_json, markdown, table
from promenade_benchmarks.surroundings import surroundings
from redis_benchmarks.plots import contenders_table, plots
from redis_benchmarks.suite import FULL, QUICK, STEPS, measure, peers
from redis_support.binaries import newest_binary

__all__ = ["main"]

_DISTRIBUTIONS = (
    "promenade-bus",
    "promenade-bus-redis",
    "promenade-bus-msgspec",
    "redis",
    "hiredis",
    "msgspec",
)


def main() -> int:
    """Measures, prints, and writes the figures and plots; a bound that is not met is no error."""
    parser = argparse.ArgumentParser(
        prog="run_redis.py", description="Measures the Redis adapter against redis-py by hand, and its peers."
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
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "bench-redis", help="where the files go"
    )
    parser.add_argument("--docs", action="store_true", help="show the results in docs/benchmarks.md, too")
    arguments = parser.parse_args()
    effort = dataclasses.replace(QUICK if arguments.quick else FULL, soak=arguments.soak)
    only = tuple(name for name in arguments.only or STEPS if name != "soak" or effort.soak)
    ran = surroundings(_DISTRIBUTIONS, {**peers(), "server": newest_binary().id})
    results = measure(effort, only, lambda line: print(line, file=sys.stderr, flush=True))
    document, images = as_json(results, effort, ran), plots(results)
    contenders = contenders_table(results, effort.rates)
    text = markdown(results, ran, contenders)
    write(arguments.output, document, text, images)
    if arguments.docs:
        show("make bench-redis", text, images)
    print(json.dumps(document, indent=1) if arguments.json else f"{table(results, ran)}\n\n{contenders}")
    print(f"figures, table and plots: {arguments.output}", file=sys.stderr)
    return 0
