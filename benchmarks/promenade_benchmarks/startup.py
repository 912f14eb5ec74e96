"""The start-up cost of the bus in a fresh process, against one that imports only what the bus is built on."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from statistics import median

__all__ = ["start_up_times"]

_PROGRAMS = {
    "asyncio": ("-c", "import asyncio"),
    "dependencies": ("-c", "import asyncio, attrs, pluggy, yaml"),
    "import": ("-c", "import bus_core"),
    "names": ("-c", "from bus_core import *"),
    "open": ("-c", "import bus_core; bus_core.open_bus({'bus': {'adapter': 'memory'}})"),
    "command-dependencies": ("-c", "import click, pluggy, attrs"),
    "help": ("-m", "promenade_bus_cli", "--help"),
}
"""``open`` and ``help`` look at every distribution of this checkout: all of them are installed."""


def start_up_times(seconds: float) -> dict[str, tuple[float, float]]:
    """Milliseconds of processor time of whole processes, in turn: the least and the median of each."""
    taken: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    end = time.monotonic() + seconds
    for program in _PROGRAMS.values():
        _milliseconds(program)  # writes the byte code, warms the disk cache
    while not taken["help"] or time.monotonic() < end:
        for name, program in _PROGRAMS.items():
            taken[name].append(_milliseconds(program))
    return {name: (min(times), median(times)) for name, times in taken.items()}


def _milliseconds(program: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-P", *program], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
