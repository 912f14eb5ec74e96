"""One process of a run: ``python -m postgres_benchmarks.child WAY ROLE URL COUNT``.

It says ``ready``, waits for a line, and says when it was done and how long it has used the processor.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

__all__ = ["module_of"]


def module_of(way: str) -> Any:
    """The module of one way: ``prepare``, ``publish`` and ``consume``."""
    return importlib.import_module(f"postgres_benchmarks.{way}")


def main() -> None:
    """Plays a role; ``prepare`` needs no count."""
    way, role, url, count = sys.argv[1:]
    module = module_of(way)
    used_before = 0.0

    def ready() -> None:
        nonlocal used_before
        print("ready", flush=True)
        sys.stdin.readline()
        used_before = time.process_time()

    if role == "prepare":
        module.prepare(url)
        return
    ended = getattr(module, role)(url, int(count), ready)
    print(ended or time.monotonic(), time.process_time() - used_before, flush=True)


if __name__ == "__main__":
    main()
