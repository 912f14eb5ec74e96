"""What went wrong so far, for health and logs: lost events, and groups that were lost."""

from __future__ import annotations

import logging
import time
from collections import Counter

__all__ = ["Ledger"]

logger = logging.getLogger("promenade.bus.redis")

_QUIET = 1.0
"""Seconds between two log lines of one kind about one thing."""


class Ledger:
    """Counts. ``lost`` are events and dead letters; ``reset_groups`` are groups that had to be made again."""

    def __init__(self) -> None:
        self.lost = 0
        self.late = 0
        self.reset_groups: Counter[str] = Counter()
        self._said: dict[tuple[str, str], float] = {}

    def lose(self, count: int, topic: str, group: str) -> None:
        """Entries that are pending, and gone from their stream: somebody trimmed or deleted them."""
        if count:
            self.lost += count
            logger.error(
                "lost %d events: they were deleted before they were handled (topic=%s group=%s)",
                count,
                topic,
                group,
            )

    def miss(self, count: int, topic: str, group: str) -> None:
        """Entries that were trimmed before a broadcast subscription had read them."""
        self.lost += count
        logger.error(
            "missed %d events: they were trimmed before they were read (topic=%s subscription=%s)",
            count,
            topic,
            group,
        )

    def reset(self, topic: str, group: str) -> None:
        """A group was gone, and was made again at the beginning of what there is."""
        self.reset_groups[f"{group} on {topic}"] += 1
        if self._may_say("reset", f"{topic} {group}"):
            logger.error(
                "the consumer group was gone and was made again; it begins with what is there"
                " (topic=%s group=%s)",
                topic,
                group,
            )

    @property
    def degraded(self) -> str | None:
        """For health."""
        if not self.reset_groups:
            return None
        names = ", ".join(sorted(self.reset_groups)[:5])
        return (
            f"consumer groups were lost on the server, and made again: {names}; what they had not handled may"
            " be lost with their streams"
        )

    def _may_say(self, kind: str, about: str) -> bool:
        now = time.monotonic()
        if now - self._said.get((kind, about), -_QUIET) < _QUIET:
            return False
        self._said[kind, about] = now
        return True
