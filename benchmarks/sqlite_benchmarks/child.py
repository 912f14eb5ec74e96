"""One process of a run: ``python -m sqlite_benchmarks.child WAY ROLE PATH COUNT SYNCHRONOUS``.

It says ``ready``, waits for a line, and says when it was done.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

__all__ = ["module_of"]


def module_of(way: str) -> Any:
    """The module of one way: ``prepare``, ``publish`` and ``consume``."""
    return importlib.import_module(f"sqlite_benchmarks.{way}")


def main() -> None:
    """Plays a role; ``prepare`` needs no count."""
    way, role, path, count, synchronous = sys.argv[1:]
    module = module_of(way)

    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    if role == "prepare":
        module.prepare(path)
    elif role == "publish":
        module.publish(path, int(count), synchronous, ready)
        print(time.monotonic(), flush=True)
    else:
        print(module.consume(path, int(count), synchronous, ready), flush=True)


if __name__ == "__main__":
    main()
