"""Missed events: counted for health, and logged with at most one line a second for each subscription."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final, Literal

from bus_core.runtime import counted, plain_logger

__all__ = ["Cause", "Misses"]

logger = plain_logger("promenade.bus.redis")

_QUIET: Final = 1.0
"""Seconds between two log lines about one subscription."""

_MOST: Final = 1_000
"""The maximum number of pairs of topic and subscription with their own count; more count as ``others``."""

Cause = Literal["not sent", "buffer full"]

_WORDS: Final[dict[str, str]] = {
    "not sent": "dropped by the server, or published without a connection",
    "buffer full": "the handlers are too slow, and the buffer was full",
}


class Misses:
    """Counts missed events. ``strange`` counts payloads on channels that are not a topic's."""

    def __init__(self) -> None:
        self.total = 0
        self.strange = 0
        self.by_cause: Counter[str] = Counter()
        self.by_subscription: Counter[tuple[str, str]] = Counter()
        self._untold: Counter[tuple[str, str, str]] = Counter()
        self._told_at: dict[tuple[str, str, str], float] = {}

    def add(self, count: int, topic: str, subscription: str, cause: Cause) -> None:
        """Counts missed events of a subscription."""
        self.total += count
        self.by_cause[cause] += count
        pair: tuple[str, str] = (topic, subscription)
        if pair not in self.by_subscription and len(self.by_subscription) >= _MOST:
            pair = ("others", "others")
        self.by_subscription[pair] += count
        about: tuple[str, str, str] = (pair[0], pair[1], cause)
        self._untold[about] += count
        if time.monotonic() - self._told_at.get(about, -_QUIET) >= _QUIET:
            self._tell(about)

    def tell(self, *, everything: bool = False) -> None:
        """Logs new misses, if the last line is old enough."""
        now = time.monotonic()
        for about in [*self._untold]:
            if everything or now - self._told_at.get(about, -_QUIET) >= _QUIET:
                self._tell(about)

    def _tell(self, about: tuple[str, str, str]) -> None:
        count = self._untold.pop(about)
        self._told_at[about] = time.monotonic()
        topic, subscription, cause = about
        logger.error(
            "missed %s: %s (topic=%s subscription=%s)",
            counted(count, "event"),
            _WORDS[cause],
            topic,
            subscription,
        )

    def strange_channel(self) -> None:
        """Counts a payload on a channel whose name is not a topic; it is ignored."""
        self.strange += 1
        if self.strange == 1:
            logger.warning("ignoring a message on a channel whose name is not a topic")
