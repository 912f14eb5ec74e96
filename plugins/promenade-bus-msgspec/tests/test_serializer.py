"""The serializer on msgspec means what the built-in one does: same bytes, same events, same refusals."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_core import BaseEvent, Constraint, Event, FrozenMapping, Personal, Topic, event, open_bus
from bus_core.errors import ConfigError, DeserializationError, SerializationError
from bus_core.serialization.cloudevents import JsonOptions, JsonSerializer
from promenade_bus_msgspec.plans import Plan, plan_of
from promenade_bus_msgspec.serializer import MsgspecSerializer

UserId = NewType("UserId", UUID)
Short = Annotated[str, Constraint("at most 20 characters", lambda text: len(text) <= 20)]
ADDRESS = {"topic": "shop.order.placed", "source": "shop"}
AGGREGATE = UUID(int=1)


class Colour(enum.Enum):
    """Written by its values."""

    RED = "red"
    BLUE = "blue"


class Size(enum.StrEnum):
    """Texts themselves."""

    LARGE = "L"


@attrs.frozen
class Line:
    """A record with a default."""

    sku: str
    price: float
    quantity: int = 1


@attrs.frozen(kw_only=True)
class Parcel:
    """A record of records, made by keywords, with what runs when it is made."""

    lines: tuple[Line, ...]
    weight: int = attrs.field(converter=int, validator=attrs.validators.ge(0))
    note: Personal[str] | None = None


@dataclass(frozen=True)
class Point:
    """A dataclass."""

    x: float
    y: float


@event
class Fast(Event):
    """Every shape that msgspec takes care of."""

    text: str
    number: int
    ratio: float
    flag: bool
    user: UserId
    at: datetime
    amount: Decimal
    maybe_at: datetime | None
    maybe: int | None
    kind: Literal["a", "b"]
    colour: Colour
    size: Size
    short: Short
    email: Personal[str]
    tags: tuple[str, ...]
    parcels: tuple[Parcel, ...]
    where: Point | None
    places: Mapping[str, Point]
    matrix: Sequence[Sequence[int]]
    _hidden: str


@event
class Empty(Event):
    """No field of its own."""


@event
class Plain(Event):
    """A few fields."""

    text: str
    number: int = 0


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
whole = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(timezones=st.just(UTC))
lines = st.builds(Line, sku=texts, price=floats, quantity=whole)
parcels = st.builds(
    Parcel, lines=st.lists(lines, max_size=3), weight=st.integers(0, 100), note=st.none() | texts
)
points = st.builds(Point, floats, floats)
fast_events = st.builds(
    Fast,
    aggregate_id=st.uuids(),
    event_id=st.uuids(),
    occurred_at=moments,
    metadata=st.dictionaries(texts, texts, max_size=2),
    text=texts,
    number=whole,
    ratio=floats,
    flag=st.booleans(),
    user=st.uuids(),
    at=moments,
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    maybe_at=st.none() | moments,
    maybe=st.none() | whole,
    kind=st.sampled_from(["a", "b"]),
    colour=st.sampled_from(Colour),
    size=st.just(Size.LARGE),
    short=texts,
    email=texts,
    tags=st.lists(texts, max_size=3).map(tuple),
    parcels=st.lists(parcels, max_size=2).map(tuple),
    where=st.none() | points,
    places=st.dictionaries(texts, points, max_size=2),
    matrix=st.lists(st.lists(whole, max_size=2), max_size=2),
    hidden=texts,
)


def plan_for(cls: type[Any]) -> Plan:
    plan = plan_of(cls)
    assert plan is not None
    return plan


@settings(deadline=None)
@given(fast_events)
def test_both_write_the_same_document_and_each_reads_the_other(given_event: Fast) -> None:
    """Documents are equal in meaning, and come back as the event that was written, by either of the two."""
    fast, default = MsgspecSerializer(), JsonSerializer()
    assert plan_for(Fast).write(given_event, "a.b.c", "shop") is not None
    ours = fast.encode(given_event, **ADDRESS)
    theirs = default.encode(given_event, **ADDRESS)
    assert json.loads(ours) == json.loads(theirs)
    assert [*json.loads(ours)] == [*json.loads(theirs)]
    for body in (ours, theirs):
        assert fast.decode(body, event_class=Fast) == given_event
        assert default.decode(body, event_class=Fast) == given_event


@pytest.mark.parametrize(
    "given_event",
    [
        Empty(aggregate_id=AGGREGATE),
        Plain(aggregate_id=AGGREGATE, text='quotes " and \\ and \x00\x1f\x7f and é and \u2028', number=-5),
        Plain(aggregate_id=AGGREGATE, text="", metadata={"trace": "01", "é": '"'}),
        Plain(aggregate_id=AGGREGATE, text="x", occurred_at=datetime(1, 1, 1, tzinfo=UTC)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_usual_documents_are_the_same_bytes_and_are_read_by_msgspec(given_event: Event) -> None:
    """The built-in serializer writes the bytes that msgspec would write; they are read directly."""
    cls = type(given_event)
    body = JsonSerializer().encode(given_event, **ADDRESS)
    assert plan_for(cls).write(given_event, ADDRESS["topic"], ADDRESS["source"]) == body
    assert plan_for(cls).read(body) == given_event


def test_the_bus_of_a_configuration_uses_it() -> None:
    """``serializer: msgspec`` selects it, and takes the options of ``json``."""
    open_bus({"bus": {"adapter": "memory", "serializer": {"msgspec": {"max_bytes": 4096}}}})
    with pytest.raises(ConfigError, match="max_bytes"):
        open_bus({"bus": {"adapter": "memory", "serializer": {"msgspec": {"max_bytes": 1}}}})


async def test_events_travel_through_a_bus() -> None:
    """Published events arrive unchanged."""
    topic = Topic("shop.thing.made", Plain)
    arrived: list[Plain] = []
    config = {"adapter": "memory", "serializer": "msgspec", "memory": {"serialize": True}}
    async with open_bus({"bus": config}) as bus:

        @bus.subscribe(topic)
        async def note(got: Plain) -> None:
            arrived.append(got)

        sent = Plain(aggregate_id=AGGREGATE, text="x", metadata={"a": "b"})
        await bus.publish(topic, sent)
        await bus.drain()
    assert arrived == [sent]
    assert type(arrived[0].metadata) is FrozenMapping


# --- what the built-in serializer has to do ---------------------------------------------------------------


class Text(str):
    """A class of texts, which msgspec does not make."""

    __slots__ = ()


@attrs.frozen
class Node:
    """A class inside itself."""

    text: str
    next: Node | None = None


@pytest.mark.parametrize(
    "hint",
    [
        Any,
        frozenset[str],
        Text,
        Node,
        Colour | Line,
        tuple[datetime, ...],
        Mapping[int, str],
        int | str,
        timedelta,
    ],
    ids=str,
)
def test_other_types_go_the_way_of_the_built_in_serializer(hint: Any) -> None:
    """A class with one field of another type is left to it as a whole."""
    cls = event(type("Other", (Event,), {"__annotations__": {"field": hint}, "__module__": __name__}))
    assert not MsgspecSerializer().is_fast(cls)


def test_a_typed_event_is_read_without_its_class() -> None:
    """A ``BaseEvent`` is written and read as ever, also when a typed event is read as one."""
    fast = MsgspecSerializer()
    untyped = BaseEvent("thing.made", AGGREGATE, data={"a": [1, None]})
    assert fast.decode(fast.encode(untyped, **ADDRESS), event_class=BaseEvent) == untyped
    typed = fast.encode(Plain(aggregate_id=AGGREGATE, text="x"), **ADDRESS)
    assert fast.decode(typed, event_class=BaseEvent).type == "plain"


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(texts, JSON_VALUES, max_size=4), st.uuids() | texts.filter(bool), st.integers(4, 8))
def test_events_without_a_class_mean_the_same_to_both(data: Any, given_id: Any, max_depth: int) -> None:
    """Whatever their data is, one reads what the other writes, or both refuse it in the same words."""
    made = BaseEvent("thing.made", given_id, data=data, metadata={"trace": "1"})
    limits = JsonOptions(max_depth=max_depth)
    outcomes: list[Any] = []
    for writer in (MsgspecSerializer(limits), JsonSerializer(limits)):
        for reader in (MsgspecSerializer(limits), JsonSerializer(limits)):
            try:
                read = reader.decode(writer.encode(made, **ADDRESS), event_class=BaseEvent)
            except SerializationError as error:
                outcomes.append(str(error))
            else:
                assert read == made
                assert type(read.data) is FrozenMapping  # type: ignore[attr-defined]
                outcomes.append("read")
    assert len({*outcomes}) == 1


UNTYPED = JsonSerializer().encode(BaseEvent("thing.made", AGGREGATE, data={"a": [1, None]}), **ADDRESS)


@pytest.mark.parametrize(
    "body",
    [
        UNTYPED.replace(b'"a":[', b'"a":1,"a":['),
        UNTYPED.replace(b"thing.made", b"thing made"),
        UNTYPED.replace(b"1,null", b"9" * 1001),
        UNTYPED.replace(b"1,null", b"[" * 70 + b"]" * 70),
        UNTYPED.replace(b"1,null", b"NaN"),
        UNTYPED.replace(b'"data":{', b'"data":[{').replace(b"}}", b"}]}"),
        UNTYPED.replace(b'"source":"shop"', b'"source":""'),
    ],
    ids=range(7),
)
def test_hostile_bytes_without_a_class_are_refused_in_the_same_words(body: bytes) -> None:
    """Nothing gets in that the built-in serializer would not let in."""
    with pytest.raises(DeserializationError) as expected:
        JsonSerializer().decode(body, event_class=BaseEvent)
    with pytest.raises(DeserializationError) as refused:
        MsgspecSerializer().decode(body, event_class=BaseEvent)
    assert str(refused.value) == str(expected.value)


@event
class Careful(Event):
    """Types of which some values differ."""

    at: datetime | None = None
    amount: Decimal = Decimal(0)
    number: int = 0
    point: Point | None = None


@pytest.mark.parametrize(
    "fields",
    [
        {"at": datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2, seconds=7)))},
        {"at": datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=-3)))},
        {"number": 2**63},
        {"number": -(10**500)},
        {"amount": Decimal("1E+6000")},
    ],
    ids=str,
)
def test_unusual_values_mean_the_same(fields: dict[str, Any]) -> None:
    """Values that msgspec would write in another way are written as ever."""
    given_event = Careful(aggregate_id=AGGREGATE, **fields)
    fast, default = MsgspecSerializer(), JsonSerializer()
    body = fast.encode(given_event, **ADDRESS)
    assert json.loads(body) == json.loads(default.encode(given_event, **ADDRESS))
    assert fast.decode(body, event_class=Careful) == given_event


@pytest.mark.parametrize(
    "fields",
    [
        {"number": 10**1000},
        {"point": Point(1, 0), "number": -(10**1000)},
    ],
    ids=str,
)
def test_what_the_built_in_serializer_refuses_to_write_is_refused_in_its_words(
    fields: dict[str, Any],
) -> None:
    """Nothing gets out that it would not let out."""
    given_event = Careful(aggregate_id=AGGREGATE, **fields)
    with pytest.raises(SerializationError) as expected:
        JsonSerializer().encode(given_event, **ADDRESS)
    with pytest.raises(SerializationError) as refused:
        MsgspecSerializer().encode(given_event, **ADDRESS)
    assert str(refused.value) == str(expected.value)


DOCUMENT = JsonSerializer().encode(Plain(aggregate_id=AGGREGATE, text="x", number=1), **ADDRESS)


@pytest.mark.parametrize(
    "body",
    [
        DOCUMENT.replace(b'"number":1', b'"number":1,"number":2'),
        DOCUMENT.replace(b'"source":"shop"', b'"source":""'),
        DOCUMENT.replace(b'"source":"shop"', b'"source":"shop","source":"shop"'),
        DOCUMENT.replace(b"1.0", b"0.3"),
        DOCUMENT.replace(b'"type":"plain"', b'"type":"other"'),
        DOCUMENT.replace(b'"number":1', b'"number":1.0'),
        DOCUMENT.replace(b'"number":1', b'"number":true'),
        DOCUMENT.replace(b'"number":1', b'"number":' + b"9" * 1001),
        DOCUMENT.replace(b'"number":1', b'"number":1,"more":' + b"9" * 1001),
        DOCUMENT.replace(b'"number":1', b'"number":1,"more":' + b"[" * 70 + b"]" * 70),
        DOCUMENT.replace(b'"number":1', b'"number":1,"more":NaN'),
        DOCUMENT.replace(b'"text":"x"', b'"text":"\\ud800"'),
        DOCUMENT.replace(b'"text":"x"', b'"text":"\xff"'),
        DOCUMENT.replace(b'"data"', b'"metadata":"{\\"a\\":1}","data"'),
        DOCUMENT.replace(b'"data"', b'"metadata":"{\\"a\\":\\"1\\",\\"a\\":\\"2\\"}","data"'),
        DOCUMENT.replace(b"Z", b""),
        DOCUMENT[:-1],
        b"",
        b"null",
    ],
    ids=range(19),
)
def test_hostile_bytes_are_refused_in_the_words_of_the_built_in_serializer(body: bytes) -> None:
    """Nothing gets in that it would not let in."""
    with pytest.raises(DeserializationError) as expected:
        JsonSerializer().decode(body, event_class=Plain)
    with pytest.raises(DeserializationError) as refused:
        MsgspecSerializer().decode(body, event_class=Plain)
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(json.loads(DOCUMENT), indent=1).encode(),
        json.dumps(dict(reversed(json.loads(DOCUMENT).items()))).encode(),
        DOCUMENT.replace(b'"number":1', b'"number":1,"more":[1]').replace(
            b'"dataversion":1', b'"dataversion":2'
        ),
        DOCUMENT.replace(b'"topic":"shop.order.placed",', b""),
    ],
    ids=["spaces", "another order", "a newer version", "without our extensions"],
)
def test_documents_of_others_are_read(body: bytes) -> None:
    """Bytes unlike those of msgspec are read all the same."""
    assert plan_for_reading(body) is None
    got = MsgspecSerializer().decode(body, event_class=Plain)
    assert (got.text, got.number) == ("x", 1)  # type: ignore[attr-defined]


def plan_for_reading(body: bytes) -> Event | None:
    try:
        return plan_for(Plain).read(body)
    except msgspec.MsgspecError:
        return None


@settings(deadline=None)
@given(st.binary(max_size=3), st.integers(0, len(DOCUMENT)), st.integers(0, 4))
def test_damaged_documents_mean_what_they_mean_to_the_built_in_serializer(
    insert: bytes, place: int, lost: int
) -> None:
    """Whatever is done to a document, both read the same event from it, or both refuse it."""
    body = DOCUMENT[:place] + insert + DOCUMENT[place + lost :]

    def read(serializer: JsonSerializer | MsgspecSerializer) -> Event | str:
        try:
            got = serializer.decode(body, event_class=Plain)
        except DeserializationError as error:
            return str(error)
        # Without a time it is the time of reading.
        return got if b'"time":"' in body else attrs.evolve(got, occurred_at=datetime(2024, 1, 1, tzinfo=UTC))

    assert read(MsgspecSerializer()) == read(JsonSerializer())


@event
class Deep(Event):
    """Five levels, the document included."""

    rows: tuple[tuple[tuple[int, ...], ...], ...] = (((1,),),)


def test_a_class_that_nests_too_deeply_is_refused() -> None:
    """``max_depth`` holds for what a class says, too."""
    flat, deep = MsgspecSerializer(JsonOptions(max_depth=4)), MsgspecSerializer(JsonOptions(max_depth=5))
    made = Deep(aggregate_id=AGGREGATE)
    with pytest.raises(SerializationError, match="max_depth"):
        flat.encode(made, **ADDRESS)
    with pytest.raises(DeserializationError, match="max_depth"):
        flat.decode(deep.encode(made, **ADDRESS), event_class=Deep)
    assert deep.is_fast(Deep)
    assert deep.decode(deep.encode(made, **ADDRESS), event_class=Deep) == made


def test_limits_hold_in_both_directions() -> None:
    """Documents beyond ``max_bytes`` are neither written nor read."""
    small = MsgspecSerializer(JsonOptions(max_bytes=300))
    large = Plain(aggregate_id=AGGREGATE, text="x" * 300)
    with pytest.raises(SerializationError, match="max_bytes"):
        small.encode(large, **ADDRESS)
    with pytest.raises(DeserializationError, match="max_bytes"):
        small.decode(MsgspecSerializer().encode(large, **ADDRESS), event_class=Plain)


@event
class Numbered(Event[int]):
    """Its ids are ints."""

    text: str


@event
class Coded(Event[str]):
    """Its ids are texts."""

    text: str


@pytest.mark.parametrize(
    ("cls", "given_id"), [(Numbered, 7), (Numbered, -(2**100)), (Coded, 'a "quoted" id, \x1f'), (Coded, "7")]
)
def test_ids_of_other_types_are_the_same_bytes(cls: Any, given_id: Any) -> None:
    """Ints and texts are written as ``subject``, and read again, as the built-in serializer does it."""
    made = cls(aggregate_id=given_id, text="x")
    body = JsonSerializer().encode(made, **ADDRESS)
    assert plan_for(cls).write(made, ADDRESS["topic"], ADDRESS["source"]) == body
    assert plan_for(cls).read(body) == made
