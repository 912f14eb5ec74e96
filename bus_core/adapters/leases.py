"""Who is alive among the owners of records: by what grows, and never by a time of day.

An owner renews what it owns again and again, and what it owns is due later each time. Whoever wants to take
it over notes that on its own clock. When nothing has grown for the lease of the owner, the owner is dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

from bus_core.adapters.records import NOBODY, Pending

__all__ = ["Owners", "name_owner"]


def name_owner(lease: float) -> str:
    """A name that no other owner has. It tells everybody how many seconds its lease is long."""
    return f"{uuid4().hex}.{lease!r}"


class Owners:
    """What one process has seen of the others: ``dead`` are owners by their subscription."""

    def __init__(self) -> None:
        self.dead: Mapping[str, Sequence[str]] = {}
        # When the last record of an owner was due, and since when that is so.
        self._seen: dict[tuple[str, str], tuple[float, float]] = {}
        self._looked_at = float("-inf")

    def learn(self, pending: Sequence[Pending], sent: float, received: float, lease: float) -> None:
        """Takes what the storage told between two moments of ``lease_clock``.

        ``lease`` is that of an owner whose name tells none.
        """
        # While this process stood still others may have done so, too, and it has not seen them.
        seen = self._seen if sent - self._looked_at < lease / 2 else {}
        self._looked_at = received
        self._seen = {}
        dead: dict[str, list[str]] = {}
        for subscription, owner, _, _, due in pending:
            if owner == NOBODY:
                continue
            place = subscription, owner
            before = seen.get(place)
            known = before if before is not None and due <= before[0] else (due, received)
            self._seen[place] = known
            if sent - known[1] >= _lease_of(owner, lease):
                dead.setdefault(subscription, []).append(owner)
        self.dead = dead


def _lease_of(owner: str, otherwise: float) -> float:
    try:
        return float(owner.partition(".")[2])
    except ValueError:
        return otherwise
