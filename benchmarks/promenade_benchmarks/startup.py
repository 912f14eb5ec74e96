"""What a fresh process pays for the bus, against one that imports asyncio only."""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

__all__ = ["start_up_times"]

_PROGRAMS = {
    "asyncio": "import asyncio",
    "import": "import bus_core",
    "open": "import bus_core; bus_core.open_bus({'bus': {'adapter': 'memory'}})",
}


def start_up_times(rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of processor time of whole processes, in turn: the least and the median of each."""
    taken: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    for name in _PROGRAMS:
        _milliseconds(_PROGRAMS[name])  # writes the byte code, warms the disk cache
    for _ in range(rounds):
        for name, program in _PROGRAMS.items():
            taken[name].append(_milliseconds(program))
    return {name: (min(times), median(times)) for name, times in taken.items()}


def _milliseconds(program: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
