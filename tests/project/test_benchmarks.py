"""The benchmarks run. How fast anything is depends on the machine, and is no matter of a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.benchmarks import check_quick_run

pytestmark = [pytest.mark.long, pytest.mark.once]

FIGURES = {
    "engine_vs_bare_loop",
    "engine_vs_queue",
    "publish_many_vs_bare_loop",
    "two_middlewares_vs_none",
    "engine_10_subscribers_vs_bare_loop",
    "engine_10_subscribers_vs_queue",
    "cost_1000_topics_vs_one",
    "cost_100_subscribers_vs_one",
    "cost_100_workers_vs_one",
    "cost_backlog_100000_vs_1000",
    "queued_event_bytes",
    "queued_event_bytes_10_subscribers",
    "queued_event_bytes_two_middlewares",
    "latency_vs_future",
    "latency_p50",
    "latency_p99",
    "import_vs_dependencies",
    "help_vs_dependencies",
    "all_names_vs_dependencies",
    "start_up_vs_dependencies",
    "start_up_vs_asyncio",
    "start_up_time",
    "closing_100_topics_vs_10",
}


@pytest.mark.skipif(sys.platform == "win32", reason="the processor time of children is not told there")
def test_a_quick_run_yields_every_figure(tmp_path: Path) -> None:
    """A quick run prints every figure as a positive number, and writes them and the plots."""
    check_quick_run("run.py", output=tmp_path, figures=FIGURES)
    plots = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(plots) == {"one-subscriber.svg", "ten-subscribers.svg", "scales.svg"}
    assert all(text.startswith("<svg ") and text.endswith("</svg>\n") for text in plots.values())
