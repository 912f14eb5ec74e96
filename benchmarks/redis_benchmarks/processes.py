"""One producer and one consumer process, end to end; and the memory of a worker over many events."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from promenade_benchmarks.segments import Timing
from redis_support.servers import Server

__all__ = ["end_to_end", "memory_over"]

_BENCHMARKS = Path(__file__).resolve().parents[1]


class _Child:
    """A process that is told numbers, and tells facts."""

    def __init__(self, role: str, address: str, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redis_benchmarks.children", role, address, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_BENCHMARKS,
        )

    def tell(self, number: int) -> None:
        assert self.process.stdin is not None, "it is a pipe"
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def hear(self, fact: str) -> Any:
        """The fact of the next line; raises ``RuntimeError`` when the process has ended instead."""
        assert self.process.stdout is not None, "it is a pipe"
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with status {self.process.wait()}")
        return json.loads(line)[fact]

    def close(self) -> None:
        """Ends its input, which ends it."""
        self.process.communicate(timeout=60)


@contextmanager
def _pair(address: str, way: str, name: str) -> Iterator[Callable[[int], tuple[float, int]]]:
    """Two processes; called with a number of events they say nanoseconds per event, and memory."""
    with ExitStack() as stack:
        children = []
        for role in (f"consume-{way}", f"produce-{way}"):
            child = _Child(role, address, name)
            stack.callback(child.close)
            child.hear("ready")
            children.append(child)
        consumer, producer = children

        def run(events: int) -> tuple[float, int]:
            consumer.tell(events)
            consumer.hear("expecting")
            producer.tell(events)
            began = producer.hear("began")
            assert consumer.process.stdout is not None, "it is a pipe"
            facts = json.loads(consumer.process.stdout.readline() or "{}")
            if "ended" not in facts:
                raise RuntimeError(f"the consumer of {way} ended")
            return (facts["ended"] - began) / events, facts["memory"]

        yield run


def _trim(server: Server) -> None:
    with server.client() as client:
        for key in client.scan_iter(_type="stream"):
            client.xtrim(key, maxlen=0, approximate=False)


def end_to_end(
    server: Server, serializers: tuple[str, ...], events: int, peer_events: int, rounds: int
) -> dict[str, Timing]:
    """The bus with each serializer, and FastStream unless it gets no events, in turn, on the wall clock."""
    contenders = [(f"bus-{name}", "bus", name, events) for name in serializers]
    if peer_events:
        contenders.append(("faststream", "faststream", "faststream", peer_events))
    taken: dict[str, list[float]] = {name: [] for name, *_ in contenders}
    for turn in range(rounds + 1):
        for name, way, argument, count in contenders:
            # Pairs do not live at the same time: an idle one would take part in what is measured.
            with _pair(server.address, way, argument) as run:
                run(max(100, count // 10))  # all that is done once is done
                nanoseconds, _ = run(count)
            if turn:
                taken[name].append(nanoseconds)
            _trim(server)
    return {
        name: Timing(f"end to end, {name}", count, tuple(taken[name])) for name, _, _, count in contenders
    }


def memory_over(server: Server, events: int, steps: int, say: Callable[[str], None]) -> list[int]:
    """What a worker has taken at most after each of ``steps`` equal parts of so many events."""
    found: list[int] = []
    with _pair(server.address, "bus", "json") as run:
        for _ in range(steps):
            found.append(run(events // steps)[1])
            _trim(server)
            say(f"      {len(found) * (events // steps):,} events: {found[-1]:,}")
    return found
