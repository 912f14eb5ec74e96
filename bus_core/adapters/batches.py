"""Batches of items, of which a storage may refuse some."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import randrange
from typing import TypeVar

from bus_core.errors import BusError

__all__ = ["together_or_apart"]

T = TypeVar("T")


async def together_or_apart(
    items: Sequence[T], handle: Callable[[Sequence[T]], Awaitable[Sequence[BusError | None]]]
) -> Sequence[BusError | None]:
    """The results of ``handle`` for all items in one transaction, or, if that fails, of each in its own.

    The storage may refuse one item, such as a record that is too large. As it may also refuse all, it stops
    after the second failure. It begins at a random item, so that each gets its turn.
    """
    try:
        return await handle(items)
    except BusError as error:
        results: list[BusError | None] = [error for _ in items]
    if len(items) < 2:
        return results
    failed = 0
    first = randrange(len(items))
    for at in (*range(first, len(items)), *range(first)):
        try:
            (results[at],) = await handle([items[at]])
        except BusError as fault:
            results[at] = fault
            failed += 1
            if failed == 2:
                break
    return results
