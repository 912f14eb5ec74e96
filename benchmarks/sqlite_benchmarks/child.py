"""One process of a run: ``python -m sqlite_benchmarks.child WAY ROLE PATH COUNT SYNCHRONOUS``.

It says ``ready``, waits for a line, and says when it was done.
"""

from __future__ import annotations

import sys
import time

from sqlite_benchmarks import by_hand, with_the_bus


def main() -> None:
    """Plays a role."""
    way, role, path, count, synchronous = sys.argv[1:]
    module = {"by_hand": by_hand, "with_the_bus": with_the_bus}[way]

    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    if role == "publish":
        module.publish(path, int(count), synchronous, ready)
        print(time.monotonic(), flush=True)
    else:
        print(module.consume(path, int(count), synchronous, ready), flush=True)


if __name__ == "__main__":
    main()
