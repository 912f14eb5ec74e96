"""The minimum age of a stream's entries, on the clock of the observing process.

The time in an entry's id is the server's time when it was stored, or the latest time that the server's clock
ever showed, because ids never go back. Observing that an entry exists at one time gives a reliable age later.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Ages", "later"]

_MARKS: Final = 16
"""The number of observations within the relevant age, which limits the error."""


class Ages:
    """Times at which a stream was seen to reach an entry. ``age`` is the relevant age in seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, str]] = deque()

    def note(self, last_id: str, now: float, age: float) -> None:
        """Records that the stream reaches this entry now."""
        if self._marks:
            at, known = self._marks[-1]
            if known == last_id or now - at < age / _MARKS:
                return
        self._marks.append((now, last_id))

    def bound(self, now: float, age: float) -> str:
        """Returns the first id after all entries that are known to have the age."""
        while len(self._marks) > 1 and now - self._marks[1][0] >= age:
            self._marks.popleft()
        if not self._marks or now - self._marks[0][0] < age:
            return "0-0"
        moment, _, number = self._marks[0][1].partition("-")
        return f"{moment}-{int(number or 0) + 1}"


def later(left: str, right: str) -> str:
    """Returns the later of two ids."""
    return max(left, right, key=_order)


def _order(entry_id: str) -> tuple[int, int]:
    moment, _, number = entry_id.partition("-")
    return int(moment), int(number or 0)
