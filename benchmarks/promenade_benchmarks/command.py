"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from promenade_benchmarks.report import as_json, plots, table
from promenade_benchmarks.suite import FULL, QUICK, measure
from promenade_benchmarks.surroundings import surroundings

__all__ = ["main"]

DEFAULT_OUTPUT = Path(__file__).resolve().parents[2] / "build" / "bench"


def main() -> int:
    """Measures, prints, and writes the figures and the plots; a bound that is not met is no error."""
    parser = argparse.ArgumentParser(
        prog="run.py", description="Measures the bus against a bare loop and against its peers."
    )
    parser.add_argument("--quick", action="store_true", help="a few segments: does it run, not how fast")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where the files go")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    ran = surroundings()
    results = measure(effort, lambda line: print(line, file=sys.stderr, flush=True))
    document = as_json(results, effort, ran)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "figures.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name, svg in plots(results).items():
        (arguments.output / name).write_text(svg, encoding="utf-8")
    print(json.dumps(document, indent=1) if arguments.json else table(results, effort, ran))
    print(f"figures and plots: {arguments.output}", file=sys.stderr)
    return 0
