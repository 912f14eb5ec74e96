"""The serializer on Avro: the events and refusals of the built-in one, in containers that anyone can read."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from typing import Any, Literal
from uuid import UUID

import attrs
import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_core import BaseEvent, Event, FrozenMapping, Personal, Topic, event, open_bus
from bus_core.errors import ConfigError, DeserializationError, SerializationError
from bus_core.serialization import JsonSerializer, to_data
from promenade_bus_avro.containers import header_of, join, split
from promenade_bus_avro.options import AvroOptions
from promenade_bus_avro.serializer import AvroSerializer
from promenade_bus_testing.serializer_contract import SerializerContract

ADDRESS = {"topic": "shop.order.placed", "source": "shop"}
AGGREGATE = UUID(int=1)


class TestAvro(SerializerContract):
    def serializer(self) -> AvroSerializer:
        return AvroSerializer()


class Colour(enum.Enum):
    """Symbols of an Avro enum."""

    RED = "red"
    BLUE = "blue"


class Odd(enum.Enum):
    """Values that are no symbols."""

    DASH = "a-b"
    ONE = 1
    NOTHING = None


class Bits(enum.Flag):
    """Ints, also those of several members."""

    A = 1
    B = 2


@attrs.frozen
class Line:
    """A record that is used more than once."""

    sku: str
    price: Decimal
    colour: Colour = Colour.RED


@attrs.frozen
class Node:
    """A class inside itself."""

    text: str
    next: Node | None = None


@attrs.frozen
class Nothing:
    """No field."""


@event
class Many(Event):
    """Shapes that are records, unions, maps and arrays in Avro, and combinations of them."""

    line: Line
    other: Line | None
    lines: tuple[Line, ...]
    places: Mapping[str, Line]
    colour: Colour
    second: Colour | int | None
    odd: Odd
    bits: Bits
    number: int | float | str
    ratio: float
    either: Line | str | None
    pair_or_line: tuple[int, str] | Line
    pair_or_map: tuple[int, Line] | Mapping[str, int]
    node: Node
    nodes: Mapping[str, Node | str | None]
    nothing: Nothing
    nones: tuple[None, ...]
    nothings: tuple[Nothing, ...]
    empty: tuple[()]
    raw: bytes | None
    raws: tuple[bytes, ...]
    choice: Literal["a", 1, None]
    anything: Any
    at: datetime | None
    ranks: Mapping[int, Colour]
    matrix: Sequence[Sequence[int]]
    schlüssel: str
    schl_ssel: str
    _hidden: Personal[str]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
whole = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
colours = st.sampled_from(Colour)
lines = st.builds(Line, texts, st.decimals(allow_nan=False, allow_infinity=False), colours)
nodes = st.recursive(st.builds(Node, texts), lambda inner: st.builds(Node, texts, inner), max_leaves=4)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | floats | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)
zones = st.sampled_from([UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-3, minutes=-30))])
events = st.builds(
    Many,
    aggregate_id=st.uuids(),
    event_id=st.uuids(),
    occurred_at=st.datetimes(timezones=st.just(UTC)),
    metadata=st.dictionaries(texts, texts, max_size=2),
    line=lines,
    other=st.none() | lines,
    lines=st.lists(lines, max_size=2).map(tuple),
    places=st.dictionaries(texts, lines, max_size=2),
    colour=colours,
    second=colours | whole | st.none(),
    odd=st.sampled_from(Odd),
    bits=st.sampled_from([Bits.A, Bits.A | Bits.B, Bits(0)]),
    number=whole | floats | texts,
    ratio=floats,
    either=lines | texts | st.none(),
    pair_or_line=st.tuples(whole, texts) | lines,
    pair_or_map=st.tuples(whole, lines) | st.dictionaries(texts, whole, max_size=2),
    node=nodes,
    nodes=st.dictionaries(texts, nodes | texts | st.none(), max_size=2),
    nothing=st.just(Nothing()),
    nones=st.lists(st.none(), max_size=3).map(tuple),
    nothings=st.lists(st.just(Nothing()), max_size=2).map(tuple),
    empty=st.just(()),
    raw=st.none() | st.binary(max_size=5),
    raws=st.lists(st.binary(max_size=5), max_size=2).map(tuple),
    choice=st.sampled_from(["a", 1, None]),
    anything=json_values,
    at=st.none() | st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones),
    ranks=st.dictionaries(whole, colours, max_size=2),
    matrix=st.lists(st.lists(whole, max_size=2), max_size=2),
    schlüssel=texts,
    schl_ssel=texts,
    hidden=texts,
)


@settings(deadline=None, max_examples=30)
@given(events)
def test_events_mean_what_they_mean_in_json(made: Many) -> None:
    """The event comes back, and a reader without its class gets the data that JSON has."""
    avro, default = AvroSerializer(), JsonSerializer()
    body = avro.encode(made, **ADDRESS)
    read = AvroSerializer().decode(body, event_class=Many)
    assert read == made
    assert to_data(read) == to_data(made)
    untyped = AvroSerializer().decode(body, event_class=BaseEvent)
    assert to_data(untyped) == to_data(default.decode(default.encode(made, **ADDRESS), event_class=BaseEvent))
    # A process without the class may hand the event on, to one that has it.
    again = avro.encode(untyped, **ADDRESS)
    assert avro.decode(again, event_class=Many) == made


@event
class Placed(Event):
    """A few fields."""

    text: str
    total: int = 0


BODY = AvroSerializer().encode(Placed(aggregate_id=AGGREGATE, text="x", total=3), **ADDRESS)


def test_other_tools_read_the_container() -> None:
    """A body is an Avro file of one record, with the attributes of CloudEvents and the event's fields."""
    made = Placed(aggregate_id=AGGREGATE, text="x", total=3, metadata={"trace": "é"})
    (record,) = fastavro.reader(BytesIO(AvroSerializer().encode(made, **ADDRESS)))
    assert record == {
        "specversion": "1.0",
        "id": made.event_id,
        "source": "shop",
        "type": "placed",
        "subject": str(AGGREGATE),
        "time": to_data(made)["occurred_at"],
        "topic": "shop.order.placed",
        "dataversion": 1,
        "metadata": {"trace": "é"},
        "data": {"text": "x", "total": 3},
    }


def test_the_container_of_another_writer_is_read() -> None:
    """A record with these attributes is an event, in whatever order and with further ones."""
    schema = {
        "type": "record",
        "name": "Foreign",
        "namespace": "com.example",
        "fields": [
            {"name": "data", "type": {"type": "map", "values": ["string", "int"]}},
            {"name": "tenant", "type": "string", "default": ""},
            *({"name": name, "type": "string"} for name in ("id", "source", "specversion", "subject")),
        ],
    }
    record = {
        "data": {"text": "y", "total": 5},
        "tenant": "a",
        "id": str(UUID(int=7)),
        "source": "elsewhere",
        "specversion": "1.0",
        "subject": str(AGGREGATE),
    }
    out = BytesIO()
    fastavro.writer(out, schema, [record])
    read = AvroSerializer().decode(out.getvalue(), event_class=Placed)
    assert isinstance(read, Placed)
    assert (read.event_id, read.text, read.total) == (UUID(int=7), "y", 5)


@event(type="placed", version=2)
class Wider(Event):
    """A later version of ``Placed``."""

    note: str = "none"
    total: int | None
    text: str


def test_readers_with_another_version_read_by_name() -> None:
    """A missing field gets its default, an unknown one is ignored, and the order does not matter."""
    newer = AvroSerializer().decode(BODY, event_class=Wider)
    assert isinstance(newer, Wider)
    assert (newer.note, newer.total, newer.text) == ("none", 3, "x")
    body = AvroSerializer().encode(Wider(aggregate_id=AGGREGATE, text="y", total=4, note="z"), **ADDRESS)
    older = AvroSerializer().decode(body, event_class=Placed)
    assert isinstance(older, Placed)
    assert (older.text, older.total) == ("y", 4)


def test_the_schema_is_one_of_avro() -> None:
    """Shapes have their natural types; the schema is valid for other tools."""
    schema = AvroSerializer().schema_of(Many)
    fastavro.parse_schema(schema)
    types = {field["name"]: field for field in schema["fields"][-1]["type"]["fields"]}
    line, colour = types["line"]["type"], types["colour"]["type"]
    assert (line["type"], line["name"]) == ("record", "Line")
    assert types["other"]["type"] == ["Line", "null"]
    assert types["lines"]["type"] == {"type": "array", "items": "Line"}
    assert colour == "Colour"
    assert line["fields"][2]["type"] == {"type": "enum", "name": "Colour", "symbols": ["red", "blue"]}
    assert types["number"]["type"] == ["long", "string", "double"]
    assert types["raw"]["type"] == ["bytes", "null"]
    assert types["nones"]["type"] == {"type": "array", "items": ["null"]}
    assert types["anything"]["type"] == {"type": "string", "logicalType": "json"}
    assert (types["schl_ssel"]["key"], types["schl_ssel_2"]["key"]) == ("schlüssel", "schl_ssel")


async def test_events_travel_through_a_bus() -> None:
    """``serializer: avro`` selects it, and published events arrive unchanged."""
    topic, arrived = Topic("shop.thing.made", Placed), list[Placed]()
    config = {"adapter": "memory", "serializer": "avro", "memory": {"serialize": True}}
    async with open_bus({"bus": config}) as bus:

        @bus.subscribe(topic)
        async def note(got: Placed) -> None:
            arrived.append(got)

        sent = Placed(aggregate_id=AGGREGATE, text="x", metadata={"a": "b"})
        await bus.publish(topic, sent)
        await bus.drain()
    assert arrived == [sent]
    assert type(arrived[0].metadata) is FrozenMapping


def test_options_are_checked() -> None:
    """Limits that make no sense are faults of the configuration."""
    with pytest.raises(ConfigError, match=r"(?s)max_bytes.*max_depth"):
        open_bus({"bus": {"adapter": "memory", "serializer": {"avro": {"max_bytes": 1, "max_depth": 1000}}}})


# --- limits -----------------------------------------------------------------------------------------------


@event
class Careful(Event):
    """Values that have no form in Avro, or that are too deep."""

    line: tuple[int, ...] = ()
    named: Mapping[str, int] = attrs.field(factory=FrozenMapping)
    anything: Any = None
    number: int = 0


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"number": 2**63}, "Careful cannot be encoded: number must be an int of at most 64 bits"),
        ({"number": -(2**63) - 1}, "number must be an int of at most 64 bits"),
        ({"line": (1, 2**70)}, "line must be an int of at most 64 bits"),
        ({"anything": nested(64)}, "anything cannot be JSON text: .*max_depth"),
        ({"anything": 10**2000}, "anything cannot be JSON text"),
        ({"anything": "x" * (1 << 20)}, "Careful cannot be encoded: .*max_bytes"),
    ],
)
def test_what_cannot_be_read_is_not_written(fields: dict[str, Any], words: str) -> None:
    """The error names the class and the field, and quotes no value."""
    with pytest.raises(SerializationError, match=words):
        AvroSerializer().encode(Careful(aggregate_id=AGGREGATE, **fields), **ADDRESS)


@event
class Deep(Event):
    """Six levels: the envelope, the data and four arrays; the items are the seventh."""

    rows: tuple[tuple[tuple[tuple[int, ...], ...], ...], ...] = ((((1,),),),)


def test_a_class_that_nests_too_deeply_is_refused() -> None:
    """``max_depth`` holds for the schema, of the class and of the writer."""
    flat, deep = (AvroSerializer(AvroOptions(max_depth=depth)) for depth in (6, 7))
    made = Deep(aggregate_id=AGGREGATE)
    with pytest.raises(SerializationError, match=r"Deep has no schema in Avro: .*6 levels"):
        flat.encode(made, **ADDRESS)
    body = deep.encode(made, **ADDRESS)
    assert deep.decode(body, event_class=Deep) == made
    with pytest.raises(DeserializationError, match="6 levels"):
        flat.decode(body, event_class=Deep)


SCHEMA, OBJECT = split(BODY)


def with_data(kind: Any, *, extra: Any = ()) -> bytes:
    """The body with a schema in which ``data`` has another type."""
    schema = json.loads(SCHEMA)
    schema["fields"] = [*extra, *schema["fields"][:-1], {"name": "data", "type": kind}]
    return join(header_of(json.dumps(schema).encode()), OBJECT)


def record(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": key, "type": kind} for key, kind in fields.items()],
    }


def doubling(levels: int) -> Any:
    """Each record has the next one twice, so that a few bytes would be 2 ** levels values."""
    inner: Any = record("Last")
    for level in range(levels):
        inner = record(f"R{level}", a=inner, b=inner["name"])
    return inner


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "does not begin like an Avro container"),
        (b"Obj\x01", "its header cannot be read"),
        (BODY[:-1], "one block with one object"),
        (BODY + b"x", "one block with one object"),
        (BODY[:-1] + b"x", "one block with one object"),
        (BODY.replace(b"null", b"zstd", 1), "compressed"),
        (join(header_of(SCHEMA), OBJECT + b"x"), "more bytes than its schema describes"),
        (join(header_of(SCHEMA), OBJECT[:-1]), "does not fit its schema"),
        (join(header_of(b"[" * 400), OBJECT), "its schema cannot be read"),
        (join(header_of(b'"null"'), b""), "its schema cannot be read"),
        (with_data(record("A", a="A")), "inside itself"),
        (with_data(record("A", a=["null", "A"])), "inside itself"),
        (with_data({"type": "array", "items": "null"}), "takes no byte"),
        (with_data({"type": "array", "items": record("A")}), "takes no byte"),
        (with_data("null"), "takes no byte"),
        (with_data(doubling(40)), "takes no byte"),
        (with_data(["long", "int", {"type": "string", "logicalType": "json"}, "string"]), "union"),
        (with_data([record("A", a="bytes"), record("B", a="bytes")]), "cannot be told apart"),
        (with_data([["null"]]), "union"),
        (with_data([]), "union"),
        (with_data({"type": "fixed", "name": "F", "size": 1 << 40}), "does not support"),
        (with_data({"type": {"type": "string"}}), "does not support"),
        (with_data(7), "does not support"),
        (with_data({"type": "enum", "name": "E", "symbols": ["a b"]}), "enum without symbols"),
        (with_data({"type": "record", "name": "A"}), "record without fields"),
        (with_data(record("CloudEvent", a="long")), "without a name of its own"),
        (with_data(record("a.b", a="long")), "without a name of its own"),
        (with_data({**record("A"), "fields": [{"name": "1", "type": "long"}]}), "field without a name"),
        (
            with_data("string", extra=[{"name": "one", "key": "id", "type": "string"}]),
            "two fields of one key",
        ),
        (BODY.replace(b"1.0", b"0.3"), "no event of CloudEvents 1.0"),
        (BODY.replace(b"placed", b"placid"), "type must be 'placed', not another one"),
    ],
    ids=range(31),
)
def test_hostile_containers_are_refused(body: bytes, words: str) -> None:
    """A writer cannot make a reader allocate more than its bytes, or overflow the stack of the library."""
    with pytest.raises(DeserializationError, match=f"not a valid Placed: .*{words}"):
        AvroSerializer().decode(body, event_class=Placed)


@pytest.mark.parametrize(
    ("text", "words"),
    [(b'1,"a":1', "more than one value"), (b'{"a":1]', "that cannot be read"), (b'"\xff":1', "not fit its")],
)
def test_json_text_is_one_value(text: bytes, words: str) -> None:
    """Text is refused that is not JSON, or that would end the value and begin another."""
    made = BaseEvent("thing.made", AGGREGATE, data={"a": 1})
    body = AvroSerializer().encode(made, **ADDRESS).replace(b'{"a":1}', text.ljust(7))
    with pytest.raises(DeserializationError, match=words):
        AvroSerializer().decode(body, event_class=BaseEvent)
