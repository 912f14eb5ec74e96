"""``python -m chaos``: runs scenarios, prints their accounts, and writes them as JSON.

Exit status 1 when one of them has failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chaos import report
from chaos.findings import Findings
from chaos.planted import BUGS
from chaos.runner import run
from chaos.scenarios import SCENARIOS


def _numbers(text: str) -> set[int]:
    return {int(part) for part in text.split(",") if part.strip()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--only", type=_numbers, default=set(), help="numbers, such as 3,5; all by default")
    parser.add_argument("--short", action="store_true", help="the short form, as in the tests")
    parser.add_argument("--scale", type=float, default=1.0, help="how long the faults last: 0.1 is a tenth")
    parser.add_argument("--bug", choices=BUGS, default="", help="plant a bug that must be found")
    parser.add_argument("--results", type=Path, default=Path("build/chaos"), help="where JSON and logs go")
    options = parser.parse_args()
    unknown = options.only - {scenario.number for scenario in SCENARIOS}
    if unknown:
        parser.error(f"there are no scenarios {sorted(unknown)}")
    chosen = [each for each in SCENARIOS if not options.only or each.number in options.only]
    done: list[Findings] = []
    for scenario in chosen:
        keep = options.results / f"{scenario.number:02}"
        findings = run(scenario, full=not options.short, bug=options.bug, scale=options.scale, keep=keep)
        done.append(findings)
        print("\n".join([*report.lines(findings), ""]), flush=True)
        report.write(findings, options.results)
    print("\n".join(report.table(done)))
    failed = [findings.scenario.number for findings in done if findings.faults]
    print(f"failed: {', '.join(map(str, failed))}" if failed else "every account is as it must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
