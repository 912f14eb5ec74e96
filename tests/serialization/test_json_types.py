"""Field types: what has a JSON form, comes back as it was, and is read strictly."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_core import Constraint, Event, FrozenMapping, JsonForm, Personal, event
from bus_core.errors import DeserializationError, InvalidEvent, SerializationError
from bus_core.events.values import write_timedelta
from bus_core.serialization.cloudevents import JsonSerializer
from bus_core.serialization.json_values import read_timedelta

UserId = NewType("UserId", UUID)
CountryCode = Annotated[
    str, Constraint("two capital letters", lambda value: len(value) == 2 and value.isupper())
]


class Tier(enum.Enum):
    FREE = "free"
    PAID = "paid"


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@attrs.frozen
class Money:
    """An amount in minor units."""

    minor: int
    currency: str = "EUR"


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


@attrs.frozen
class Node:
    name: str
    children: tuple[Node, ...] = ()


@event
class EverythingHappened(Event):
    text: str
    flag: bool
    whole: int
    number: float
    user: UserId
    at: datetime
    day: date
    clock: time
    took: timedelta
    amount: Decimal
    raw: bytes
    tier: Tier
    colour: Colour
    level: Level
    rights: Rights
    country: CountryCode
    name: Personal[str | None]
    choice: Literal["a", 1, True, None]
    several: int | str | tuple[int, ...] | None
    when_or_count: datetime | float
    tags: tuple[str, ...]
    pair: tuple[int, UUID]
    empty: tuple[()]
    listed: Sequence[Decimal]
    sequence: Sequence[date]
    ids: frozenset[UUID]
    words: AbstractSet[str]
    prices: Mapping[str, Money]
    by_day: Mapping[date, int]
    by_number: Mapping[int, str]
    by_tier: Mapping[Tier, tuple[Money, ...]]
    money: Money
    point: Point | None
    tree: Node
    anything: Any


def no_subminute(made: datetime) -> bool:
    return made.year not in (1, 9999)


ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(timezones=ZONES).filter(no_subminute)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
MONEY = st.builds(Money, st.integers(), st.sampled_from(["EUR", "JPY"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NODES = st.recursive(
    st.builds(Node, st.text()), lambda inner: st.builds(Node, st.text(), st.tuples(inner, inner))
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(),
    "flag": st.booleans(),
    "whole": st.integers(),
    "number": FLOATS,
    "user": st.uuids(),
    "at": TIMES,
    "day": st.dates(),
    "clock": st.times(),
    "took": st.timedeltas(),
    "amount": DECIMALS,
    "raw": st.binary(),
    "tier": st.sampled_from(Tier),
    "colour": st.sampled_from(Colour),
    "level": st.sampled_from(Level),
    "rights": st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE]),
    "country": st.sampled_from(["FR", "DE"]),
    "name": st.none() | st.text(),
    "choice": st.sampled_from(["a", 1, True, None]),
    "several": st.none() | st.integers() | st.text() | st.lists(st.integers(), max_size=3).map(tuple),
    "when_or_count": TIMES | FLOATS,
    "tags": st.lists(st.text(), max_size=3).map(tuple),
    "pair": st.tuples(st.integers(), st.uuids()),
    "empty": st.just(()),
    "listed": st.lists(DECIMALS, max_size=3),
    "sequence": st.lists(st.dates(), max_size=3).map(tuple),
    "ids": st.frozensets(st.uuids(), max_size=3),
    "words": st.frozensets(st.text(), max_size=3),
    "prices": st.dictionaries(st.text(), MONEY, max_size=3),
    "by_day": st.dictionaries(st.dates(), st.integers(), max_size=3),
    "by_number": st.dictionaries(st.integers(), st.text(), max_size=3),
    "by_tier": st.dictionaries(st.sampled_from(Tier), st.lists(MONEY, max_size=2).map(tuple), max_size=2),
    "money": MONEY,
    "point": st.none() | st.builds(Point, FLOATS, FLOATS),
    "tree": NODES,
    "anything": ANYTHING,
}
EVENTS = st.builds(
    EverythingHappened,
    aggregate_id=st.uuids(),
    event_id=st.uuids(),
    occurred_at=TIMES,
    metadata=st.dictionaries(st.text(), st.text(), max_size=3),
    **FIELDS,
)
JSON = JsonSerializer()


def encode(made: Event) -> bytes:
    return JSON.encode(made, topic="a.b.c", source="tests")


def only(annotation: Any) -> type[Event]:
    """A class of events with one field of a type."""
    return event(type("Only", (Event,), {"__annotations__": {"value": annotation}, "__module__": __name__}))


def through(annotation: Any, value: Any) -> Any:
    """A value, written and read again."""
    cls: Any = only(annotation)
    read: Any = JSON.decode(encode(cls(aggregate_id=UUID(int=1), value=value)), event_class=cls)
    return read.value


def read_as(annotation: Any, value: Any) -> Any:
    """A JSON value, read as a type."""
    cls: Any = only(annotation)
    body = {
        "specversion": "1.0",
        "id": str(UUID(int=2)),
        "source": "x",
        "type": "only",
        "subject": str(UUID(int=1)),
    }
    read: Any = JSON.decode(json.dumps(body | {"data": {"value": value}}).encode(), event_class=cls)
    return read.value


# --- round trips ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(EVENTS)
def test_every_field_type_comes_back_as_it_was(made: EverythingHappened) -> None:
    """An event with a field of every known type is equal after writing and reading, types included."""
    read = JSON.decode(encode(made), event_class=EverythingHappened)
    assert read == made
    assert encode(read) == encode(made)
    for name in FIELDS:
        value, original = getattr(read, name), getattr(made, name)
        if not isinstance(original, Mapping):
            assert type(value) is type(original), name


@settings(deadline=None, max_examples=150)
@given(EVENTS)
def test_a_dict_is_what_travels(made: EverythingHappened) -> None:
    """``to_dict`` has the values of the document as plain data, which JSON takes as it is."""
    document = json.loads(encode(made))
    told = made.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told.pop("data") == document["data"]
    assert told == {
        "event_id": document["id"],
        "type": document["type"],
        "version": document["dataversion"],
        "aggregate_id": document["subject"],
        "occurred_at": document["time"],
        "metadata": json.loads(document.get("metadata", "{}")),
    }


@settings(deadline=None)
@given(st.timedeltas())
def test_durations_are_exact(duration: timedelta) -> None:
    """A duration keeps its microseconds and its sign."""
    assert read_timedelta(write_timedelta(duration)) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "NULL\x00NUL",
        "\u202eright to left\u202c",
        "\ufeffBOM",
        "\u2028line\u2029paragraph",
        "Z\u0351\u036b\u0343\u036a\u0302",
        "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}",
        "'; DROP TABLE events; --",
        "<script>alert(1)</script>",
        '${HOME} {0} %s %n \\ " / \b\f\n\r\t',
        "\U0010ffff\ufffe\uffff",
        "\uff11\uff12 \u0664\u0665",
        "true",
        "1E+02",
    ],
)
def test_naughty_strings_come_back_as_they_were(text: str) -> None:
    """Texts that break careless software are texts like any other, as values, keys and metadata."""
    assert through(str, text) == text
    assert through(Mapping[str, str], {text: text}) == {text: text}


def test_an_offset_with_seconds_is_written_in_utc() -> None:
    """RFC 3339 has no offsets with seconds, as historical local times have: the instant is kept."""
    local = datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=9, seconds=21)))
    assert through(datetime, local) == local
    assert b"1899-12-31T23:50:39Z" in encode(only(datetime)(aggregate_id=UUID(int=1), value=local))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("annotation", "given", "kept"),
    [
        (Mapping[str, int], {"a": 1}, FrozenMapping({"a": 1})),
        (Sequence[str], ["a"], ("a",)),
        (tuple[str, ...], ["a"], ("a",)),
        (tuple[int, Sequence[int]], [1, [2]], (1, (2,))),
        (AbstractSet[str], {"a"}, frozenset("a")),
        (Mapping[str, Sequence[int]], {"a": [1]}, FrozenMapping({"a": (1,)})),
        (Any, {"a": [{}]}, FrozenMapping({"a": (FrozenMapping(),)})),
        (float, 1, 1.0),
    ],
)
def test_an_event_keeps_what_arrives_elsewhere(annotation: Any, given: Any, kept: Any) -> None:
    """A value is brought into its one form when the event is made, and is read in that form."""
    cls: Any = only(annotation)
    for value in (cls(aggregate_id=UUID(int=1), value=given).value, through(annotation, given)):
        assert value == kept
        assert typed(value) == typed(kept)


def typed(value: Any) -> Any:
    """The classes of a value and of what it holds."""
    if isinstance(value, Mapping):
        return type(value), [typed(item) for item in value.values()]
    return (type(value), [typed(item) for item in value]) if isinstance(value, tuple) else type(value)


def test_sets_are_written_in_order() -> None:
    """The same set gives the same bytes in every process."""
    made: Any = only(frozenset[str])
    body = encode(made(aggregate_id=UUID(int=1), value=frozenset("cab")))
    assert json.loads(body)["data"] == {"value": ["a", "b", "c"]}


# --- reading strictly -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (int, "1", "must be an int"),
        (int, 1.0, "must be an int"),
        (int, True, "must be an int"),
        (float, "1.0", "must be a number"),
        (float, False, "must be a number"),
        (float, 10**400, "must be a number in the range of a float"),
        (bool, 1, "must be a bool"),
        (str, 1, "must be a str"),
        (UUID, UUID(int=1).hex, "must be a UUID"),
        (datetime, "2024-05-01", "must be an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z"),
        (
            datetime,
            "2024-W18-3T00:00:00Z",
            "must be an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z",
        ),
        (datetime, "2024-05-01T12:00:60Z", "must be a time that exists"),
        (date, "20240501", "must be a date, such as 2024-05-01"),
        (date, "2023-02-29", "must be a date that exists"),
        (time, "25:00", "must be a time of day, such as 12:00:00"),
        (time, "12:61", "must be a time of day that exists"),
        (
            timedelta,
            5,
            "must be an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as P1DT2H",
        ),
        (
            timedelta,
            "P",
            "must be an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as P1DT2H",
        ),
        (
            timedelta,
            "P1Y",
            "must be an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as P1DT2H",
        ),
        (timedelta, "P999999999DT999999999H", "must be a duration of less than a thousand million days"),
        (Decimal, 1.5, "must be a decimal number as text"),
        (Decimal, "NaN", "must be a decimal number as text"),
        (Decimal, "1_000", "must be a decimal number as text"),
        (Decimal, "1e99999", "must be a finite Decimal with an exponent of at most 6144"),
        (bytes, "not base64", "must be base64 text"),
        (bytes, "AAA", "must be base64 text"),
        (bytes, "é", "must be base64 text"),
        (Tier, "gold", "must be one of the values of Tier"),
        (Level, True, "must be one of the values of Level"),
        (Level, 1.0, "must be one of the values of Level"),
        (Colour, "blue", "must be one of the values of Colour"),
        (Rights, 8, "must be one of the values of Rights"),
        (Rights, -1, "must be one of the values of Rights"),
        (Literal["a", 1], True, "must be one of 'a', 1"),
        (Literal["a", 1], [], "must be one of 'a', 1"),
        (str | None, 1, "must be null or a str"),
        (int | str, None, "must be an int or a str"),
        (tuple[int, ...], "12", "must be an array"),
        (tuple[int, ...], {"1": 2}, "must be an array"),
        (tuple[int, int], [1], "must be an array of 2"),
        (Sequence[int], [1, "2"], "value[1] must be an int"),
        (Sequence[Sequence[int]], [[], [1, None]], "value[1][1] must be an int"),
        (frozenset[str], "abc", "must be an array"),
        (Mapping[str, int], [], "must be an object"),
        (Mapping[str, int], {"ada": "x"}, "value[...] must be an int"),
        (Mapping[UUID, int], {"ada": 1}, "value (a key of it) must be a UUID"),
        (Mapping[int, int], {"01": 1}, "value (a key of it) must be an int as text"),
        (Mapping[int, int], {"x": 1}, "value (a key of it) must be an int as text"),
        (Money, "EUR", "must be an object"),
        (Money, {"minor": "1", "currency": 2}, "value.minor must be an int; value.currency must be a str"),
        (Money, {}, "value.minor is missing"),
        (tuple[Money, ...], [{"minor": 1}, {}], "value[1].minor is missing"),
        (CountryCode, "xx", "must be two capital letters"),
    ],
)
def test_a_value_of_another_type_is_refused(annotation: Any, value: Any, words: str) -> None:
    """Nothing is coerced or cut, and the message names the place and what is wanted, not the value."""
    with pytest.raises(DeserializationError) as caught:
        read_as(annotation, value)
    expected = words if words.startswith("value") else f"value {words}"
    assert str(caught.value) == f"not a valid Only: {expected}"


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 1, 1.0),
        (float | int, 1, 1),
        (Literal["a"] | str, "b", "b"),
        (timedelta, "-P1W2DT3H4M5.5S", -timedelta(days=9, hours=3, minutes=4, seconds=5.5)),
        (Decimal, "-1.50E+3", Decimal("-1.50E+3")),
        (time, "12:00:00Z", time(12, tzinfo=UTC)),
        (Money, {"minor": 1, "unknown": 2}, Money(1)),
        (UUID, str(UUID(int=10)).upper(), UUID(int=10)),
    ],
)
def test_other_spellings_are_read(annotation: Any, value: Any, expected: Any) -> None:
    """Other spellings of a value are read as that value."""
    read = read_as(annotation, value)
    assert (read, type(read)) == (expected, type(expected))


# --- limits, and forms of other types ---------------------------------------------------------------------

Path = Annotated[PurePosixPath, JsonForm(str, write=str, read=PurePosixPath)]


def test_a_field_says_how_values_of_a_foreign_class_travel() -> None:
    """A ``JsonForm`` makes a foreign class a field type, also inside of others, and is checked both ways."""
    cls: Any = only(tuple[Path | None, ...])
    made = cls(aggregate_id=UUID(int=1), value=[PurePosixPath("a/b"), None])
    body = encode(made)
    assert json.loads(body)["data"] == {"value": ["a/b", None]}
    assert JSON.decode(body, event_class=cls) == made
    with pytest.raises(InvalidEvent, match=r"value\[0\] must be a PurePosixPath or None"):
        cls(aggregate_id=UUID(int=1), value=["a/b"])
    with pytest.raises(DeserializationError, match=r"value\[0\] must be null or a PurePosixPath"):
        JSON.decode(body.replace(b'"a/b"', b"7"), event_class=cls)


def test_a_form_that_fails_is_told_when_the_event_is_made() -> None:
    """A value that the form cannot write is refused like any other bad value."""
    cls: Any = only(Annotated[PurePosixPath, JsonForm(int, write=str, read=PurePosixPath)])
    with pytest.raises(InvalidEvent, match="value must be a PurePosixPath that can be written in JSON"):
        cls(aggregate_id=UUID(int=1), value=PurePosixPath("a"))


def test_an_int_that_no_reader_would_take_is_refused() -> None:
    """The bound on digits holds for writing too, and names the field."""
    for annotation in (int, int | None, Any):
        cls: Any = only(annotation)
        with pytest.raises(SerializationError, match="value must be an int of less than 1000 digits"):
            encode(cls(aggregate_id=UUID(int=1), value=10**1000))
    assert through(int, -(10**998)) == -(10**998)
