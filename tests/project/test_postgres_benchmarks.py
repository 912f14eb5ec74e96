"""The benchmarks of the PostgreSQL adapter run. Their figures depend on the machine, and concern no test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.benchmarks import check_quick_run

pytestmark = [pytest.mark.long, pytest.mark.once]

FIGURES = {
    "end_to_end_vs_by_hand",
    "end_to_end_vs_by_hand_processor",
    "publish_vs_by_hand",
    "publish_vs_by_hand_processor",
    "latency_p50_vs_notify",
    "latency_p50_vs_notify_and_commit",
    *(f"latency_{quantile}_{what}" for quantile in ("p50", "p99") for what in ("bus", "notify", "commit")),
    "bloat_size_bus",
    "bloat_size_hand",
    "bloat_dead_bus",
    "bloat_dead_hand",
}
DEAD = {"bloat_dead_bus", "bloat_dead_hand"}
"""The server counts dead rows some time later, when a short run may be over."""

PEERS = {"procrastinate", "pgqueuer"}


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no server for it")
def test_a_quick_run_yields_every_figure(tmp_path: Path) -> None:
    """A quick run writes every figure as a positive number, and a table that names every peer."""
    document = check_quick_run("run_postgres.py", output=tmp_path, figures=FIGURES, may_be_zero=DEAD)
    ran = [each["title"] for each in document["nanoseconds_per_delivery"]["end to end, wall clock"].values()]
    named = " ".join([*ran, *document["absent"]])
    assert {name for name in PEERS if name not in named} == set()
    table = (tmp_path / "table.md").read_text()
    assert {name for name in PEERS if name not in table} == set()
