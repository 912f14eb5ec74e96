"""Events that were read are made without a second look at their values, where no class has a say in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import attrs
import pytest

from bus_core import BaseEvent, Constraint, Event, FrozenMapping, JsonForm, event
from bus_core.events import NO_METADATA, assembler_of

USER = UUID(int=1)
BASE = (USER, UUID(int=2), datetime(2024, 5, 1, tzinfo=UTC), NO_METADATA)


@attrs.frozen
class Line:
    """A nested class that holds what it is given."""

    sku: str
    count: int = 1


@event
class OrderPlaced(Event):
    """Fields of every kind that a reader makes by itself."""

    number: Annotated[str, Constraint("not empty", bool)]
    lines: tuple[Line, ...]
    notes: Mapping[str, Any]
    _hidden: int = 0


def test_an_assembled_event_is_like_one_that_was_made() -> None:
    """It equals the event of the constructor, and refuses changes."""
    assemble = assembler_of(OrderPlaced)
    assert assemble is not None
    notes = FrozenMapping({"a": (1, None)})
    assembled: Any = assemble(*BASE, "A-1", (Line("x"),), notes, 7)
    given: Any = {"number": "A-1", "lines": [Line("x")], "notes": notes, "hidden": 7}
    made = OrderPlaced(aggregate_id=USER, event_id=BASE[1], occurred_at=BASE[2], **given)
    assert assembled == made
    assert (type(assembled), repr(assembled), hash(assembled)) == (OrderPlaced, repr(made), hash(made))
    with pytest.raises(AttributeError):
        assembled.number = "B"


def test_an_event_without_a_class_is_assembled_of_type_and_data() -> None:
    """Its own fields come in the order of its constructor."""
    assemble = assembler_of(BaseEvent)
    assert assemble is not None
    data = FrozenMapping({"plan": "free"})
    assembled: Any = assemble(*BASE, "plan.changed", data)
    assert assembled == BaseEvent("plan.changed", USER, data=data, event_id=BASE[1], occurred_at=BASE[2])


class Text(str):
    """A class derived from ``str`` decides about its text."""

    __slots__ = ()


@attrs.frozen
class Converted:
    """A nested class that changes what it is given."""

    size: int = attrs.field(converter=abs)


@attrs.frozen
class Positive:
    """A nested class with a step of its own."""

    size: int

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "size", abs(self.size))


@dataclass(frozen=True)
class PositiveToo:
    """The same as a dataclass."""

    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", abs(self.size))


@attrs.frozen
class Choosing:
    """A nested class that decides which object it is."""

    size: int

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return super().__new__(cls)


@pytest.mark.parametrize(
    "hint",
    [
        Text,
        Converted,
        Positive,
        PositiveToo,
        Choosing,
        tuple[Converted, ...],
        Converted | None,
        Annotated[complex, JsonForm(str, write=str, read=complex)],
    ],
    ids=str,
)
def test_classes_that_have_a_say_in_a_value_are_asked(hint: Any) -> None:
    """An event with such a field is made by its constructor, which looks at the value."""
    cls: Any = type("Other", (Event,), {"__annotations__": {"field": hint}, "__module__": __name__})
    assert assembler_of(event(cls)) is None


def with_converter() -> type[Event]:
    @event
    class Sized(Event):
        size: int = attrs.field(converter=int)

    return Sized


def with_validator() -> type[Event]:
    @event
    class Validated(Event):
        size: int = attrs.field(validator=attrs.validators.ge(0))

    return Validated


def with_a_step() -> type[Event]:
    @event
    class Stepping(Event):
        size: int

        def __attrs_post_init__(self) -> None:
            pass

    return Stepping


def with_a_step_before() -> type[Event]:
    @event
    class Stepping(Event):
        size: int

        def __attrs_pre_init__(self) -> None:
            pass

    return Stepping


def undecorated() -> type[Event]:
    class Derived(OrderPlaced):
        pass

    return Derived


@pytest.mark.parametrize(
    "make", [with_converter, with_validator, with_a_step, with_a_step_before, undecorated]
)
def test_classes_of_events_that_have_a_say_are_asked(make: Callable[[], type[Event]]) -> None:
    """Hooks of a class also run for an event that was decoded."""
    assert assembler_of(make()) is None
