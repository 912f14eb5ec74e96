"""A figure: its value by minimums and by medians, and what it needs to be, where that is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from promenade_benchmarks.segments import Timing

__all__ = ["Figure", "cost", "rate"]


@dataclass(frozen=True)
class Figure:
    """``value`` comes from the fastest segments, ``median`` from the middle ones; noise sets them apart."""

    name: str
    title: str
    value: float
    median: float
    unit: str = "ratio"
    at_least: float | None = None
    at_most: float | None = None
    complete: bool = True
    """False where there was no time for all that the bound is about: then it is not met."""
    listed: bool = True
    """False where a table of its own shows it."""

    @property
    def verdict(self) -> Literal["", "met", "not met", "unclear"]:
        """True when both values keep the bound; unclear when only one does."""
        if self.at_least is None and self.at_most is None:
            return ""
        if not self.complete:
            return "not met"
        kept = {self._keeps(self.value), self._keeps(self.median)}
        return "unclear" if len(kept) == 2 else "met" if True in kept else "not met"

    def _keeps(self, value: float) -> bool:
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)

    @property
    def need(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    @property
    def label(self) -> str:
        """The title with the unit, unless it is a ratio."""
        return self.title if self.unit == "ratio" else f"{self.title}, {self.unit}"

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "value": self.value,
            "median": self.median,
            "unit": self.unit,
            "need": self.need or None,
            "verdict": self.verdict or None,
        }


def rate(
    name: str,
    title: str,
    subject: Timing,
    baseline: Timing,
    *,
    at_least: float | None = None,
    listed: bool = True,
) -> Figure:
    """The deliveries that the subject makes while the baseline makes one."""
    return Figure(
        name,
        title,
        baseline.least / subject.least,
        baseline.median / subject.median,
        at_least=at_least,
        listed=listed,
    )


def cost(name: str, title: str, subject: Timing, baseline: Timing, *, at_most: float | None = None) -> Figure:
    """The cost of a delivery of the subject, in deliveries of the baseline."""
    return Figure(
        name,
        title,
        subject.least / baseline.least,
        subject.median / baseline.median,
        at_most=at_most,
    )
