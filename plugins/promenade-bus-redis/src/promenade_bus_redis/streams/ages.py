"""How old the entries of a stream are at least, on the clock of whoever looks at it.

The time in the id of an entry is the server's when it was stored, or the latest that the server's clock ever
showed: ids never go back. Somebody who saw that an entry was there, and looks again later, knows better.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Ages", "later"]

_MARKS: Final = 16
"""Marks within the age that matters: so much later than at that age an entry may be found to have it."""


class Ages:
    """Marks of when a stream was seen to go up to an entry; ``age`` in seconds is the one that matters."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, str]] = deque()

    def note(self, last_id: str, now: float, age: float) -> None:
        """The stream goes up to this entry."""
        if self._marks:
            at, known = self._marks[-1]
            if known == last_id or now - at < age / _MARKS:
                return
        self._marks.append((now, last_id))

    def bound(self, now: float, age: float) -> str:
        """The first id after all those that are known to have the age."""
        while len(self._marks) > 1 and now - self._marks[1][0] >= age:
            self._marks.popleft()
        if not self._marks or now - self._marks[0][0] < age:
            return "0-0"
        moment, _, number = self._marks[0][1].partition("-")
        return f"{moment}-{int(number or 0) + 1}"


def later(left: str, right: str) -> str:
    """The later one of two ids."""
    return max(left, right, key=_order)


def _order(entry_id: str) -> tuple[int, int]:
    moment, _, number = entry_id.partition("-")
    return int(moment), int(number or 0)
