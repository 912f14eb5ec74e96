"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from promenade_benchmarks.documents import ROOT, show, write
from promenade_benchmarks.plots import peers_table, plots
from promenade_benchmarks.report import as_json, markdown, table
from promenade_benchmarks.suite import FULL, QUICK, STEPS, measure
from promenade_benchmarks.surroundings import surroundings

__all__ = ["main"]


def main() -> int:
    """Measures, prints, and writes the figures and the plots; a bound that is not met is no error."""
    parser = argparse.ArgumentParser(
        prog="run.py", description="Measures the bus against a bare loop and against its peers."
    )
    parser.add_argument("--quick", action="store_true", help="a few segments: does it run, not how fast")
    parser.add_argument("--only", action="append", choices=[*STEPS], help="this part; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="where the files go")
    parser.add_argument("--docs", action="store_true", help="show the results in docs/benchmarks.md, too")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    ran = surroundings()
    only = tuple(arguments.only or STEPS)
    results = measure(effort, only, lambda line: print(line, file=sys.stderr, flush=True))
    document, peers, images = as_json(results, effort, ran), peers_table(results), plots(results)
    text = markdown(results, ran, peers)
    write(arguments.output, document, text, images)
    if arguments.docs:
        show("make bench", text, images)
    print(json.dumps(document, indent=1) if arguments.json else f"{table(results, ran)}\n\n{peers}")
    print(f"figures, table and plots: {arguments.output}", file=sys.stderr)
    return 0
