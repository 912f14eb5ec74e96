"""What was due against what came to an end, for each pair of a subscription and an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

__all__ = ["Balance"]

P = TypeVar("P", bound=Hashable)


@attrs.frozen
class Balance(Generic[P]):
    """``lost`` is due and has come to no end; ``surplus`` has come to more ends than were due.

    An end is an event that was handled, skipped, or is kept as a dead letter.
    """

    lost: Counter[P]
    surplus: Counter[P]

    @classmethod
    def of(cls, due: Counter[P], ended: Counter[P], possible: Counter[P] | None = None) -> Balance[P]:
        """Compares. ``possible`` is not due, and may come to an end all the same."""
        lost = due - ended
        surplus = ended - due
        return cls(lost, surplus if possible is None else surplus - possible)
