"""The positions of dead letters, topic by topic, in the order of storing."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

__all__ = ["LetterPosition", "TopicLetters"]

_CURSOR: Final = re.compile(r"(\d{1,20}-\d{1,20})/([A-Za-z0-9_.-]{1,200})")


class LetterPosition(NamedTuple):
    """The position of a letter, in the order of storing; its text is a cursor."""

    milliseconds: int
    number: int
    topic: str

    @classmethod
    def at(cls, entry_id: str, topic: str) -> Self:
        """Returns the position of an entry."""
        milliseconds, _, number = entry_id.partition("-")
        return cls(int(milliseconds), int(number), topic)

    @classmethod
    def of_cursor(cls, cursor: str) -> Self:
        """Parses a cursor; raises ``ValueError``."""
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise ValueError(f"invalid cursor for dead letters: {cursor!r}")
        return cls.at(match[1], match[2])

    @property
    def entry_id(self) -> str:
        """The id of its entry."""
        return f"{self.milliseconds}-{self.number}"

    @property
    def letter_id(self) -> str:
        """The id of the letter."""
        return f"{self.topic}/{self.entry_id}"

    def __str__(self) -> str:
        return f"{self.entry_id}/{self.topic}"


class TopicLetters:
    """The letters of one topic after a position. ``found`` has the known ones with their sizes."""

    def __init__(self, topic: str, behind: LetterPosition | None) -> None:
        self.topic = topic
        self.found: deque[tuple[LetterPosition, int]] = deque()
        self.is_over = False
        if behind is None:
            self.begin = "-"
        else:
            self.begin = behind.entry_id if topic > behind.topic else f"({behind.entry_id}"

    def learn(self, reply: tuple[Sequence[Any], bytes]) -> None:
        """Adds a reply of the script ``letters``."""
        found, following = reply
        for entry_id, size in zip(found[::2], found[1::2], strict=True):
            self.found.append((LetterPosition.at(entry_id.decode(), self.topic), size))
        self.begin = following.decode()
        self.is_over = not following
