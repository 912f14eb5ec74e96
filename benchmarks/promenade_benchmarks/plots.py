"""The plots of `make bench`, and the table of what each library keeps."""

from __future__ import annotations

from itertools import repeat

from promenade_benchmarks.chart import lines, rows
from promenade_benchmarks.peers import BUS, PEERS, QUEUE
from promenade_benchmarks.report import markdown_table, short
from promenade_benchmarks.results import Results

__all__ = ["peers_table", "plots"]

_GROUPS = ("one subscriber", "ten subscribers")
_COSTS = {
    "shapes": "Cost of an event, in events of asyncio.Queue + 10 tasks; the strokes are the bounds",
    "handlers that wait": "The same of a handler that waits once, or fails once",
    "memory": "Bytes for each queued event; the strokes are the bounds",
}
_SCALES = {
    "growth": "Microseconds for each delivery as things grow",
    "payload": "Microseconds for each event, by the bytes of its payload",
    "topics": "Microseconds for each topic, by the number of topics",
    "patterns": "Microseconds for each pattern or topic, by the number of patterns",
}


def plots(results: Results) -> dict[str, str]:
    """SVG documents by file name, of what was measured."""
    documents: dict[str, str] = {}
    for section, title in _COSTS.items():
        values = [
            (figure.title.partition(", ")[2], figure.value, figure.at_most)
            for figure in results.sections.get(section, [])
            if figure.name.endswith(("_vs_queue", "_bytes"))
        ]
        if values:
            documents[f"{section.replace(' ', '-')}.svg"] = rows(title, values)
    for group in _GROUPS:
        if group in results.timings:
            timings = results.timings[group]
            floor = timings["bare-loop"].least
            ranked = [(timing.title, floor / timing.least, None) for timing in timings.values()]
            ranked.sort(key=lambda item: -item[1])
            documents[f"{group.replace(' ', '-')}.svg"] = rows(
                f"Deliveries while a bare loop makes one, {group}", ranked, marked="the bus"
            )
    for name, title in _SCALES.items():
        if name in results.scales:
            documents[f"{name}.svg"] = lines(title, results.scales[name])
    return documents


def peers_table(results: Results) -> str:
    """The guarantees of each library, beside how many deliveries it makes while a bare loop makes one."""
    if not set(_GROUPS) <= results.timings.keys():
        return ""
    libraries = [
        ("the bus, plain", BUS, ("plain", "plain_10")),
        ("the bus, a delivery through two middlewares", BUS, ("everyday", "everyday_10")),
        ("asyncio.Queue(1000), 10 worker tasks", QUEUE, ("queue", "queue")),
        *((peer.title, peer.guarantees, (peer.name, peer.name)) for peer in PEERS),
    ]
    return markdown_table(
        ("", *_GROUPS, "keeps"),
        (
            (title, *map(_measured, repeat(results), _GROUPS, names), str(guarantees))
            for title, guarantees, names in libraries
        ),
    )


def _measured(results: Results, group: str, name: str) -> str:
    timings = results.timings[group]
    return short(timings["bare-loop"].least / timings[name].least) if name in timings else "not measured"
