"""The benchmarks run. How fast anything is depends on the machine, and is no matter of a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from promenade_benchmarks.events_and_codecs import RATIOS, measure
from support.benchmarks import check_quick_run

pytestmark = [pytest.mark.long, pytest.mark.once]

ROOT = Path(__file__).resolve().parents[2]

SHAPES = {
    "plain",
    "publish_many",
    "delivery",
    "pattern",
    "where",
    "headers",
    "middleware_1",
    "middleware_2",
    "middleware_5",
    "concurrency",
    "ordered",
    "timeout_option",
    "timeout_middleware",
    "logging_off",
    "all_together",
    "serialize_json",
    "serialize_msgspec",
}
WAITING = {"waits_free", "waits_concurrency", "waits_ordered"}
FIGURES = {
    *RATIOS,
    *(f"{shape}_vs_queue" for shape in SHAPES | WAITING),
    *(f"{shape}_bytes" for shape in SHAPES | {"plain_10"}),
    *(f"topics_{step}_growth" for step in ("subscribe", "first_publish", "close")),
    *(f"patterns_{step}_growth" for step in ("subscribe", "first_publish", "close")),
    "plain_vs_bare_loop",
    "publish_many_vs_publish",
    "ten_subscribers_vs_bare_loop",
    "at_once_vs_gather",
    "retry_vs_queue",
    "sync_vs_executor",
    "latency_vs_future",
    "import_vs_dependencies",
    "help_vs_dependencies",
    "start_up_vs_dependencies",
    "import_time",
    "open_time",
    "subscribers_growth",
    "workers_growth",
    "backlog_growth",
    "payload_plain_growth",
    "payload_json_growth",
}
PEERS = {"blinker", "bubus", "dramatiq", "faststream", "psygnal", "pyee", "taskiq"}
PLOTS = {"shapes", "handlers-that-wait", "memory", "one-subscriber", "ten-subscribers", "growth", "payload"}


@pytest.mark.skipif(sys.platform == "win32", reason="the processor time of children is not told there")
def test_a_quick_run_yields_every_figure(tmp_path: Path) -> None:
    """A quick run writes every figure as a positive number, the plots, and a table that names every peer."""
    document = check_quick_run("run.py", output=tmp_path, figures=FIGURES)
    plots = {path.stem: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(plots) == PLOTS | {"topics", "patterns"}
    assert all(text.startswith("<svg ") and text.endswith("</svg>\n") for text in plots.values())
    measured = " ".join(
        timing["title"] for timing in document["nanoseconds_per_delivery"]["one subscriber"].values()
    )
    assert {name for name in PEERS if name not in measured + " ".join(document["absent"])} == set()
    table = (tmp_path / "table.md").read_text()
    assert {name for name in PEERS if name not in table} == set()
    listed = [
        figure["title"]
        for figure in document["figures"].values()
        if not figure["section"].startswith("peers")  # a table of their own shows them
    ]
    assert {title for title in listed if title not in table} == set()


def test_events_and_codecs_are_measured_beside_the_bare_libraries() -> None:
    """Each measurement takes some time, and each figure is about two of them."""
    found = measure(calls=1, rounds=1)
    assert all(value > 0 for value in found.values())
    assert {name for ours, bare, _ in RATIOS.values() for name in (ours, bare)} <= {*found}


def test_a_quick_run_of_observers_yields_a_row_for_each() -> None:
    """The benchmark of observers measures each of them, and an event without any is the measure of all."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/run_observers.py", "--seconds", "0.1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    assert {row[1].split("`")[1] for row in rows[1:]} == {
        "timing",
        "consume",
        "publish",
        "prometheus",
        "opentelemetry",
    }
    assert rows[0][3].strip() == "1.00"
    assert all(float(row[2]) > 0 for row in rows)
