"""Takes steps out of a history for as long as it still fails."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from chaos.histories.steps import History, Step

__all__ = ["shrink"]

_TIMES = 3
"""A history that fails by chance is tried so often before it counts as one that does not fail."""


async def shrink(
    history: History, fails: Callable[[History], Awaitable[bool]], *, seconds: float, times: int = _TIMES
) -> History:
    """The smallest history that is found within the time. ``fails`` carries one out, and tells.

    Halves are taken out first, then quarters, and so on to single steps; then it begins again with what is
    left, until no single step can be spared.
    """
    deadline = time.monotonic() + seconds
    smallest = history
    size = max(1, len(history.steps) // 2)
    while True:
        before = len(smallest.steps)
        first = 0
        while first < len(smallest.steps):
            steps = _without(smallest.steps, first, size)
            for _ in range(times):
                if time.monotonic() >= deadline:
                    return smallest
                if steps and await fails(smallest.with_steps(steps)):
                    smallest = smallest.with_steps(steps)
                    break
            else:
                first += size
        if size > 1:
            size = max(1, size // 2)
        elif len(smallest.steps) == before:
            return smallest


def _without(steps: tuple[Step, ...], first: int, size: int) -> tuple[Step, ...]:
    """The steps but for some. What began with one of those and ends later ends as it did: it does no harm."""
    return steps[:first] + steps[first + size :]
