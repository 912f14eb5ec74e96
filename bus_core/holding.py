"""Events that wait for a commit, and what came of publishing several."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import attrs

from bus_core.errors import PublishManyError
from bus_core.events import Event
from bus_core.topics import Topic

__all__ = ["HeldEvent", "HeldEvents", "open_block", "raise_failures", "result_of"]


@attrs.frozen
class HeldEvent:
    """A checked event on its way."""

    topic: Topic[Any]
    event: Event
    headers: Mapping[str, str]


class HeldEvents:
    """The events of one ``after_commit`` block, and the block that it stands in."""

    __slots__ = ("items", "outer", "over")

    def __init__(self, outer: HeldEvents | None) -> None:
        self.items: list[HeldEvent] = []
        self.outer = outer
        self.over = False


def open_block(block: HeldEvents | None) -> HeldEvents | None:
    """The innermost block that is not over. A task that outlives the block in which it began is in none."""
    while block is not None and block.over:
        block = block.outer
    return block


async def result_of(publishing: Awaitable[None]) -> Exception | None:
    """None when the event was accepted, otherwise what publishing it raised."""
    try:
        await publishing
    except Exception as error:
        return error
    return None


def raise_failures(results: Sequence[Exception | None]) -> None:
    """Raises ``PublishManyError`` with all results when one of them is an error."""
    if any(result is not None for result in results):
        raise PublishManyError(results)
