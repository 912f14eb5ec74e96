"""The benchmarks of the Redis adapter run. How fast it is depends on the machine, and matters to no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

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
    command = [sys.executable, ROOT / "benchmarks" / "run_redis.py", "--quick", "--soak", "1000", "--json"]
    done = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    figures = document["figures"]
    assert set(figures) >= FIGURES
    assert {name for name, figure in figures.items() if not (figure["value"] > 0 < figure["median"])} == set()
    assert json.loads((tmp_path / "figures.json").read_text()) == document
