"""Runs every way one after the other, several times, and prints ratios of the same round."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import attrs

__all__ = ["Result", "main"]

_BENCHMARKS = Path(__file__).resolve().parents[1]

_PEERS = {"with_huey": "huey", "with_litequeue": "litequeue"}
"""Ways that need a distribution of their own."""


@attrs.frozen
class Result:
    """A ratio of rates, the median of its rounds, and what it needs to be."""

    name: str
    ratio: float
    at_least: float | None
    bus: float
    other: float

    @property
    def is_met(self) -> bool:
        """Tell whether the ratio is what it needs to be."""
        return self.at_least is None or self.ratio >= self.at_least

    def __str__(self) -> str:
        wanted = "" if self.at_least is None else f"at least {self.at_least:g}"
        rates = f"bus {self.bus:9,.0f}/s  other {self.other:9,.0f}/s"
        return f"{self.name:32} {self.ratio:6.2f}  {wanted:14} {rates}"


def _child(way: str, role: str, path: str, count: int, synchronous: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sqlite_benchmarks.child", way, role, path, str(count), synchronous]
    return subprocess.Popen(
        command, cwd=_BENCHMARKS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@contextmanager
def _file(way: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "events.db")
        preparing = _child(way, "prepare", path, 0, "normal")
        preparing.communicate(timeout=60)
        assert preparing.returncode == 0, f"{way}: no file could be prepared"
        yield path


def rate(way: str, count: int, synchronous: str, roles: Sequence[str]) -> float:
    """Events a second, with a process for each role, from their common beginning to the last event."""
    with _file(way) as path:
        children = [_child(way, role, path, count, synchronous) for role in roles]
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


def _compare(
    name: str,
    other: str,
    count: int,
    synchronous: str,
    roles: Sequence[str],
    rounds: int,
    needs: float | None,
) -> Result:
    bus, others = [], []
    for _ in range(rounds):
        others.append(rate(other, count, synchronous, roles))
        bus.append(rate("with_the_bus", count, synchronous, roles))
    ratio = median(mine / theirs for mine, theirs in zip(bus, others, strict=True))
    return Result(name, ratio, needs, median(bus), median(others))


def results(count: int, rounds: int) -> Iterator[Result]:
    """Every comparison, as it is done."""
    both = ("publish", "consume")
    for synchronous in ("normal", "full"):
        name, need = f"synchronous {synchronous}", 0.5 if synchronous == "normal" else None
        yield _compare(f"publish, {name}", "by_hand", count, synchronous, both[:1], rounds, None)
        yield _compare(f"end to end, {name}", "by_hand", count, synchronous, both, rounds, need)
    for way, distribution in _PEERS.items():
        if importlib.util.find_spec(distribution) is not None:
            few = max(count // 10, 200)
            yield _compare(f"end to end, {distribution}", way, few, "normal", both, rounds, 3.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a ratio is below what it has to be."""
    parser = argparse.ArgumentParser(prog="run_sqlite.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events: to see that it works")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args(arguments)
    found: list[Result] = []
    for result in results(*((2_000, 1) if options.quick else (20_000, 5))):
        found.append(result)
        if not options.json:
            print(result, flush=True)
    if options.json:
        print(json.dumps([attrs.asdict(each) for each in found], indent=2))
    return 0 if options.quick or all(each.is_met for each in found) else 1
