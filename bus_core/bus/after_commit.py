"""Events held until a commit, and the results of publishing several."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs

from bus_core.errors import PublishManyError
from bus_core.events.base import Event
from bus_core.events.topics import Topic

__all__ = ["HeldEvent", "HeldEvents", "open_block", "publish_in_order", "raise_failures", "result_of"]

T = TypeVar("T")

_MOST_UNDER_WAY: Final = 2000
"""The most events that are handed over and not awaited yet, enough to keep an adapter busy."""


@attrs.frozen
class HeldEvent:
    """A checked event to be published."""

    topic: Topic[Any]
    event: Event
    headers: Mapping[str, str]


class HeldEvents:
    """The events of one ``after_commit`` block, and the block around it."""

    __slots__ = ("items", "outer", "over")

    def __init__(self, outer: HeldEvents | None) -> None:
        self.items: list[HeldEvent] = []
        self.outer = outer
        self.over = False


def open_block(block: HeldEvents | None) -> HeldEvents | None:
    """The innermost open block. A task that outlives the block in which it began is in none."""
    while block is not None and block.over:
        block = block.outer
    return block


async def result_of(publishing: Awaitable[None]) -> Exception | None:
    """None when the event was accepted, otherwise the error."""
    try:
        await publishing
    except Exception as error:
        return error
    return None


async def publish_in_order(
    items: Iterable[T],
    hand_over: Callable[[T], asyncio.Future[None] | None],
    publish: Callable[[T], Awaitable[None]],
) -> list[Exception | None]:
    """Publishes items, and returns a result for each.

    ``hand_over`` begins to publish an item behind those before, so that many are published at the same time.
    If it returns no future, the item is published by itself, after those before. A cancelled caller takes
    back what was not sent yet.
    """
    results: list[Exception | None] = []
    under_way: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def finish(left: int) -> None:
        while len(under_way) > left:
            index, published = under_way[0]
            results[index] = await result_of(published)
            under_way.popleft()

    try:
        try:
            for item in items:
                results.append(None)
                try:
                    published = hand_over(item)
                except Exception as error:
                    results[-1] = error
                    continue
                if published is not None:
                    under_way.append((len(results) - 1, published))
                    if len(under_way) == _MOST_UNDER_WAY:
                        await finish(_MOST_UNDER_WAY // 2)
                else:
                    await finish(0)
                    results[-1] = await result_of(publish(item))
        except Exception:  # by the items themselves: those before are published
            await finish(0)
            raise
        await finish(0)
    except asyncio.CancelledError:
        for _, published in under_way:
            published.cancel()
        if under_way:  # some may be tasks, which end in the turns that follow
            await asyncio.wait([published for _, published in under_way])
        raise
    return results


def raise_failures(results: Sequence[Exception | None]) -> None:
    """Raises ``PublishManyError`` with all results when one of them is an error."""
    if any(result is not None for result in results):
        raise PublishManyError(results)
