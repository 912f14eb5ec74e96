"""The speed of the server with a program in C: redis-benchmark, where it is found."""

from __future__ import annotations

import re
import shutil
import subprocess

from redis_benchmarks.subjects import ORDER, fields_of, serializer_of
from redis_support.servers import Server

__all__ = ["publish_rates"]

PROGRAMS = ("redis-benchmark", "valkey-benchmark")
CLIENTS = 50
PIPELINES = (1, 16)


def publish_rates(server: Server, events: int) -> list[tuple[str, str, float]]:
    """XADDs of the same fields a second, by the length of its pipelines: a name, a title, the rate.

    Raises ``LookupError`` where the program is not found.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise LookupError(f"not found on PATH: neither {' nor '.join(PROGRAMS)}")
    fields = fields_of(ORDER, serializer_of("json"))
    values = [text for name, value in fields.items() for text in (name, value)]
    found: list[tuple[str, str, float]] = []
    for pipeline in PIPELINES:
        done = subprocess.run(
            [
                program,
                *("-h", server.host, "-p", str(server.port), "-n", str(events), "-c", str(CLIENTS)),
                *("-P", str(pipeline), "--csv", "XADD", "native", "*", *values),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        # The command comes first, unquoted; then numbers in quotes, the rate before all others.
        numbers = re.search(r'((?:,"[\d.]+")+)\s*$', done.stdout)
        if numbers is None:
            raise LookupError(f"{program} prints no rate: {done.stdout!r}")
        title = f"redis-benchmark, {CLIENTS} clients, pipelines of {pipeline}"
        found.append((f"native_{pipeline}", title, float(numbers[1].split('"')[1])))
    return found
