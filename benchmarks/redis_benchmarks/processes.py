"""Processes of each contender: a producer and consumers; and the memory of a worker over many events."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import attrs

from promenade_benchmarks.documents import ROOT
from redis_benchmarks.subjects import ORDER, fields_of, serializer_of
from redis_support.servers import Server

__all__ = ["CONTENDERS", "Absent", "Contender", "Load", "Run", "memory_over", "run_of"]

_PATIENCE = 30
"""Seconds without any progress, after which a contender is given up."""

_OTHER_ENVIRONMENT: Final = ROOT / ".venv-bench-arq" / "bin" / "python"


class Absent(Exception):
    """A contender cannot be measured here; the message says why."""


@attrs.frozen
class Contender:
    """``events`` are what it handles in a second or two; ``python`` runs its processes."""

    name: str
    distribution: str
    title: str
    module: str
    events: int
    argument: str
    python: Path = Path(sys.executable)


CONTENDERS: Final = (
    Contender("bus-json", "promenade-bus-redis", "the bus, json", "bus", 40_000, "json"),
    Contender("bus-msgspec", "promenade-bus-redis", "the bus, msgspec", "bus", 40_000, "msgspec"),
    Contender("raw", "redis", "redis-py by hand, 100 at a time", "raw", 20_000, "raw"),
    Contender("faststream", "faststream", "FastStream, stream subscriber", "faststream", 4_000, "stream"),
    Contender(
        "faststream-batch", "faststream", "FastStream, batch subscriber", "faststream", 10_000, "batch"
    ),
    Contender("taskiq-redis", "taskiq-redis", "taskiq-redis, stream", "taskiq", 4_000, "-"),
    Contender("dramatiq", "dramatiq", "dramatiq, 8 threads", "dramatiq", 2_000, "-"),
    Contender("celery", "celery", "Celery, 10 threads", "celery", 1_000, "-"),
    Contender("saq", "saq", "SAQ, 10 jobs at once", "saq", 2_000, "-"),
    Contender("streaq", "streaq", "streaQ, 16 tasks at once", "streaq", 1_500, "-"),
    Contender("arq", "arq", "arq, 100 jobs at once", "arq", 600, "-", _OTHER_ENVIRONMENT),
)


@attrs.frozen
class Load:
    """So many events, as fast as 50 tasks publish them, or at a rate a second."""

    events: int
    rate: float = 0


@attrs.frozen
class Run:
    """The result of a load: times in seconds, latencies in microseconds, and what the server counted."""

    seconds: float
    published_in: float
    memory: int
    p50: float
    p99: float
    commands: float
    bytes_in: float
    bytes_out: float
    by_command: dict[str, float]


class _Child:
    """A process that is told and asked, and answers."""

    def __init__(self, role: str, contender: Contender, address: str) -> None:
        if not contender.python.exists():
            raise Absent("not installed: make bench-redis makes its environment, .venv-bench-arq")
        body = fields_of(ORDER, serializer_of("json"))["body"]
        self._process = subprocess.Popen(
            [
                contender.python,
                *("-m", "redis_benchmarks.children", role, contender.module, address, contender.argument),
                body.decode(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT / "benchmarks",
        )

    def tell(self, **facts: Any) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(json.dumps(facts) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Its next answer; raises ``Absent`` when there is none."""
        assert self._process.stdout is not None, "it is a pipe"
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print, too
                facts: dict[str, Any] = json.loads(line)
                if "failed" in facts:
                    raise Absent(facts["failed"])
                return facts
        raise Absent(f"does not run here: a process ended with status {self._process.wait()}")

    def ask(self, **facts: Any) -> dict[str, Any]:
        self.tell(**facts)
        return self.hear()

    def close(self) -> None:
        """Ends its input, which ends it; or ends it."""
        try:
            self._process.communicate(timeout=15)
        except (subprocess.TimeoutExpired, OSError):
            self._process.kill()
            self._process.communicate()


class _Deployment:
    """The processes of a contender, ready."""

    def __init__(self, producer: _Child, consumers: Sequence[_Child], server: Server) -> None:
        self._producer = producer
        self._consumers = consumers
        self._server = server

    def carry(self, load: Load) -> Run:
        """Returns when the last event is handled."""
        due = load.events + sum(answer["handled"] for answer in self._ask(timed=load.rate > 0))
        with self._server.client() as client:
            look = _counts(client)
            before = _counts(client)
            self._producer.tell(events=load.events, rate=load.rate)
            self._wait_for(due)
            after = _counts(client)
        facts = self._producer.hear()
        answers = self._ask(latencies=True)
        spent = {
            name: max(0.0, after[name] - number - (number - look.get(name, 0))) / load.events
            for name, number in ({name: before.get(name, 0) for name in after}).items()
        }
        latencies = [each / 1e3 for answer in answers for each in answer["latencies"]]
        cuts = quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else [0.0] * 99
        return Run(
            (max(answer["last"] for answer in answers) - facts["began"]) / 1e9,
            (facts["ended"] - facts["began"]) / 1e9,
            max(answer["memory"] for answer in answers),
            cuts[49],
            cuts[98],
            spent.pop("total_commands_processed"),
            spent.pop("total_net_input_bytes"),
            spent.pop("total_net_output_bytes"),
            {name: number for name, number in spent.items() if number > 0.001},
        )

    def _ask(self, **question: Any) -> list[dict[str, Any]]:
        return [consumer.ask(**question) for consumer in self._consumers]

    def _wait_for(self, due: int) -> None:
        handled, moved = -1, time.monotonic()
        while handled < due:
            time.sleep(0.02)
            before, handled = handled, sum(answer["handled"] for answer in self._ask())
            if handled > before:
                moved = time.monotonic()
            elif time.monotonic() - moved > _PATIENCE:
                raise Absent(f"does not run here: {due - handled} events are missing after {_PATIENCE} s")


def _counts(client: Any) -> dict[str, float]:
    """The counters of the server so far: commands, bytes, and calls by command."""
    stats: dict[str, Any] = client.info("stats")
    totals = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")
    calls = {
        name.removeprefix("cmdstat_"): facts["calls"] for name, facts in client.info("commandstats").items()
    }
    return {**{name: stats[name] for name in totals}, **calls}


@contextmanager
def _deployed(server: Server, contender: Contender, consumers: int) -> Iterator[_Deployment]:
    with server.client() as client:
        client.flushall()
    with ExitStack() as stack:
        children: list[_Child] = []
        for role in [*["consume"] * consumers, "produce"]:
            child = _Child(role, contender, server.address)
            stack.callback(child.close)
            child.hear()
            children.append(child)
        yield _Deployment(children[-1], children[:-1], server)


def run_of(server: Server, contender: Contender, consumers: int, load: Load) -> Run:
    """Carries a tenth of the load first, so that all that is done once is done. Raises ``Absent``.

    Its processes live no longer: idle ones would take part in what is measured next.
    """
    with _deployed(server, contender, consumers) as deployment:
        deployment.carry(attrs.evolve(load, events=max(50, load.events // 10)))
        return deployment.carry(load)


def memory_over(server: Server, events: int, steps: int, say: Callable[[str], None]) -> list[int]:
    """The most that a worker has taken after each of ``steps`` equal parts of so many events."""
    found: list[int] = []
    with _deployed(server, CONTENDERS[0], 1) as deployment:
        for _ in range(steps):
            found.append(deployment.carry(Load(events // steps)).memory)
            with server.client() as client:
                for key in client.scan_iter(_type="stream"):
                    client.xtrim(key, maxlen=0, approximate=False)
            say(f"      {len(found) * (events // steps):,} events: {found[-1]:,}")
    return found
