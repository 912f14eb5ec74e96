"""A base for dead-letter stores of adapters on a database, whose letters are numbered texts.

The bus does not need this module. Plugins import it from ``bus_core.adapters``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import attrs

from bus_core.adapters.dead_letters import first_letters
from bus_core.adapters.records import letter_of
from bus_core.errors import DeadLetterNotFound, UnknownSubscription
from bus_core.events.messages import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterTally,
    merge_tallies,
    tally_of,
)
from bus_core.events.topics import is_pattern

__all__ = ["StoredDeadLetters"]

C = TypeVar("C")
T = TypeVar("T")

_AT_ONCE = 200
"""Letters that one statement reads."""

_MOST_BYTES = 4_000_000
"""Bytes of letters after which a page ends."""


@attrs.frozen
class _Step:
    """Some letters in order: their numbers and texts, and the number where the next step begins, if any."""

    letters: Sequence[tuple[int, str, DeadLetter]]
    behind: int | None


class StoredDeadLetters(ABC, Generic[C]):
    """Implements ``bus_core.DeadLetterStore`` except for ``redrive``; ``C`` is a connection.

    A subclass defines how a function of a connection is run, and a few statements. A letter is the text of
    ``bus_core.adapters.text_of_letter``, with a number that grows. Texts that another program has
    written are skipped.

    A call of a database has a time limit. So each function of a connection handles a few hundred letters at
    most, and any number of them can be counted or purged. Letters may come and go between two calls.
    """

    # --- to be defined ------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, run: Callable[[C], T]) -> Awaitable[T]:
        """The result of a function that only reads."""

    @abstractmethod
    def write(self, run: Callable[[C], T]) -> Awaitable[T]:
        """The result of a function that writes; what it did is stored as a whole, or not at all."""

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
        last = _number_of(after)
        page = DeadLetterPage()
        size = 0
        async for letters in self._selected(where, last):
            for number, text, letter in letters:
                if len(page) == limit or size >= _MOST_BYTES:
                    page.next_cursor = str(last)
                    return page
                page.append(letter)
                size += len(text)
                last = number
        return page

    async def count(self, where: DeadLetterFilter) -> int:
        """The number of letters that the filter selects."""
        return sum([len(letters) async for letters in self._selected(where, 0)])

    async def tally(self, where: DeadLetterFilter) -> Sequence[DeadLetterTally]:
        """Counts the selected letters in groups; see ``bus_core.DeadLetterStore``."""
        found: list[DeadLetterTally] = []
        async for letters in self._selected(where, 0):
            found = merge_tallies([*found, *tally_of(letter for _, _, letter in letters)])
        return found

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter; raises ``DeadLetterNotFound``."""
        text = await self.read(lambda db: self.text(db, letter_id))
        letter = self.letter(text)
        if letter is None:
            raise DeadLetterNotFound(letter_id)
        return letter

    async def purge(self, where: DeadLetterFilter) -> int:
        """Deletes the letters that the filter selects; returns how many.

        When it fails, the letters of the steps before are deleted; repeat it to delete the others.
        """
        deleted, behind = 0, 0
        while True:

            def run(db: C, behind: int = behind) -> tuple[int, int | None]:
                step = self._step(db, where, behind)
                return self.delete(db, [number for number, _, _ in step.letters]), step.behind

            count, following = await self.write(run)
            deleted += count
            if following is None:
                return deleted
            behind = following

    async def _selected(
        self, where: DeadLetterFilter, behind: int
    ) -> AsyncIterator[Sequence[tuple[int, str, DeadLetter]]]:
        """The letters behind a number that a filter selects, in order, step by step."""
        following: int | None = behind
        while following is not None:
            step = await self.read(partial(self._step, where=where, behind=following))
            yield step.letters
            following = step.behind

    def _step(self, db: C, where: DeadLetterFilter, behind: int) -> _Step:
        topic = None if where.topic is None or is_pattern(where.topic) else where.topic
        rows = self.rows(db, topic, where, behind, _AT_ONCE)
        letters = [(number, text, self.letter(text)) for number, text in rows]
        selected = [
            (number, text, letter)
            for number, text, letter in letters
            if letter is not None and where.selects(letter)
        ]
        return _Step(selected, rows[-1][0] if len(rows) == _AT_ONCE else None)

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
