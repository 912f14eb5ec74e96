"""Counters with a bounded number of names, which never go back."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

__all__ = ["OTHER", "Slots", "Tally"]

K = TypeVar("K", bound=Hashable)

OTHER = "(other)"
"""The name under which everything beyond the bound is counted."""


class Slots(Generic[K]):
    """The first names get a place of their own, and keep it; all others share ``other``."""

    def __init__(self, most: int, other: K) -> None:
        self._most = most
        self._other = other
        self._taken: set[K] = set()

    def of(self, name: K) -> K:
        """The name that this one is counted under."""
        if name in self._taken:
            return name
        if len(self._taken) >= self._most:
            return self._other
        self._taken.add(name)
        return name


class Tally(Generic[K]):
    """Takes the counters of what is there now, and remembers those of what has gone, or began anew."""

    def __init__(self, slots: Slots[K]) -> None:
        self._slots = slots
        self._live: dict[K, tuple[int, ...]] = {}
        self._gone: dict[K, tuple[int, ...]] = {}

    def update(self, counters: Iterable[tuple[K, tuple[int, ...]]]) -> Mapping[K, tuple[int, ...]]:
        """The counters by slot; of one name there may be several counters."""
        current: dict[K, tuple[int, ...]] = {}
        for name, numbers in counters:
            _add(current, name, numbers)
        for name, before in self._live.items():
            if name not in current or any(
                now < then for now, then in zip(current[name], before, strict=True)
            ):
                _add(self._gone, self._slots.of(name), before)
        self._live = current
        totals = dict(self._gone)
        for name, numbers in current.items():
            _add(totals, self._slots.of(name), numbers)
        return totals


def _add(totals: dict[K, tuple[int, ...]], name: K, numbers: tuple[int, ...]) -> None:
    before = totals.get(name)
    totals[name] = (
        numbers if before is None else tuple(one + other for one, other in zip(before, numbers, strict=True))
    )
