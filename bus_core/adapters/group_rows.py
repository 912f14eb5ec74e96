"""The rows of a group on a database that has one for each topic or pattern that the group ever had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import attrs

from bus_core.adapters.records import matches

__all__ = ["GroupRow", "row_for", "unserved_rows"]


@attrs.frozen
class GroupRow:
    """A row. ``is_served`` says that an instance has it open which is not known to be dead."""

    number: int
    group: str
    pattern: str
    is_served: bool


R = TypeVar("R", bound=GroupRow)


def row_for(rows: Iterable[R], topic: str, pattern: str | None = None) -> R | None:
    """The row that gets an event of a topic again: one that is served before one that nobody serves.

    Of these, the row of ``pattern`` comes first, and then the newest. None where no row matches the topic.
    """
    fitting = [each for each in rows if each.pattern == pattern or matches(each.pattern, topic)]
    return max(fitting, key=lambda each: (each.is_served, each.pattern == pattern, each.number), default=None)


def unserved_rows(rows: Iterable[R]) -> Iterator[tuple[R, Sequence[R]]]:
    """The rows that nobody serves, each with the served rows of its group; none of a group without those."""
    by_group: dict[str, list[R]] = {}
    for each in rows:
        by_group.setdefault(each.group, []).append(each)
    for of_group in by_group.values():
        served = [each for each in of_group if each.is_served]
        if served:
            yield from ((each, served) for each in of_group if not each.is_served)
