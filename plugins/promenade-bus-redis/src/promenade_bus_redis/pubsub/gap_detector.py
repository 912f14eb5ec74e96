"""Who was heard up to which number: a number that is left out is an event that did not come.

A publisher that is new is no gap, whatever number it begins with: nobody can tell whether its earlier events
came before the subscription, or were missed.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["Gap", "GapDetector"]

_MOST: Final = 50_000
"""Publishers times topics that are remembered; each process that publishes is a publisher of its own."""


@attrs.frozen
class Gap:
    """``count`` events did not come. ``since`` is the connection on which all was complete still."""

    count: int
    since: int


class GapDetector:
    """What was heard of one channel, or of a pattern of channels, over all connections there were.

    Connections are counted: nothing can be missing between two things that the same one brought.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], tuple[int, int]] = {}

    def hear(self, topic: str, publisher: str, number: int, connection: int) -> Gap | None:
        """An event with this number came."""
        return self._learn(topic, publisher, number, number - 1, connection)

    def hear_announced(self, topic: str, publisher: str, latest: int, connection: int) -> Gap | None:
        """The publisher says that its latest event had this number."""
        return self._learn(topic, publisher, latest, latest, connection)

    def _learn(self, topic: str, publisher: str, number: int, due: int, connection: int) -> Gap | None:
        """``due`` is the number up to which everything must have been heard before."""
        known = self._latest.pop((topic, publisher), None)  # and in again, as the one heard last
        if known is None:
            if len(self._latest) >= _MOST:
                del self._latest[next(iter(self._latest))]
            self._latest[topic, publisher] = (number, connection)
            return None
        last, since = known
        self._latest[topic, publisher] = (max(last, number), connection)
        return Gap(due - last, since) if due > last else None
