"""Two kinds of plots as SVG: a value per row, and lines over a scale.

Values per row are dots on a logarithmic axis: the length of a bar on such an axis would mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

__all__ = ["lines", "rows"]

_FONT = 'font-family="system-ui, sans-serif" font-size="13"'
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_GRID = "#dddddd"
_INK = "#222222"


def rows(title: str, values: Sequence[tuple[str, float]], *, marked: str = "") -> str:
    """A dot for each value on a logarithmic axis; labels that begin with ``marked`` stand out."""
    left, right, top, step = 330, 610, 60, 26
    low = floor(log10(min(value for _, value in values)))
    high = max(low + 1, ceil(log10(max(value for _, value in values))))
    bottom = top + step * len(values)

    def x(value: float) -> float:
        return left + (right - left) * (log10(value) - low) / (high - low)

    parts: list[str] = []
    for power in range(low, high + 1):
        parts += [
            _line(x(10**power), top, x(10**power), bottom),
            _text(x(10**power), bottom + 18, f"{10.0**power:g}"),
        ]
    for number, (label, value) in enumerate(values):
        y = top + step * (number + 0.5)
        colour = _COLOURS[1] if marked and label.startswith(marked) else _COLOURS[0]
        parts += [
            _line(left, y, right, y),
            _text(left - 10, y + 4, label, "end"),
            f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>',
            _text(right + 20, y + 4, f"{value:.3g}", "start"),
        ]
    return _document(700, bottom + 35, title, parts)


def lines(title: str, series: Mapping[str, Mapping[int, float]]) -> str:
    """A line for each series: positions on a logarithmic axis, values on a linear one that begins at 0."""
    left, right, top, bottom = 60, 560, 60, 340
    width = max(1.0, max(log10(position) for line in series.values() for position in line))
    largest = max(value for line in series.values() for value in line.values())
    height = ceil(largest * 4) / 4

    def x(position: float) -> float:
        return left + (right - left) * log10(position) / width

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / height

    parts: list[str] = []
    for quarter in range(round(height * 4) + 1):
        value = quarter / 4
        parts += [_line(left, y(value), right, y(value)), _text(left - 8, y(value) + 4, f"{value:g}", "end")]
    for power in range(floor(width) + 1):
        parts.append(_text(x(10**power), bottom + 20, f"{10**power:,}"))
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(position):.1f},{y(value):.1f}" for position, value in line.items())
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(position):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>'
            for position, value in line.items()
        ]
        parts.append(_text(right + 20, top + 10 + 22 * number, name, "start", colour))
    return _document(700, bottom + 40, title, parts)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", colour: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {_FONT}>{escape(text)}</text>'
    )


def _document(width: int, height: float, title: str, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>',
            _text(20, 30, title, "start"),
            *parts,
            "</svg>\n",
        ]
    )
