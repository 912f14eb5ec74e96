"""Dead letters in a database: whatever their number, each call of the database handles few of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from bus_core import DeadLetter, DeadLetterFilter
from bus_core.adapters import StoredDeadLetters, text_of_letter

T = TypeVar("T")
Table = dict[int, str]

_SMALL = 200
_MANY = 3 * _SMALL + 7


def letter(number: int) -> DeadLetter:
    """Every tenth is of the topic ``shop.rare``."""
    return DeadLetter(
        f"letter {number}",
        "shop.rare" if number % 10 == 0 else "shop.order",
        "mail",
        None,
        "",
        "gave up",
        (),
        b"{}",
        dead_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
    )


class Letters(StoredDeadLetters[Table]):
    """They are in a dictionary; ``handled`` has the letters that each call has read."""

    def __init__(self) -> None:
        self.table: Table = {number: text_of_letter(letter(number)) for number in range(1, _MANY + 1)}
        self.handled: list[int] = []

    async def read(self, run: Callable[[Table], T]) -> T:
        self.handled.append(0)
        return run(self.table)

    def write(self, run: Callable[[Table], T]) -> Awaitable[T]:
        return self.read(run)

    def rows(
        self, db: Table, topic: str | None, where: DeadLetterFilter, behind: int, limit: int
    ) -> Sequence[tuple[int, str]]:
        found = [(number, text) for number, text in sorted(db.items()) if number > behind][:limit]
        self.handled[-1] += len(found)
        return found

    def text(self, db: Table, letter_id: str) -> str | None:
        raise NotImplementedError

    def delete(self, db: Table, numbers: Sequence[int]) -> int:
        for number in numbers:
            del db[number]
        return len(numbers)

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        raise NotImplementedError


@pytest.fixture
def letters() -> Letters:
    return Letters()


RARE = DeadLetterFilter(topic="shop.rare")
_RARE = _MANY // 10


async def test_counting(letters: Letters) -> None:
    """The count and the tallies are those of all letters."""
    assert await letters.count(DeadLetterFilter()) == _MANY
    assert await letters.count(RARE) == _RARE
    tallies = await letters.tally(DeadLetterFilter())
    assert [(each.topic, each.count) for each in tallies] == [
        ("shop.order", _MANY - _RARE),
        ("shop.rare", _RARE),
    ]
    assert tallies[1].oldest == letter(10).dead_at
    assert tallies[1].newest == letter(10 * _RARE).dead_at
    assert max(letters.handled) <= _SMALL


async def test_purging(letters: Letters) -> None:
    """The selected letters are deleted, and the others stay."""
    assert await letters.purge(RARE) == _RARE
    assert sorted(letters.table) == [number for number in range(1, _MANY + 1) if number % 10]
    assert await letters.purge(DeadLetterFilter()) == _MANY - _RARE
    assert letters.table == {}
    assert max(letters.handled) <= _SMALL


async def test_pages(letters: Letters) -> None:
    """A page may come from several calls; following the cursors leads to each letter once."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await letters.page(RARE, cursor, 50)
        found += [each.id for each in page]
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page) == 50
    assert found == [f"letter {number}" for number in range(10, _MANY + 1, 10)]
    assert len(await letters.list(DeadLetterFilter(), _SMALL + 1)) == _SMALL + 1
    assert max(letters.handled) <= _SMALL
