"""The durations of handlers: a histogram for each subscription. An event pays a look-up and two sums."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

__all__ = ["Durations"]


class Durations:
    """Counts by bucket, the one above all bounds included, and the sum of all seconds."""

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.seconds = 0.0

    def teller(self) -> Callable[[float, BaseException | None], None]:
        """Gets the seconds of each call from the bus."""
        bounds, counts, lowest = self.bounds, self.counts, self.bounds[0]

        def tell(seconds: float, _error: BaseException | None) -> None:
            # Handlers that wait for nothing are in the lowest bucket, and are those that notice the look-up.
            counts[0 if seconds <= lowest else bisect_left(bounds, seconds)] += 1
            self.seconds += seconds

        return tell

    def cumulative(self) -> tuple[list[tuple[float, int]], float]:
        """The number of calls within each bound, of all calls, and the sum."""
        total = 0
        found: list[tuple[float, int]] = []
        for bound, count in zip((*self.bounds, float("inf")), [*self.counts], strict=True):
            total += count
            found.append((bound, total))
        return found, self.seconds
