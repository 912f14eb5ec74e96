"""The contract of serializers, as tests: one class of a few lines runs all of them.

::

    from promenade_bus_testing.serializer_contract import SerializerContract

    class TestMySerializer(SerializerContract):
        def serializer(self) -> Serializer:
            return MySerializer()
"""

from __future__ import annotations

import enum
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import attrs
import pytest

from bus_core import (
    BaseEvent,
    DeserializationError,
    Event,
    FrozenMapping,
    Personal,
    SerializationError,
    Serializer,
    event,
    upcaster,
)

__all__ = ["SerializerContract"]

TOPIC = {"topic": "contract.event.encoded", "source": "contract"}
AGGREGATE = UUID("01900000-0000-7000-8000-000000000001")


class Colour(enum.Enum):
    """Travels as its value."""

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Line:
    """A nested class."""

    sku: str
    price: Decimal
    note: Personal[str] | None = None


@event(type="contract.everything")
class Everything(Event):
    """Has a field of each kind."""

    text: str = "é\N{SNOWMAN}\n\x00"
    flag: bool = True
    number: int = -(2**53)
    ratio: float = 0.1
    uid: UUID = AGGREGATE
    at: datetime = datetime(2024, 5, 1, 12, 0, 0, 7, tzinfo=UTC)
    day: date = date(2024, 5, 1)
    hour: time = time(12, 30)
    span: timedelta = timedelta(days=-1, microseconds=3)
    amount: Decimal = Decimal("-1.50")
    raw: bytes = b"\x00\xff"
    colour: Colour = Colour.BLUE
    choice: Literal["a", 1] = 1
    line: Line = Line("a-1", Decimal("2.50"), "fragile")
    lines: tuple[Line, ...] = (Line("b-2", Decimal(1)), Line("c-3", Decimal(0), "x"))
    pair: tuple[int, str] = (1, "one")
    tags: frozenset[str] = frozenset({"x", "y"})
    scores: Mapping[str, int] = attrs.field(factory=lambda: FrozenMapping({"a": 1, "": 2}))
    ranks: Mapping[int, str] = attrs.field(factory=lambda: FrozenMapping({1: "one"}))
    either: int | str | None = "both"
    nothing: str | None = None
    anything: Any = ("x", FrozenMapping({"y": (1, None, 0.5)}))
    names: Personal[Sequence[str]] = ("Ada",)


@event(type="contract.everything", version=2)
class Newer(Event):
    """The next version of everything, which has other fields."""

    title: str


@upcaster(Newer, from_version=1)
def _from_everything(data: dict[str, Any]) -> dict[str, Any]:
    return {"title": data["text"]}


@event
class Numbered(Event[int]):
    """Has ids that are numbers."""


@event
class Named(Event[str]):
    """Has ids that are texts."""


@event(type="contract.untitled")
class Untitled(Event):
    """Older code of ``Titled``."""

    title: int = 0


@event(type="contract.untitled", version=3)
class Titled(Event):
    """Newer code of ``Untitled``, which that cannot read."""

    title: str = ""


def _types_in(made: Any) -> list[type[Any]]:
    return [type(getattr(made, field.name)) for field in attrs.fields(type(made))]


class SerializerContract(ABC):
    """Derive from it, and return a new serializer from ``serializer``."""

    @abstractmethod
    def serializer(self) -> Serializer:
        """Returns a serializer with the default options."""

    def encoded(self, made: Event[Any]) -> bytes:
        """Returns the bytes of an event, by a serializer of its own."""
        return self.serializer().encode(made, **TOPIC)

    @pytest.mark.parametrize(
        "made",
        [
            Everything(aggregate_id=AGGREGATE, metadata={"trace": "é"}),
            Everything(aggregate_id=AGGREGATE, either=1, anything=None, lines=(), tags=frozenset()),
            Numbered(aggregate_id=-7),
            Named(aggregate_id='order "9"'),
            BaseEvent("contract.loose", "some text", data={"list": [1, {"a": None}], "text": "é"}),
        ],
        ids=lambda made: type(made).__name__,
    )
    def test_an_event_comes_back_as_it_was(self, made: Event[Any]) -> None:
        """Every value returns with its type, also from another instance, and the bytes are stable."""
        body = self.encoded(made)
        assert type(body) is bytes
        read = self.serializer().decode(body, event_class=type(made))
        assert type(read) is type(made)
        assert read == made
        assert _types_in(read) == _types_in(made)
        assert self.encoded(read) == body

    def test_an_old_event_passes_the_upcasters(self) -> None:
        """Data of an older version becomes an event of the class of today."""
        body = self.encoded(Everything(aggregate_id=AGGREGATE, text="old"))
        read = self.serializer().decode(body, event_class=Newer)
        assert (read.title, read.aggregate_id) == ("old", AGGREGATE)  # type: ignore[attr-defined]

    def test_a_version_that_does_not_fit_is_named(self) -> None:
        """The error of bytes of another version knows it, so that the event waits for other code."""
        body = self.encoded(Titled(aggregate_id=AGGREGATE, title="x"))
        with pytest.raises(DeserializationError) as caught:
            self.serializer().decode(body, event_class=Untitled)
        assert caught.value.other_version == 3

    def test_another_type_is_refused(self) -> None:
        """Bytes of another type of event are no event of the class."""
        body = self.encoded(Named(aggregate_id="x"))
        with pytest.raises(DeserializationError):
            self.serializer().decode(body, event_class=Untitled)

    def test_no_bytes_raise_anything_else(self) -> None:
        """Cut, changed and random bytes raise only DeserializationError, and quote no personal value."""
        serializer, rng = self.serializer(), random.Random(7)
        body = self.encoded(Everything(aggregate_id=AGGREGATE, names=("Ada Lovelace",)))
        hostile = [b"", b"\x00", b"{", b"[" * 5000, b"\xff" * 64, body + b"\x00", body * 2]
        hostile += [body[:cut] for cut in range(0, len(body), max(1, len(body) // 60))]
        for _ in range(150):
            changed = bytearray(body)
            for _ in range(rng.randint(1, 4)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            hostile.append(bytes(changed))
        told: list[str] = []
        for each in hostile:
            for cls in (Everything, BaseEvent):
                try:
                    serializer.decode(each, event_class=cls)
                except DeserializationError as error:
                    told.append(f"{error} {error.__cause__}")
        assert len(told) > len(hostile) // 2
        assert "Lovelace" not in "".join(told)

    def test_what_cannot_be_encoded_says_so(self) -> None:
        """An event that is too large raises SerializationError with the name of its class."""
        with pytest.raises(SerializationError, match="Named"):
            self.encoded(Named(aggregate_id="x" * (1 << 21)))
