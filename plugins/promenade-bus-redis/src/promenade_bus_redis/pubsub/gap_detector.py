"""Detects missing events by the numbers of publishers.

The first number of a new publisher is never a gap: its earlier events may have been published before the
subscription.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["Gap", "GapDetector"]

_MOST: Final = 50_000
"""The maximum number of remembered pairs of publisher and topic; each publishing process is a publisher."""


@attrs.frozen
class Gap:
    """``count`` missing events. ``since`` is the last connection on which nothing was missing."""

    count: int
    since: int


class GapDetector:
    """The numbers received on one channel or pattern of channels, over all connections.

    Connections are numbered: nothing can be missing between two messages on the same connection.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], tuple[int, int]] = {}

    def hear(self, topic: str, publisher: str, number: int, connection: int) -> Gap | None:
        """Records an event with this number; returns a gap before it, if any."""
        return self._learn(topic, publisher, number, number - 1, connection)

    def hear_announced(self, topic: str, publisher: str, latest: int, connection: int) -> Gap | None:
        """Records a publisher's announcement; returns a gap up to it, if any."""
        return self._learn(topic, publisher, latest, latest, connection)

    def _learn(self, topic: str, publisher: str, number: int, due: int, connection: int) -> Gap | None:
        """Compares with ``due``, the number up to which everything should have been received."""
        known = self._latest.pop((topic, publisher), None)  # and added again as the latest
        if known is None:
            if len(self._latest) >= _MOST:
                del self._latest[next(iter(self._latest))]
            self._latest[topic, publisher] = (number, connection)
            return None
        last, since = known
        self._latest[topic, publisher] = (max(last, number), connection)
        return Gap(due - last, since) if due > last else None
