"""Compares due deliveries with outcomes, for each pair of a subscription and an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

__all__ = ["Balance"]

P = TypeVar("P", bound=Hashable)


@attrs.frozen
class Balance(Generic[P]):
    """The difference between due deliveries and outcomes.

    ``lost`` deliveries are due and have no outcome; ``surplus`` counts outcomes beyond the due ones. An event
    has an outcome when it was handled, skipped, or is stored as a dead letter.
    """

    lost: Counter[P]
    surplus: Counter[P]

    @classmethod
    def of(cls, due: Counter[P], ended: Counter[P], possible: Counter[P] | None = None) -> Balance[P]:
        """Compares both. ``possible`` deliveries are not due, but may have an outcome."""
        lost = due - ended
        surplus = ended - due
        return cls(lost, surplus if possible is None else surplus - possible)
