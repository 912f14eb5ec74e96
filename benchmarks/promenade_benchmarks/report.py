"""Results as a table for people, as Markdown, and as JSON. Ratios come first: they hold on any machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from promenade_benchmarks.figures import Figure
from promenade_benchmarks.results import Results

__all__ = ["as_json", "machine_lines", "markdown", "markdown_table", "table"]


def as_json(results: Results, effort: object, ran: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was found, and what ran."""
    return {
        "ran": {**ran, "effort": vars(effort)},
        "figures": {
            figure.name: {"section": section, **figure.as_json()}
            for section, figures in results.sections.items()
            for figure in figures
        },
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
        "absent": results.absent,
    }


def machine_lines(ran: Mapping[str, Any]) -> Iterator[str]:
    """The interpreter, the machine, and the versions of what took part."""
    python, machine = ran["python"], ran["machine"]
    flags = python["flags"]
    kind = "debug" if python["debug"] else "optimized" if python["optimized"] else "plain"
    yield (
        f"{python['implementation']} {python['version']} ({kind} build, {python['compiler']}; "
        f"gc {'on' if python['gc']['enabled'] else 'off'}, -O {flags['optimize']}, "
        f"-X dev {'on' if flags['dev_mode'] else 'off'})"
    )
    yield (
        f"{machine['system']} {machine['architecture']}, {machine['processor']}, {machine['cores']} cores, "
        f"load {machine['load'][0]:g}"
    )
    yield ", ".join(f"{name} {number}" for name, number in {**ran["versions"], **ran["peers"]}.items())


def table(results: Results, ran: Mapping[str, Any]) -> str:
    """For a terminal: the figures by section, then what they come from."""
    return "\n".join(
        [
            *machine_lines(ran),
            *_absent(results),
            *(
                line
                for section, figures in _listed(results).items()
                for line in ("", section, *_figure_lines(figures))
            ),
            *(line for group in results.timings for line in ("", *_timing_lines(group, results))),
        ]
    )


def _listed(results: Results) -> dict[str, list[Figure]]:
    sections = {
        section: [figure for figure in figures if figure.listed]
        for section, figures in results.sections.items()
    }
    return {section: figures for section, figures in sections.items() if figures}


def _absent(results: Results) -> Iterator[str]:
    for title, reason in results.absent.items():
        yield f"not measured: {title}: {reason}"


def _figure_lines(figures: Sequence[Figure]) -> Iterator[str]:
    yield f"  {'':<84}{'need':>9}{'have':>9}{'by median':>11}  verdict"
    for figure in figures:
        yield (
            f"  {figure.label:<84}{figure.need:>9}{short(figure.value):>9}{short(figure.median):>11}  "
            f"{figure.verdict}"
        ).rstrip()


def _timing_lines(group: str, results: Results) -> Iterator[str]:
    yield f"{group}: microseconds for each delivery on this machine, at best and in the middle"
    for timing in results.timings[group].values():
        yield f"  {timing.title:<84}{timing.least / 1e3:>18,.2f}{timing.median / 1e3:>11,.2f}"


def short(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(results: Results, ran: Mapping[str, Any], *tables: str) -> str:
    """The same for the documentation, with more tables in front."""
    parts = [
        "\n".join(f"- {line}" for line in (*machine_lines(ran), *_absent(results))),
        *filter(None, tables),
    ]
    for section, figures in _listed(results).items():
        rows = (
            (figure.label, _code(figure.need), short(figure.value), short(figure.median), figure.verdict)
            for figure in figures
        )
        parts.append(f"### {section[0].upper()}{section[1:]}")
        parts.append(markdown_table(("figure", "need", "have", "by median", ""), rows))
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return text.replace(">=", "at least").replace("<=", "at most")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
