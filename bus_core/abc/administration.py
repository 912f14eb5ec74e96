"""The view of a whole storage that an adapter may give to operators: figures of groups, and replays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

import attrs

__all__ = [
    "AdministeredAdapter",
    "Administration",
    "GroupFigures",
    "ReplayFilter",
    "Replayed",
]


@attrs.frozen(kw_only=True)
class GroupFigures:
    """The load of one group on one topic or pattern, over all instances.

    - ``published``: the events stored on its topics since some time. Only differences mean something.
    - ``backlog``: the events that it has not settled. ``lag`` of them were not handed out, ``in_flight`` are
      with an instance, and ``retries`` wait in the storage.
    - ``dead``: its dead letters.
    - ``oldest``: the age in seconds of the oldest event that was not handed out; None if there is none.

    A number is None where the storage cannot tell it.
    """

    group: str
    subscription: str
    topic: str
    instances: int
    published: int | None
    backlog: int
    lag: int | None
    in_flight: int
    retries: int | None
    dead: int
    oldest: float | None


@attrs.frozen(kw_only=True)
class ReplayFilter:
    """Selects kept events: those that fulfil every criterion; without criteria all.

    ``topic`` is a name or a pattern. ``stored_since`` is inclusive, and ``stored_before`` is not: both are
    about the time at which the storage took the event. ``event_ids`` are texts.
    """

    topic: str | None = None
    stored_since: datetime | None = None
    stored_before: datetime | None = None
    event_ids: frozenset[str] | None = None


@attrs.frozen(kw_only=True)
class Replayed:
    """The progress of a replay, from its beginning.

    ``events`` were handed out again. ``unsettled`` were passed over, because the group had not settled them
    and gets them anyway.
    """

    events: int = 0
    unsettled: int = 0
    is_done: bool = False


class Administration(Protocol):
    """The view of the whole storage, for operators. The adapter has to be started."""

    async def groups(self) -> Sequence[GroupFigures]:
        """Every group, once for each topic or pattern that it is subscribed to, sorted."""
        ...

    async def replay(self, group: str, where: ReplayFilter, *, replay_id: str | None, limit: int) -> Replayed:
        """Takes the next step of a replay: hands kept events to a group again, about ``limit`` of them.

        The handler finds ``delivery.redriven`` and ``attempt`` 1; the history begins with ``replayed_at``.
        Call it until ``is_done``. A step and its progress are stored together, so that a repeated or
        interrupted ``replay_id`` hands out no event twice. Progress is kept for a week. With a ``replay_id``
        of None nothing is handed out, and the answer is complete. Raises ``UnknownSubscription``.
        """
        ...


@runtime_checkable
class AdministeredAdapter(Protocol):
    """An option of an ``Adapter`` with the feature ``admin``."""

    @property
    def admin(self) -> Administration:
        """The view of the whole storage."""
        ...
