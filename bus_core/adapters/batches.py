"""Batches of which a storage may refuse one item."""

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
    """The results of ``handle`` for items in one transaction or, when that fails, of each in one of its own.

    The storage may refuse one of them, such as a record that is too large for it. As it may refuse all, the
    second that fails is the last that is tried. It begins anywhere, so that each gets its turn.
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
