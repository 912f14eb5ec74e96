"""A base for dead-letter stores of adapters on a database, whose letters are numbered texts.

Nothing of the bus needs this module; import it from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from bus_core.adapters.dead_letters import first_letters
from bus_core.adapters.records import letter_of
from bus_core.errors import DeadLetterNotFound, UnknownSubscription
from bus_core.events.messages import DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetterTally, tally_of
from bus_core.events.topics import is_pattern

__all__ = ["StoredDeadLetters"]

C = TypeVar("C")
T = TypeVar("T")

_AT_ONCE = 200
"""Letters that one statement reads."""

_MOST_BYTES = 4_000_000
"""Bytes of letters after which a page ends."""


class StoredDeadLetters(ABC, Generic[C]):
    """Implements ``bus_core.DeadLetterStore`` except for ``redrive``; ``C`` is a connection.

    A subclass defines how a function of a connection is run, and a few statements. A letter is the text of
    ``bus_core.adapters.text_of_letter``, with a number that grows. Texts that another program has
    written are skipped.
    """

    # --- to be defined ------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, run: Callable[[C], T]) -> Awaitable[T]:
        """The result of a function that only reads."""

    @abstractmethod
    def write(self, run: Callable[[C], T]) -> Awaitable[T]:
        """The result of a function that writes; all that it did is stored, or nothing."""

    @abstractmethod
    def rows(
        self, db: C, topic: str | None, where: DeadLetterFilter, behind: int, limit: int
    ) -> Sequence[tuple[int, str]]:
        """The numbers and texts behind a number, in order, at most ``limit``.

        ``topic`` is a name, or None for all. Of the filter, ``subscription`` and ``ids`` may narrow them down
        further; letters are compared with the whole filter afterwards.
        """

    @abstractmethod
    def text(self, db: C, letter_id: str) -> str | None:
        """The text of a letter, or None."""

    @abstractmethod
    def delete(self, db: C, numbers: Sequence[int]) -> int:
        """Deletes letters; returns how many there were."""

    # --- DeadLetterStore ----------------------------------------------------------------------------------

    @abstractmethod
    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """Moves letters back; see ``bus_core.DeadLetterStore``."""

    async def list(self, where: DeadLetterFilter, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters that the filter selects, at most ``limit``."""
        return await first_letters(self, where, limit)

    async def page(self, where: DeadLetterFilter, after: str | None, limit: int) -> DeadLetterPage:
        """The selected letters behind a cursor; see ``bus_core.DeadLetterStore``."""
        behind = _number_of(after)

        def run(db: C) -> DeadLetterPage:
            page = DeadLetterPage()
            size, last = 0, behind
            for number, text, letter in self._selected(db, where, behind):
                if len(page) == limit or size >= _MOST_BYTES:
                    page.next_cursor = str(last)
                    break
                page.append(letter)
                size += len(text)
                last = number
            return page

        return await self.read(run)

    async def count(self, where: DeadLetterFilter) -> int:
        """The number of letters that the filter selects."""
        return await self.read(lambda db: sum(1 for _ in self._selected(db, where, 0)))

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        """Counts the selected letters in groups; see ``bus_core.DeadLetterStore``."""

        def run(db: C) -> Sequence[DeadLetterTally]:
            return tally_of(letter for _, _, letter in self._selected(db, where, 0))

        return await self.read(run)

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        text = await self.read(lambda db: self.text(db, letter_id))
        letter = self.letter(text)
        if letter is None:
            raise DeadLetterNotFound(letter_id)
        return letter

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects; returns how many."""

        def run(db: C) -> int:
            return self.delete(db, [number for number, _, _ in self._selected(db, where, 0)])

        return await self.write(run)

    def _selected(self, db: C, where: DeadLetterFilter, behind: int) -> Iterator[tuple[int, str, DeadLetter]]:
        """The letters behind a number that a filter selects, in order."""
        topic = None if where.topic is None or is_pattern(where.topic) else where.topic
        while True:
            rows = self.rows(db, topic, where, behind, _AT_ONCE)
            for number, text in rows:
                letter = self.letter(text)
                if letter is not None and where.selects(letter):
                    yield number, text, letter
            if len(rows) < _AT_ONCE:
                return
            behind = rows[-1][0]

    @staticmethod
    def letter(text: Any) -> DeadLetter | None:
        """The letter of a text; None for a text that the bus did not write."""
        try:
            return letter_of(text)
        except Exception:  # any error of a converter for a foreign text
            return None

    @staticmethod
    def has_no_way_back(letter: DeadLetter, pattern: str, where: str) -> UnknownSubscription:
        """The error of a letter whose subscription is not in the database, ``where`` in words."""
        return UnknownSubscription(
            f"cannot redrive dead letter {letter.id}: no subscription {letter.subscription!r} to "
            f"{pattern!r} is in {where} any more; subscribe it first, or purge the letter"
        )


def _number_of(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise ValueError(f"this is no cursor of these dead letters: {cursor!r}")
    return int(cursor)
