"""The plots of `make bench-redis`, and the table of all contenders."""

from __future__ import annotations

from collections.abc import Iterable

from promenade_benchmarks.chart import rows
from promenade_benchmarks.report import markdown_table, short
from promenade_benchmarks.results import Results
from redis_benchmarks.processes import CONTENDERS
from redis_benchmarks.suite import ONE_WORKER, TWO_WORKERS

__all__ = ["contenders_table", "plots"]


def contenders_table(results: Results, rates: Iterable[int]) -> str:
    """A line for each contender: events a second, microseconds to the handler, what the server counted."""
    if ONE_WORKER not in results.timings:
        return ""
    figures = {figure.name: figure.value for figure in results.figures}
    delays = [f"latency_{rate}_{quantile}" for rate in rates for quantile in ("p50", "p99")]
    counts = ["server_commands", "server_bytes_in", "server_bytes_out"]
    head = [
        "events a second, one worker process",
        "two",
        *(f"{quantile} at {rate:,}/s, us" for rate in rates for quantile in ("p50", "p99")),
        "commands for each event",
        "bytes in",
        "bytes out",
    ]
    table = []
    for contender in CONTENDERS:
        rates_found = [
            1e9 / results.timings[group][contender.name].least
            if contender.name in results.timings.get(group, {})
            else None
            for group in (ONE_WORKER, TWO_WORKERS)
        ]
        suffix = contender.name.replace("-", "_")
        cells = [*rates_found, *(figures.get(f"{name}_{suffix}") for name in (*delays, *counts))]
        table.append([contender.title, *("not measured" if cell is None else short(cell) for cell in cells)])
    return markdown_table(["", *head], table)


def plots(results: Results) -> dict[str, str]:
    """SVG documents by file name, of what was measured."""
    documents: dict[str, str] = {}
    timings = results.timings.get(ONE_WORKER)
    if timings:
        ranked = [(timing.title, 1e9 / timing.least, None) for timing in timings.values()]
        ranked.sort(key=lambda item: -item[1])
        documents["end-to-end.svg"] = rows(
            "Events a second, from publish to handler", ranked, marked="the bus"
        )
    for section, figures in results.sections.items():
        delays = [(figure.title, figure.value, None) for figure in figures if figure.unit == "us"]
        if delays:
            name = section.replace(",", "").replace(" ", "-")
            documents[f"{name}.svg"] = rows(f"Microseconds to the handler: {section}", delays)
    commands = [
        (figure.title.partition(", ")[2], figure.value, None)
        for figure in results.figures
        if figure.name.startswith("server_commands")
    ]
    if commands:
        documents["commands.svg"] = rows(
            "Commands for each event, counted by the server", commands, marked="the bus"
        )
    return documents
