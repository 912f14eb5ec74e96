"""The benchmarks of the Redis adapter run. How fast it is depends on the machine, and matters to no test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.benchmarks import check_quick_run

pytestmark = [pytest.mark.long, pytest.mark.once]

FIGURES = {
    "publish_json_vs_tasks",
    "publish_json_vs_pipelines",
    "publish_msgspec_vs_tasks",
    "publish_msgspec_vs_pipelines",
    "publish_alone_vs_xadd",
    "consume_json_vs_raw",
    "consume_msgspec_vs_raw",
    "end_to_end_json_rate",
    "end_to_end_msgspec_rate",
    "latency_p50_vs_raw",
    "latency_p99_vs_raw",
    "latency_many_p50_vs_raw",
    "idle_3_commands",
    "idle_3_connections",
    "idle_10_commands",
    "idle_10_connections",
    "soak_memory_growth",
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no server for it")
def test_a_quick_run_yields_every_figure(tmp_path: Path) -> None:
    """A quick run prints every figure as a positive number, and writes them."""
    check_quick_run("run_redis.py", "--soak", "1000", output=tmp_path, figures=FIGURES)
