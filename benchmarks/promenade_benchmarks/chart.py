"""Two kinds of plots as SVG, both on logarithmic axes: a value per row, and lines over a scale.

Values per row are dots: the length of a bar on such an axis would mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

__all__ = ["lines", "rows"]

_FONT = 'font-family="system-ui, sans-serif" font-size="13"'
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_GRID = "#dddddd"
_INK = "#222222"


def rows(title: str, values: Sequence[tuple[str, float, float | None]], *, marked: str = "") -> str:
    """A dot for each value, with a stroke where it has to be; labels that begin with ``marked`` stand out."""
    left, right, top, step = 390, 670, 60, 26
    bottom = top + step * len(values)
    x, powers = _axis([number for _, *pair in values for number in pair if number], left, right)
    parts: list[str] = []
    for power in powers:
        parts += [_line(x(power), top, x(power), bottom), _text(x(power), bottom + 18, f"{power:g}")]
    for number, (label, value, need) in enumerate(values):
        y = top + step * (number + 0.5)
        colour = _COLOURS[1] if marked and label.startswith(marked) else _COLOURS[0]
        parts += [_line(left, y, right, y), _text(left - 10, y + 4, label, "end")]
        if need is not None:
            parts.append(_line(x(need), y - 9, x(need), y + 9, _INK))
        parts += [_dot(x(value), y, 5, colour), _text(right + 20, y + 4, f"{value:.3g}", "start")]
    return _document(760, bottom + 35, title, parts)


def lines(title: str, series: Mapping[str, Mapping[int, float]]) -> str:
    """A line for each series."""
    left, right, top, bottom = 60, 560, 60, 340
    x, across = _axis([position for line in series.values() for position in line], left, right)
    y, up = _axis([value for line in series.values() for value in line.values()], bottom, top)
    parts: list[str] = []
    for power in up:
        parts += [_line(left, y(power), right, y(power)), _text(left - 8, y(power) + 4, f"{power:g}", "end")]
    parts += [_text(x(power), bottom + 20, f"{power:,.0f}") for power in across]
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(position):.1f},{y(value):.1f}" for position, value in line.items())
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [_dot(x(position), y(value), 3.5, colour) for position, value in line.items()]
        parts.append(_text(right + 20, top + 10 + 22 * number, name, "start", colour))
    return _document(760, bottom + 40, title, parts)


def _axis(values: Iterable[float], first: float, last: float) -> tuple[Callable[[float], float], list[float]]:
    """Where a value is between two places, and the powers of ten that the values lie between."""
    logarithms = [log10(value) for value in values]
    low = floor(min(logarithms))
    high = max(low + 1, ceil(max(logarithms)))

    def place(value: float) -> float:
        return first + (last - first) * (log10(value) - low) / (high - low)

    return place, [10.0**power for power in range(low, high + 1)]


def _dot(x: float, y: float, radius: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = _GRID) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


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
