"""Draws the map of contexts, services and the events between them as SVG, without any script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from promenade_bus_contracts.flows import Flow

__all__ = ["draw_map"]

_HEIGHT: Final = 34
_LETTER: Final = 8.2
"""Width of a letter in pixels, on average."""

_STYLE: Final = (
    ".context rect{fill:#e8f0fe;stroke:#1a56b0}.service rect{fill:#f4f4f4;stroke:#666}"
    "text{font:14px sans-serif;fill:#111;text-anchor:middle}.flow{fill:none;stroke:#666;stroke-width:1.5}"
    ".number{font-size:12px;paint-order:stroke;stroke:#fff;stroke-width:4px}"
)


def draw_map(contexts: Sequence[str], flows: Sequence[Flow]) -> str:
    """Returns the map. Contexts and services are on an ellipse; an arrow has the number of its topics.

    The title of an arrow lists the topics. A context that receives its own events has no arrow for that.
    """
    names = list(dict.fromkeys([*contexts, *(flow.target for flow in flows)]))
    widths = {name: max(70.0, len(name) * _LETTER + 24) for name in names}
    widest = max(widths.values(), default=70.0)
    across = max(120.0, len(names) * widest / math.pi, widest * 1.2)
    down = max(80.0, len(names) * 26.0)
    width, height = 2 * across + widest + 20, 2 * down + _HEIGHT + 20
    places = {
        name: (
            width / 2 - across * math.cos(2 * math.pi * number / len(names)),
            height / 2 - down * math.sin(2 * math.pi * number / len(names)),
        )
        for number, name in enumerate(names)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'width="{width:.0f}" style="max-width:100%;height:auto;background:#fff">',
        "<title>Contexts and the events between them</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" '
        'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#666"/></marker></defs>',
    ]
    parts += [_arrow(flow, places, widths) for flow in flows if flow.source != flow.target]
    parts += [_node(name, places[name], widths[name], name in contexts) for name in names]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _node(name: str, place: tuple[float, float], width: float, is_context: bool) -> str:
    x, y = place
    kind = "context" if is_context else "service"
    return (
        f'<g class="{kind}"><rect x="{x - width / 2:.1f}" y="{y - _HEIGHT / 2:.1f}" width="{width:.1f}" '
        f'height="{_HEIGHT}" rx="6"/><text x="{x:.1f}" y="{y + 5:.1f}">{escape(name)}</text></g>'
    )


def _arrow(flow: Flow, places: dict[str, tuple[float, float]], widths: dict[str, float]) -> str:
    """Draws a curve to the right of the straight line, so that two directions stay apart."""
    (x1, y1), (x2, y2) = places[flow.source], places[flow.target]
    length = math.hypot(x2 - x1, y2 - y1) or 1.0
    bend = min(40.0, length / 5)
    middle = ((x1 + x2) / 2 - (y2 - y1) / length * bend, (y1 + y2) / 2 + (x2 - x1) / length * bend)
    begin = _edge((x1, y1), middle, widths[flow.source])
    end = _edge((x2, y2), middle, widths[flow.target])
    number = str(len(flow.topics))
    at = ((begin[0] + 2 * middle[0] + end[0]) / 4, (begin[1] + 2 * middle[1] + end[1]) / 4)
    listed = f"{flow.source} to {flow.target}: " + ", ".join(flow.topics)
    return (
        f'<g><title>{escape(listed)}</title><path class="flow" marker-end="url(#arrow)" '
        f'd="M{begin[0]:.1f} {begin[1]:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {end[0]:.1f} {end[1]:.1f}"/>'
        f'<text class="number" x="{at[0]:.1f}" y="{at[1] + 4:.1f}">{number}</text></g>'
    )


def _edge(center: tuple[float, float], toward: tuple[float, float], width: float) -> tuple[float, float]:
    """Returns the point at which a line from the center of a node leaves it."""
    dx, dy = toward[0] - center[0], toward[1] - center[1]
    scale = min(
        (width / 2 + 3) / abs(dx) if dx else math.inf, (_HEIGHT / 2 + 3) / abs(dy) if dy else math.inf, 1.0
    )
    return center[0] + dx * scale, center[1] + dy * scale
