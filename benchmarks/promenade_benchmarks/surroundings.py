"""The software and the machine of a run: without them a figure means little."""

from __future__ import annotations

import gc
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from promenade_benchmarks.peers import peer_versions

__all__ = ["surroundings"]


def surroundings(
    distributions: Sequence[str] = ("promenade-bus", "promenade-bus-memory", "attrs", "cattrs", "msgspec"),
    peers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The versions, the build of the interpreter, its flags, and how busy the machine is."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in distributions},
        "peers": peer_versions() if peers is None else dict(peers),
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "compiler": platform.python_compiler(),
            "optimized": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
            "debug": hasattr(sys, "gettotalrefcount"),
            "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            "flags": {"optimize": sys.flags.optimize, "dev_mode": sys.flags.dev_mode},
            "gc": {"enabled": gc.isenabled(), "thresholds": gc.get_threshold()},
        },
        "machine": {
            "processor": _processor(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "load": [round(value, 2) for value in os.getloadavg()],
        },
    }


def _processor() -> str:
    """The name that the system gives the processor, or the architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
