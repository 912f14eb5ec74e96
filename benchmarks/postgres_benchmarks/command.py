"""The command line of the benchmarks of the PostgreSQL adapter."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from attrs import evolve

from postgres_benchmarks.suite import FULL, QUICK, SETTINGS, STEPS, measure, peers, ways_table
from postgres_support.servers import PostgresServer
from promenade_benchmarks.documents import ROOT, show, write
from promenade_benchmarks.report import as_json, markdown, table
from promenade_benchmarks.surroundings import surroundings

__all__ = ["main"]

_DISTRIBUTIONS = ("promenade-bus", "promenade-bus-postgres", "psycopg", "attrs", "msgspec")


def main() -> int:
    """Measures, prints, and writes the figures; a bound that is not met is no error."""
    parser = argparse.ArgumentParser(
        prog="run_postgres.py",
        description="Measures the PostgreSQL adapter against psycopg by hand, and its peers.",
    )
    parser.add_argument("--quick", action="store_true", help="a few events: does it run, not how fast")
    parser.add_argument("--events", type=int, help="events of a run, and others in proportion")
    parser.add_argument("--rounds", type=int, help="runs of each way")
    parser.add_argument("--only", action="append", choices=STEPS, help="this part; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "bench-postgres", help="where the files go"
    )
    parser.add_argument("--docs", action="store_true", help="show the results in docs/benchmarks.md, too")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    if arguments.events:
        effort = effort.scaled(arguments.events / effort.events)
    if arguments.rounds:
        effort = evolve(effort, rounds=arguments.rounds)
    with PostgresServer(SETTINGS) as server:
        ((number,),) = server.ask("SHOW server_version")
        ran = surroundings(_DISTRIBUTIONS, {**peers(), "PostgreSQL": number})
        only = tuple(arguments.only or STEPS)
        results = measure(server, effort, only, lambda line: print(line, file=sys.stderr, flush=True))
    document, ways = as_json(results, effort, ran), ways_table(results)
    text = markdown(results, ran, ways)
    write(arguments.output, document, text, {})
    if arguments.docs:
        show("make bench-postgres", text, {})
    print(json.dumps(document, indent=1) if arguments.json else f"{table(results, ran)}\n\n{ways}")
    print(f"figures and table: {arguments.output}", file=sys.stderr)
    return 0
