"""``python -m chaos``: runs scenarios, prints their accounts, and writes them as JSON.

Exit status 1 when one of them has failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from chaos import report
from chaos.cuts import run_cuts
from chaos.findings import Findings
from chaos.histories import command as histories
from chaos.planted import BUGS
from chaos.postgres_scenarios import POSTGRES_SCENARIOS
from chaos.runner import run
from chaos.scenarios import SCENARIOS
from chaos.sqlite_scenarios import SQLITE_SCENARIOS
from redis_support.servers import Server

_EVERY = (*SCENARIOS, *SQLITE_SCENARIOS, *POSTGRES_SCENARIOS)

_CUTS = 23


_HISTORIES = "histories"


def _chosen(text: str) -> set[int | str]:
    parts = {part.strip() for part in text.split(",") if part.strip()}
    return {part if part == _HISTORIES else int(part) for part in parts}


def _cut_everywhere(results: Path, count: int) -> list[int]:
    """Scenario 23, which has no load: its number, if it has failed."""
    began = time.monotonic()
    print(f"== {_CUTS}. kill between steps: a consumer dies between every pair of its steps")
    faults: list[str] = []
    with Server() as server:
        try:
            tally = run_cuts(server, count)
        except AssertionError as error:
            faults = [str(error)]
        else:
            counts = ", ".join(f"{what} {number:,}" for what, number in sorted(tally.counts.items()))
            cuts = ", ".join(f"after {step} {number:,}" for step, number in sorted(tally.cut_at.items()))
            print(f"{counts} in {time.monotonic() - began:.1f} s; kills {cuts}")
            data = {"number": _CUTS, "name": "kill between steps", **tally.counts, "kills": tally.cut_at}
            results.mkdir(parents=True, exist_ok=True)
            (results / f"{_CUTS}-kill-between-steps.json").write_text(json.dumps(data, indent=2) + "\n")
    print("\n".join([*(f"   wrong: {fault}" for fault in faults or ()), ""]), flush=True)
    return [_CUTS] if faults else []


def _order(options: argparse.Namespace) -> histories.Order:
    """The arguments of a run of histories."""
    return histories.Order(
        count=20 if options.short else options.count,
        seed=options.seed,
        kinds=[kind for kind in options.kinds.split(",") if kind],
        bug=options.bug,
        replay=options.replay,
        results=options.results,
        side_by_side=options.side_by_side,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument(
        "--only", type=_chosen, default=set(), help="numbers, such as 3,5, or histories; all by default"
    )
    parser.add_argument("--short", action="store_true", help="the short form, as in the tests")
    parser.add_argument("--scale", type=float, default=1.0, help="how long the faults last: 0.1 is a tenth")
    parser.add_argument(
        "--bug", choices=(*BUGS, *histories.BUGS), default="", help="plant a bug that must be found"
    )
    parser.add_argument("--results", type=Path, default=Path("build/chaos"), help="where JSON and logs go")
    some = parser.add_argument_group("histories")
    some.add_argument("--count", type=int, default=300, help="how many on each kind of server")
    some.add_argument("--seed", type=int, default=1, help="that of the first one; the others count up")
    some.add_argument("--kinds", default="", help="such as memory,redis-8; all that are found by default")
    some.add_argument("--replay", type=Path, help="carry out the history in this file instead")
    some.add_argument("--side-by-side", type=int, default=6, help="how many at the same time")
    options = parser.parse_args()
    unknown = options.only - {scenario.number for scenario in _EVERY} - {_CUTS, _HISTORIES}
    if unknown:
        parser.error(f"there are no scenarios {sorted(map(str, unknown))}")
    chosen = [each for each in _EVERY if not options.only or each.number in options.only]
    done: list[Findings] = []
    for scenario in chosen:
        keep = options.results / f"{scenario.number:02}"
        findings = run(scenario, full=not options.short, bug=options.bug, scale=options.scale, keep=keep)
        done.append(findings)
        print("\n".join([*report.lines(findings), ""]), flush=True)
        report.write(findings, options.results)
    failed: list[int | str] = [findings.scenario.number for findings in done if findings.faults]
    if not options.only or _CUTS in options.only:
        failed += _cut_everywhere(options.results, 40 if options.short else 1_000)
    if not options.only or _HISTORIES in options.only:
        failed += [f"histories on {kind}" for kind in histories.run_histories(_order(options))]
    if done:
        print("\n".join(report.table(done)))
    print(f"failed: {', '.join(map(str, failed))}" if failed else "every account is as it must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
