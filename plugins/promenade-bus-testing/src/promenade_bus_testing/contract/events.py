"""What the contract tests publish, and where."""

from __future__ import annotations

from uuid import UUID, uuid4

from bus_core import Event, Topic, event

__all__ = ["OTHER", "THING", "Happened", "NewHappened", "happened"]


@event(type="contract.happened")
class Happened(Event):
    """Something happened; ``number`` tells which, ``text`` is whatever a test wants to carry."""

    number: int = 0
    text: str = ""


@event(type="contract.happened", version=2)
class NewHappened(Event):
    """The same as newer code has it: a number is a text, which the old class cannot read."""

    number: str


THING = Topic("contract.thing.happened", Happened)
OTHER = Topic("contract.other.happened", Happened)


def happened(number: int = 0, key: UUID | None = None, text: str = "") -> Happened:
    """An event with a number, of an aggregate of its own unless told otherwise."""
    return Happened(aggregate_id=key or uuid4(), number=number, text=text)
