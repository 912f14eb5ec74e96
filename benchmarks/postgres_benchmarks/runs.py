"""A run: a process for each role, from their common beginning to the last event that is acknowledged."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from postgres_support.servers import USER, PostgresServer
from redis_support.servers import HOST

__all__ = ["Run", "database_on", "run"]

_BENCHMARKS = Path(__file__).resolve().parents[1]
_LONGEST = 900.0

_numbers = itertools.count(1)


@frozen
class Run:
    """Seconds of a run on the wall clock, and of all its processors; bytes that it has left in the database.

    ``server`` is the part of the server's processes, 0 where the system does not tell.
    """

    events: int
    wall: float
    processor: float
    server: float
    size: int


@contextmanager
def database_on(server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, which is removed afterwards."""
    name = server.create_database(f"benchmark_{next(_numbers)}")
    try:
        yield f"postgresql://{USER}@{HOST}:{server.port}/{name}"
    finally:
        server.drop_database(name)


def run(server: PostgresServer, way: str, count: int, roles: Sequence[str]) -> Run:
    """Runs one way in a database of its own. Raises ``RuntimeError`` when a process of it fails."""
    with database_on(server) as url:
        _ended(_child(way, "prepare", url, 0), way)
        before = _size_of(server, url)
        children = [_child(way, role, url, count) for role in roles]
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise RuntimeError(f"{way}: a process did not get ready")
        served_before, began = _processor_of(server), time.monotonic()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [_ended(child, way).split() for child in children]
        served = _processor_of(server) - served_before
        return Run(
            count,
            max(float(ended) for ended, _ in said) - began,
            sum(float(used) for _, used in said) + served,
            served,
            _size_of(server, url) - before,
        )


def _child(way: str, role: str, url: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "postgres_benchmarks.child", way, role, url, str(count)]
    return subprocess.Popen(
        command, cwd=_BENCHMARKS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ended(child: subprocess.Popen[str], way: str) -> str:
    """The words of a process at its end."""
    try:
        said, _ = child.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise RuntimeError(f"{way}: a process did not end within {_LONGEST:g} s") from None
    if child.returncode:
        raise RuntimeError(f"{way}: a process ended with status {child.returncode}")
    return said


def _size_of(server: PostgresServer, url: str) -> int:
    ((size,),) = server.ask("SELECT pg_database_size(current_database())", url.rpartition("/")[2])
    return int(size)


def _processor_of(server: PostgresServer) -> float:
    """Seconds that the processes of the server have used, those included that have ended."""
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():
        return 0.0
    root, ticks = server.process.pid, 0
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The name of the program is in parentheses, and may have spaces.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(path.parent.name) == root:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == root:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")
