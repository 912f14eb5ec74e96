"""A choice of topics: names and patterns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bus_core import TopicPattern

__all__ = ["ChosenTopics"]

_MOST_REMEMBERED: Final = 10_000


class ChosenTopics:
    """Tells if a topic is covered by one of some names and patterns; without any, every topic is."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._patterns = [TopicPattern(text) for text in texts]
        self._known: dict[str, bool] = {}

    def __contains__(self, topic: str) -> bool:
        if not self._patterns:
            return True
        found = self._known.get(topic)
        if found is None:
            found = any(pattern.matches(topic) for pattern in self._patterns)
            if len(self._known) < _MOST_REMEMBERED:
                self._known[topic] = found
        return found
