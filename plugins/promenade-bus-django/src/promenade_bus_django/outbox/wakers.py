"""The relays of this process, which a commit wakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["RELAYS", "Wakers"]


class Wakers:
    """Functions that wake a relay, safe from any thread."""

    def __init__(self) -> None:
        self._wakers: tuple[Callable[[], None], ...] = ()

    def __len__(self) -> int:
        return len(self._wakers)

    def add(self, wake: Callable[[], None]) -> None:
        """From now on commits call this function."""
        self._wakers = (*self._wakers, wake)

    def remove(self, wake: Callable[[], None]) -> None:
        """Undoes ``add``; harmless when repeated."""
        self._wakers = tuple(other for other in self._wakers if other != wake)

    def wake(self) -> None:
        """Calls every function: rows were committed."""
        for wake in self._wakers:
            wake()


RELAYS: Final = Wakers()
"""Those of this process."""
