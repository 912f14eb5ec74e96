"""The results of a run of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from promenade_benchmarks.figures import Figure
from promenade_benchmarks.segments import Timing

__all__ = ["Results"]


@dataclass
class Results:
    """Figures by section, the timings that they come from by group, and what is measured along a scale.

    ``scales`` holds the lines of each plot. ``absent`` says why a peer is not among the contenders.
    """

    sections: dict[str, list[Figure]] = field(default_factory=dict)
    timings: dict[str, Mapping[str, Timing]] = field(default_factory=dict)
    scales: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, section: str, *figures: Figure) -> None:
        self.sections.setdefault(section, []).extend(figures)

    @property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections.values() for figure in section]
