"""Boxes, arrows and words as SVG.

The colours are variables of the site's theme, so that a drawing inside a page follows its light and dark
mode. As an image on a code host it has the colours of a light page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

__all__ = ["Box", "Drawing"]

_STYLE = """
    .ground { fill: var(--color-background-primary, #ffffff) }
    .box { fill: var(--color-background-secondary, #f4f6f8); stroke: var(--color-foreground-border, #b9c0c8) }
    .strong { stroke: var(--color-brand-primary, #0a5cba); stroke-width: 1.6 }
    .arrow { fill: none; stroke: var(--color-foreground-secondary, #57606a); stroke-width: 1.3 }
    .head { fill: var(--color-foreground-secondary, #57606a) }
    text { fill: var(--color-foreground-primary, #1f2328); font: 14px system-ui, sans-serif }
    .small { fill: var(--color-foreground-secondary, #57606a); font-size: 12px }
    .code { font-family: ui-monospace, monospace; font-size: 12.5px }
"""


@dataclass(frozen=True)
class Box:
    """A rectangle with a line of words, and smaller lines below it."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """The horizontal middle."""
        return self.x + self.width / 2

    @property
    def centre(self) -> float:
        """The vertical middle."""
        return self.y + self.height / 2


@dataclass
class Drawing:
    """Collects the parts of a picture; ``svg`` is its text. ``title`` is for people who do not see it."""

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, words: str, small: Iterable[str] = (), *, strong: bool = False
    ) -> Box:
        """Draws a rectangle with words."""
        below = list(small)
        box = Box(x, y, width, 30 + 16 * len(below))
        kind = "box strong" if strong else "box"
        self.parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{box.height:g}" rx="6"/>'
        )
        self.text(box.middle, y + 20, words, anchor="middle")
        for number, line in enumerate(below):
            self.text(box.middle, y + 37 + 16 * number, line, kind="small code", anchor="middle")
        return box

    def text(self, x: float, y: float, words: str, *, kind: str = "", anchor: str = "start") -> None:
        """Draws words at their base line."""
        mark = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{mark} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')

    def arrow(self, path: str) -> None:
        """Draws an arrow along a path."""
        self.parts.append(f'<path class="arrow" d="{path}" marker-end="url(#head)"/>')

    def down(self, start: Box, end: Box) -> None:
        """Draws an arrow from the lower edge of a box to the upper edge of one below it."""
        x1, y1, x2, y2 = start.middle, start.y + start.height, end.middle, end.y - 3
        bend = (y2 - y1) / 2
        self.arrow(f"M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}")

    def right(self, start: Box, end: Box) -> None:
        """Draws an arrow from the right edge of a box to the left edge of another."""
        x1, y1, x2, y2 = start.x + start.width, start.centre, end.x - 3, end.centre
        bend = (x2 - x1) / 2
        self.arrow(f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}")

    def svg(self) -> str:
        """The picture as a text, the same for the same parts."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}"'
                f' role="img" width="{self.width:g}" aria-label="{escape(self.title)}">',
                f"  <title>{escape(self.title)}</title>",
                f"  <style>{_STYLE}  </style>",
                '  <defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
                ' markerHeight="7" orient="auto-start-reverse"><path class="head" d="M0 0L8 4L0 8z"/>'
                "</marker></defs>",
                f'  <rect class="ground" width="{self.width:g}" height="{self.height:g}" rx="8"/>',
                *(f"  {part}" for part in self.parts),
                "</svg>",
                "",
            ]
        )
