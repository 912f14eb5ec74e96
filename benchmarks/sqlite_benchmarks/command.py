"""Runs both ways one after the other, several times, and prints their ratios."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from sqlite_benchmarks import by_hand, with_the_bus

__all__ = ["main"]

_WAYS = {"by_hand": by_hand, "with_the_bus": with_the_bus}

_TARGET = 0.5


def _rate(way: str, count: int, synchronous: str, *, consumers: bool) -> float:
    """Events a second: end to end in two processes, or publishing alone."""
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "events.db")
        _WAYS[way].prepare(path)
        roles = ("publish", "consume") if consumers else ("publish",)
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "sqlite_benchmarks.child", way, role, path, str(count), synchronous],
                cwd=Path(__file__).resolve().parents[1],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for role in roles
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", f"{way}: a process did not get ready"
        began = time.monotonic()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.communicate(timeout=600)[0] for child in children]
        return count / (max(float(each) for each in said) - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a ratio is below what it has to be."""
    parser = argparse.ArgumentParser(prog="run_sqlite.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events: to see that it works")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args(arguments)
    count, rounds = (2_000, 1) if options.quick else (40_000, 5)
    figures: dict[str, float] = {}
    for synchronous in ("normal", "full"):
        for what, consumers in (("publish", False), ("end_to_end", True)):
            rates: dict[str, list[float]] = {way: [] for way in _WAYS}
            for _ in range(rounds):
                for way in _WAYS:
                    rates[way].append(_rate(way, count, synchronous, consumers=consumers))
            ratios = [bus / hand for hand, bus in zip(rates["by_hand"], rates["with_the_bus"], strict=True)]
            name = f"{what}_{synchronous}"
            figures[name] = median(ratios)
            if not options.json:
                hand, bus = median(rates["by_hand"]), median(rates["with_the_bus"])
                print(f"{name:20} {figures[name]:5.2f}   by hand {hand:9,.0f}/s   with the bus {bus:9,.0f}/s")
    if options.json:
        print(json.dumps(figures, indent=2))
    return 0 if options.quick or figures["end_to_end_normal"] >= _TARGET else 1
