"""The results as a table, as JSON, and as plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from promenade_benchmarks.chart import lines, rows
from promenade_benchmarks.figures import Figure
from promenade_benchmarks.suite import Effort, Results

__all__ = ["as_json", "figure_lines", "machine_lines", "plots", "table"]


def as_json(results: Results, effort: Effort, ran: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was found, and what ran."""
    return {
        "ran": {**ran, "effort": vars(effort)},
        "figures": {figure.name: figure.as_json() for figure in results.figures},
        "nanoseconds_per_delivery": {
            group: {
                name: {
                    "title": timing.title,
                    "deliveries": timing.deliveries,
                    "segments": len(timing.nanoseconds),
                    "least": timing.least,
                    "median": timing.median,
                }
                for name, timing in timings.items()
            }
            for group, timings in results.timings.items()
        },
        "scales": results.scales,
    }


def table(results: Results, effort: Effort, ran: Mapping[str, Any]) -> str:
    """For people: the figures that have a bound first."""
    return "\n".join(
        [
            *_what_ran(effort, ran),
            "",
            *figure_lines([figure for figure in results.figures if figure.verdict]),
            "",
            *figure_lines([figure for figure in results.figures if not figure.verdict]),
            "",
            *_rates(results),
        ]
    )


def _what_ran(effort: Effort, ran: Mapping[str, Any]) -> Iterator[str]:
    yield from machine_lines(ran)
    python = ran["python"]
    flags = python["flags"]
    yield (
        f"{effort.rounds} segments of up to {effort.deliveries:,} deliveries each, in turn; processor time; "
        f"gc {'on' if python['gc']['enabled'] else 'off'}, -O {flags['optimize']}, "
        f"-X dev {'on' if flags['dev_mode'] else 'off'}"
    )


def machine_lines(ran: Mapping[str, Any]) -> Iterator[str]:
    """The interpreter, the machine, and the versions of what took part."""
    python, machine = ran["python"], ran["machine"]
    kind = "debug" if python["debug"] else "optimized" if python["optimized"] else "plain"
    yield (
        f"{python['implementation']} {python['version']} ({kind} build, {python['compiler']}), "
        f"{machine['system']} {machine['architecture']}, {machine['cores']} cores, "
        f"load {machine['load'][0]:g}"
    )
    yield ", ".join(f"{name} {number}" for name, number in {**ran["versions"], **ran["peers"]}.items())


def figure_lines(figures: list[Figure]) -> Iterator[str]:
    """The figures as a table, with what is required of each."""
    yield f"{'':<72}{'by min':>8}{'by median':>11}  {'required':<9} verdict".rstrip()
    for figure in figures:
        unit = "" if figure.unit == "ratio" else f", {figure.unit}"
        yield (
            f"{figure.title + unit:<72}{_short(figure.value):>8}{_short(figure.median):>11}  "
            f"{figure.bound:<9} {figure.verdict}"
        ).rstrip()


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _rates(results: Results) -> Iterator[str]:
    for group in ("one subscriber", "ten subscribers"):
        timings = results.timings[group]
        floor = timings["bare-loop"]
        yield f"{group}: deliveries while the bare loop makes one (and ns per delivery, at best)"
        for timing in timings.values():
            yield f"  {timing.title:<60}{floor.least / timing.least:>8.3f}{timing.least:>10.0f}"


def plots(results: Results) -> dict[str, str]:
    """SVG documents by file name."""
    documents: dict[str, str] = {}
    for group in ("one subscriber", "ten subscribers"):
        timings = results.timings[group]
        floor = timings["bare-loop"].least
        values = [(timing.title, floor / timing.least) for timing in timings.values()]
        values.sort(key=lambda item: -item[1])
        documents[f"{group.replace(' ', '-')}.svg"] = rows(
            f"Deliveries while a bare loop makes one, {group}", values, marked="the bus"
        )
    relative = {
        name: {position: value / next(iter(scale.values())) for position, value in scale.items()}
        for name, scale in results.scales.items()
    }
    documents["scales.svg"] = lines("Cost per delivery as things grow, relative to the smallest", relative)
    return documents
