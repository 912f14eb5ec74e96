"""The benchmarks of the Redis adapter run. How fast it is depends on the machine, and matters to no test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.benchmarks import check_quick_run

pytestmark = [pytest.mark.long, pytest.mark.once]

OWN = ("bus_json", "bus_msgspec", "raw")
FIGURES = {
    "publish_json_vs_tasks",
    "publish_json_vs_pipelines",
    "publish_msgspec_vs_tasks",
    "publish_msgspec_vs_pipelines",
    "publish_alone_vs_xadd",
    "consume_json_vs_raw",
    "consume_msgspec_vs_raw",
    "end_to_end_json_vs_raw",
    "end_to_end_msgspec_vs_raw",
    *(f"two_workers_{name}" for name in OWN),
    *(f"server_{what}_{name}" for what in ("commands", "bytes_in", "bytes_out") for name in OWN),
    *(f"latency_100_{quantile}_{name}" for quantile in ("p50", "p99") for name in OWN),
    "latency_100_p50_vs_raw",
    "latency_100_p99_vs_raw",
    "latency_p50_vs_raw",
    "latency_p99_vs_raw",
    "latency_many_p50_vs_raw",
    "idle_3_commands",
    "idle_3_connections",
    "idle_10_commands",
    "idle_10_connections",
    "idle_10_drain",
    "soak_memory_growth",
}
PEERS = {"FastStream", "taskiq-redis", "dramatiq", "Celery", "arq", "SAQ", "streaQ"}


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no server for it")
def test_a_quick_run_yields_every_figure(tmp_path: Path) -> None:
    """A quick run writes every figure as a positive number, the plots, and a table that names every peer."""
    document = check_quick_run("run_redis.py", "--soak", "1000", output=tmp_path, figures=FIGURES)
    plots = {path.stem: path.read_text() for path in tmp_path.glob("*.svg")}
    assert {"end-to-end", "commands", "latency-at-100-events-a-second"} <= set(plots)
    assert all(text.startswith("<svg ") and text.endswith("</svg>\n") for text in plots.values())
    measured = [each["title"] for each in document["nanoseconds_per_delivery"]["end to end, wall"].values()]
    named = " ".join([*measured, *document["absent"]])
    assert {name for name in PEERS if name not in named} == set()
    table = (tmp_path / "table.md").read_text()
    assert {name for name in PEERS if name not in table} == set()
