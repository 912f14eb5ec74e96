"""The groups that an adapter keeps events for: their backlogs, and which of them may be removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from bus_core.errors import BusError, UnknownSubscription, suggestion
from bus_core.events.topics import nearest_names
from bus_core.runtime.logs import counted

__all__ = ["GroupInUse", "GroupReport", "groups_to_forget", "left_text", "orphans_text", "unknown_group"]

_MOST_NAMES = 5


@attrs.frozen(kw_only=True)
class GroupReport:
    """A group on one topic or pattern.

    ``unserved`` is the number of seconds since an instance had subscribed it; 0 while one has.
    """

    group: str
    topic: str
    backlog: int
    instances: int
    unserved: float


class GroupInUse(BusError):
    """Raised for a group with instances or unsettled events, unless its removal is forced."""

    def __init__(self, report: GroupReport) -> None:
        instances = counted(report.instances, "instance")
        backlog = counted(report.backlog, "unsettled event")
        super().__init__(
            f"the group {report.group!r} on {report.topic!r} has {instances} and {backlog}; "
            "use --force to remove it all the same"
        )


def groups_to_forget(
    reports: Iterable[GroupReport], group: str, *, topic: str | None, force: bool, where: str
) -> Sequence[GroupReport]:
    """The reports of a group, on one topic or pattern or on all. ``where`` names the storage in an error.

    Raises ``UnknownSubscription`` when there is none. Raises ``GroupInUse`` when one of them has instances or
    unsettled events, unless ``force`` is true.
    """
    found = [each for each in reports if each.group == group and topic in (None, each.topic)]
    if not found:
        on = f" on {topic!r}" if topic is not None else ""
        raise UnknownSubscription(f"there is no group {group!r}{on} in {where}")
    for report in found:
        if not force and (report.instances or report.backlog):
            raise GroupInUse(report)
    return found


def unknown_group(group: str, known: Sequence[str], where: str) -> UnknownSubscription:
    """The error of a replay to a group that is not in a storage; ``where`` names the storage."""
    return UnknownSubscription(
        f"cannot replay: no instance has ever subscribed the group {group!r} in "
        f"{where}{suggestion(nearest_names(group, known))}"
    )


def orphans_text(orphans: Sequence[tuple[str, str]], command: str) -> str:
    """The sentence of health about groups that no instance has subscribed for long.

    ``orphans`` holds a group and its topic or pattern each, and ``command`` is how one is removed.
    """
    return (
        f"no instance has subscribed {_named(orphans, 'to')} for long, and its "
        f"events are kept for ever: subscribe it, or remove it with `{command}`"
    )


def left_text(left: Sequence[tuple[str, str]], command: str) -> str:
    """The sentence of health about topics that groups have left, and where events wait for them.

    The arguments are those of ``orphans_text``.
    """
    return (
        f"nobody serves {_named(left, 'on')}, where events wait, and instances serve the group on another "
        f"topic or pattern: start an instance that serves it, or remove it with `{command} --topic`"
    )


def _named(groups: Sequence[tuple[str, str]], word: str) -> str:
    names = ", ".join(f"{group!r} {word} {pattern!r}" for group, pattern in groups[:_MOST_NAMES])
    return f"{names} and {len(groups) - _MOST_NAMES} more" if len(groups) > _MOST_NAMES else names
