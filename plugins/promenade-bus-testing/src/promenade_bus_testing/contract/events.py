"""The events and topics of the contract tests."""

from __future__ import annotations

from uuid import UUID, uuid4

from bus_core import Event, Topic, event

__all__ = ["OTHER", "THING", "Happened", "NewHappened", "happened"]


@event(type="contract.happened")
class Happened(Event):
    """An event of a contract test, with a number and any text."""

    number: int = 0
    text: str = ""


@event(type="contract.happened", version=2)
class NewHappened(Event):
    """The same event in newer code: the number is a text, which the old class cannot decode."""

    number: str


THING = Topic("contract.thing.happened", Happened)
OTHER = Topic("contract.other.happened", Happened)


def happened(number: int = 0, key: UUID | None = None, text: str = "") -> Happened:
    """Makes an event with a number and, by default, its own aggregate id."""
    return Happened(aggregate_id=key or uuid4(), number=number, text=text)
