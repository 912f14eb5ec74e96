"""Events held until a commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from bus_core.events.base import Event
from bus_core.events.topics import Topic

__all__ = ["HeldEvent", "HeldEvents", "open_block"]


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
