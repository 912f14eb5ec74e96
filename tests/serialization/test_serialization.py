"""Events as CloudEvents JSON: the document, what other software writes, and what nobody should send."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import attrs
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_core import BaseEvent, BuildContext, Event, Personal, SystemClock, event
from bus_core.errors import DeserializationError, InvalidEvent, SerializationError
from bus_core.plugins.builtins import promenade_bus_serializers
from bus_core.serialization.cloudevents import JsonOptions, JsonSerializer


@event(type="user.registered", version=2)
class UserRegistered(Event):
    email: Personal[str]
    plan: str = "free"
    age: int = 0


USER = UUID("018f3c5a-0000-7000-8000-00000000000a")
REGISTERED = UserRegistered(
    aggregate_id=USER,
    event_id=UUID("018f3c5a-0000-7000-8000-000000000001"),
    occurred_at=datetime(2024, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC),
    email="ada@example.org",
)
JSON = JsonSerializer()


def encode(made: Event[Any], serializer: JsonSerializer = JSON) -> bytes:
    return serializer.encode(made, topic="identity.user.registered", source="promenade")


def decode(
    body: bytes, cls: type[Event[Any]] = UserRegistered, serializer: JsonSerializer = JSON
) -> Event[Any]:
    return serializer.decode(body, event_class=cls)


def document(**changes: Any) -> dict[str, Any]:
    """A good document with some attributes changed; ``...`` takes one away."""
    made = json.loads(encode(REGISTERED)) | changes
    return {name: value for name, value in made.items() if value is not ...}


def changed(**changes: Any) -> UserRegistered:
    """The good event with some fields changed."""
    made: UserRegistered = attrs.evolve(cast(Any, REGISTERED), **changes)
    return made


def refused(body: Any, cls: type[Event[Any]] = UserRegistered) -> str:
    """Why a body is refused."""
    with pytest.raises(DeserializationError) as caught:
        decode(json.dumps(body).encode() if isinstance(body, dict) else body, cls)
    return str(caught.value).partition(": ")[2]


# --- the document -----------------------------------------------------------------------------------------


def test_an_event_becomes_a_cloudevents_document() -> None:
    """Every attribute of the document has the value and the form that CloudEvents 1.0 asks for."""
    assert json.loads(encode(REGISTERED)) == {
        "specversion": "1.0",
        "id": "018f3c5a-0000-7000-8000-000000000001",
        "source": "promenade",
        "type": "user.registered",
        "subject": "018f3c5a-0000-7000-8000-00000000000a",
        "time": "2024-05-01T12:00:00.250000Z",
        "datacontenttype": "application/json",
        "topic": "identity.user.registered",
        "dataversion": 2,
        "data": {"email": "ada@example.org", "plan": "free", "age": 0},
    }


def test_metadata_travels_as_json_text() -> None:
    """Metadata is an extension attribute, so it is the text of a JSON object."""
    traced = changed(metadata={"trace": "é\n1"})
    assert json.loads(json.loads(encode(traced))["metadata"]) == {"trace": "é\n1"}
    assert decode(encode(traced)) == traced


def test_a_base_event_travels_with_its_own_type_and_data() -> None:
    """The ad-hoc event keeps the type it was made with, and data frozen all the way down."""
    made = BaseEvent("plan.changed", USER, data={"from": None, "steps": [1, {"ok": True}]})
    assert json.loads(encode(made))["type"] == "plan.changed"
    assert decode(encode(made), BaseEvent) == made


def test_a_typed_event_can_be_read_as_a_base_event() -> None:
    """A subscriber without the class gets the same facts, untyped."""
    untyped = decode(encode(REGISTERED), BaseEvent)
    assert isinstance(untyped, BaseEvent)
    assert (untyped.type, untyped.aggregate_id, untyped.event_id) == (
        "user.registered",
        USER,
        REGISTERED.event_id,
    )
    assert untyped.data == {"email": "ada@example.org", "plan": "free", "age": 0}


def test_the_factory_builds_a_serializer_of_its_options() -> None:
    """The bus builds the serializer ``json`` from options in its configuration."""
    factory = promenade_bus_serializers()["json"]
    context = BuildContext(service="tests", clock=SystemClock())
    built = factory.build(factory.options(max_bytes=300), context)
    assert isinstance(built, JsonSerializer)
    assert built.options.max_bytes == 300


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_bytes", 0), ("max_bytes", True), ("max_depth", 1), ("max_depth", 10_000), ("max_digits", 1.5)],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    """A bound that is no sensible whole number is an error when the options are made."""
    with pytest.raises((ValueError, TypeError), match=option):
        JsonOptions(**{option: value})


# --- documents of other software --------------------------------------------------------------------------


def test_the_sdk_reads_what_we_write() -> None:
    """The CloudEvents SDK finds our attributes, extensions and data in our document."""
    read = JSONFormat().read(None, encode(REGISTERED))
    assert read.get_id() == str(REGISTERED.event_id)
    assert (read.get_source(), read.get_type(), read.get_subject()) == (
        "promenade",
        "user.registered",
        str(USER),
    )
    assert read.get_time() == REGISTERED.occurred_at
    assert read.get_extension("topic") == "identity.user.registered"
    assert read.get_data() == {"email": "ada@example.org", "plan": "free", "age": 0}


def test_we_read_what_the_sdk_writes() -> None:
    """A document of the CloudEvents SDK, without our extensions and with another's, is an event."""
    attributes = {
        "id": str(REGISTERED.event_id),
        "source": "https://example.org/crm",
        "type": "user.registered",
        "subject": str(USER),
        "time": REGISTERED.occurred_at,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    body = JSONFormat().write(CloudEvent(attributes, {"email": "ada@example.org"}))
    assert decode(body) == REGISTERED


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2024-05-01T12:00:00Z", 0),
        ("2024-05-01t12:00:00.5z", 500_000),
        ("2024-05-01 14:30:00.123456789+02:30", 123_456),
        ("2024-05-01T12:00:00-00:00", 0),
        ("2024-05-01T12:00:00.000001000000Z", 1),
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str, microsecond: int) -> None:
    """Time comes with Z or an offset, and any number of digits, cut to microseconds."""
    read = decode(json.dumps(document(time=text)).encode())
    assert read.occurred_at == datetime(2024, 5, 1, 12, 0, 0, microsecond, tzinfo=UTC)
    assert read.occurred_at.tzinfo is UTC


def test_a_newer_document_is_read_by_an_older_class() -> None:
    """Data fields and extensions that the class does not know are passed over; defaults fill the rest."""
    body = document(dataversion=9, data={"email": "ada@example.org", "added_later": [1]}, other="x")
    assert decode(json.dumps(body).encode()) == REGISTERED


def test_attributes_that_are_null_count_as_absent() -> None:
    """The JSON format allows null for an attribute that is not set."""
    read = decode(json.dumps(document(metadata=None, time=None, data_base64=None)).encode())
    assert read.metadata == {}
    assert read.occurred_at.tzinfo is UTC


def test_data_may_be_absent_when_no_field_is_required() -> None:
    """A class without required fields is made of a document without data."""

    @event
    class Ping(Event):
        count: int = 1

    body = json.dumps(document(type="ping", data=...)).encode()
    assert decode(body, Ping) == Ping(
        aggregate_id=USER, event_id=REGISTERED.event_id, occurred_at=REGISTERED.occurred_at
    )


# --- documents that are refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"specversion": "0.3"}, "specversion must be '1.0' (CloudEvents 1.0 in the JSON format)"),
        ({"specversion": 1.0}, "specversion must be '1.0' (CloudEvents 1.0 in the JSON format)"),
        ({"id": ...}, "id is missing"),
        ({"id": "7"}, "id must be a UUID"),
        ({"id": f"{{{USER}}}"}, "id must be a UUID"),
        ({"id": f"{USER}\n"}, "id must be a UUID"),
        ({"source": ""}, "source must be a non-empty str"),
        ({"source": ...}, "source is missing"),
        ({"type": ...}, "type is missing"),
        ({"type": 7}, "type must be a non-empty str"),
        ({"type": "user.deleted"}, "type must be 'user.registered', not another one ('user.deleted')"),
        ({"type": "a b\n"}, "type must be 'user.registered', not another one"),
        ({"subject": ...}, "subject is missing"),
        ({"subject": "ada"}, "subject must be a UUID"),
        (
            {"time": "2024-05-01T12:00:00"},
            "time must be an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z",
        ),
        ({"time": 1714564800}, "time must be an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z"),
        ({"time": "2024-02-30T12:00:00Z"}, "time must be a time that exists"),
        ({"data": [1]}, "data must be an object with the event's fields"),
        ({"data": "text"}, "data must be an object with the event's fields"),
        (
            {"data": ..., "data_base64": "AA=="},
            "data_base64 (binary data) is not supported: data must be a JSON object with the fields",
        ),
        ({"metadata": {"a": "b"}}, "metadata must be a JSON object of texts, as text"),
        ({"metadata": '{"a": 1}'}, "metadata must be a JSON object of texts, as text"),
        ({"metadata": "[" * 100_000}, "metadata must be a JSON object of texts, as text"),
        ({"data": {}}, "email is missing"),
        ({"data": {"email": None}}, "email must be a str"),
        ({"data": {"email": "a", "age": "1"}}, "age must be an int"),
        ({"data": {"email": "a", "age": 1.9}}, "age must be an int"),
        ({"data": {"email": "a", "age": 1.0}}, "age must be an int"),
        ({"data": {"email": "a", "age": True}}, "age must be an int"),
    ],
)
def test_a_bad_attribute_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    """Each rule names the attribute or field, and what it must be."""
    assert refused(document(**changes)) == reason


def test_all_faults_are_reported_together() -> None:
    """One error names every bad attribute and field, and quotes no value of the data."""
    message = refused(document(id="x", time="now", data={"email": ["secret"], "age": "secret"}))
    assert message == (
        "id must be a UUID; time must be an RFC 3339 time with an offset, such as 2024-05-01T12:00:00Z; "
        "email must be a str; age must be an int"
    )


def test_values_that_the_class_refuses_are_a_decoding_error() -> None:
    """Errors of the constraints, validators or converters of a class are contained, and quote no value."""

    @event(type="user.registered")
    class Picky(Event):
        email: str = attrs.field(validator=attrs.validators.max_len(3))

    message = refused(document(), Picky)
    assert message == "the class refuses its values (ValueError)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the document is not JSON: Expecting value (character 0)"),
        (b"[]", "the document must be a JSON object"),
        (b'"text"', "the document must be a JSON object"),
        (b"null", "the document must be a JSON object"),
        (b'{"a":1}{}', "the document is not JSON: Extra data (character 7)"),
        (b'{"a":1', "the document is not JSON: Expecting ',' delimiter (character 6)"),
        (b"{'a':1}", "the document is not JSON"),
        (b'{"a":1,}', "the document is not JSON"),
        (b'{"a":"\x01"}', "the document is not JSON: Invalid control character at (character 6)"),
        (b'\xef\xbb\xbf{"a":1}', "the document is not JSON"),
        (b"\xff\xfe{\x00}\x00", "the document is not UTF-8 (byte 0)"),
        (b'{"a":"\xed\xa0\x80"}', "the document is not UTF-8 (byte 6)"),
        (b'{"a":"\xc0\xaf"}', "the document is not UTF-8 (byte 6)"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'{"a":1e999}', "a number is too large for a float"),
        (b'{"a":-1E+400}', "a number is too large for a float"),
        (b'{"a":' + b"9" * 1001 + b"}", "a number has more than 1000 digits"),
        (b'{"a":0.' + b"9" * 1001 + b"}", "a number has more than 1000 digits"),
        (b'{"a":1,"a":2}', "an object has the same key twice"),
        (b'{"id":"1","id":"2"}', "an object has the same key twice: 'id'"),
        (b'{"data":{"email":"x","email":"y"}}', "an object has the same key twice: 'email'"),
        (b'{"a":"\\ud800"}', "a text has a lone surrogate, which is no character"),
        (b'{"\\uDFFF":1}', "a text has a lone surrogate, which is no character"),
        (b'{"a":"\\ude00\\ud83d"}', "a text has a lone surrogate, which is no character"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "the document nests deeper than 64 levels (max_depth)"),
        (b"[" * 500_000, "the document nests deeper than 64 levels (max_depth)"),
        (b'{"a":' * 100_000, "the document nests deeper than 64 levels (max_depth)"),
        (
            b"{" + b" " * (1 << 20) + b"}",
            "the document has 1048578 bytes, at most 1048576 are accepted (max_bytes)",
        ),
    ],
)
def test_hostile_bytes_are_refused_with_their_reason(body: bytes, reason: str) -> None:
    """Only one bounded, strict JSON object becomes an event."""
    assert refused(body).startswith(reason)


@pytest.mark.parametrize("body", [None, "text", bytearray(b"{}"), 7])
def test_what_is_not_bytes_is_a_decoding_error(body: Any) -> None:
    """An adapter that hands over something else gets the one error that it has to know."""
    assert refused(body) == f"the document must be bytes, got {type(body).__name__}"


def test_brackets_inside_texts_are_not_nesting() -> None:
    """The bound on depth counts objects and arrays, not characters of texts."""
    made = changed(email='[{"\\' * 500)
    assert decode(encode(made)) == made


def test_a_text_without_end_is_refused_quickly() -> None:
    """Escaped quotes without an end take linear time, not quadratic."""
    assert refused(b'{"a":"' + b"[" * 65 + b'\\"' * 400_000).startswith("the document is not JSON")


def test_surrogate_pairs_are_characters() -> None:
    """A pair of escapes is one character beyond the basic plane, and no fault."""
    body = json.dumps(document(data={"email": "\N{GRINNING FACE}"}), ensure_ascii=True).encode()
    assert b"\\ud83d\\ude00" in body
    assert decode(body) == changed(email="\N{GRINNING FACE}")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
MUTATIONS: list[Callable[[bytes, int, bytes], bytes]] = [
    lambda body, at, more: body[:at] + more + body[at:],
    lambda body, at, more: body[:at] + body[at + len(more) :],
    lambda body, at, more: body[:at] + more + body[at + len(more) :],
    lambda body, at, more: body[:at],
]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_decoding_errors(body: bytes) -> None:
    """No bytes whatever make the serializer raise anything else."""
    with pytest.raises(DeserializationError):
        decode(body)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(MUTATIONS),
            st.integers(0, 400),
            st.sampled_from([b"\\u", b"d800", b'"', b"{", b"]", b"1e999", b"NaN", b":", b","])
            | st.binary(min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_damaged_documents_raise_nothing_but_decoding_errors(
    mutations: list[tuple[Callable[[bytes, int, bytes], bytes], int, bytes]],
) -> None:
    """A damaged document is an event or a decoding error, as either class."""
    body = encode(changed(metadata={"a": "b"}))
    for mutate, at, more in mutations:
        body = mutate(body, at, more)
    for cls in (UserRegistered, BaseEvent):
        try:
            assert type(decode(body, cls)) is cls
        except DeserializationError:
            pass


@settings(deadline=None, max_examples=200)
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("specversion", "id", "source", "type", "subject", "time", "metadata", "data"), JSON_VALUES
        ),
    )
)
def test_any_json_in_any_attribute_raises_nothing_but_decoding_errors(changes: dict[str, Any]) -> None:
    """Any JSON in any attribute is an event or a decoding error, and what can be read can be written."""
    body = json.dumps(document(**changes)).encode()
    for cls in (UserRegistered, BaseEvent):
        try:
            read = decode(body, cls)
        except DeserializationError:
            continue
        assert decode(encode(read), cls) == read


# --- encoding that fails ----------------------------------------------------------------------------------


def unencodable(made: Event[Any], serializer: JsonSerializer = JSON) -> str:
    with pytest.raises(SerializationError) as caught:
        encode(made, serializer)
    assert not isinstance(caught.value, DeserializationError)
    return str(caught.value)


def test_a_lone_surrogate_is_refused_by_field_without_its_value() -> None:
    """A text that no reader could take is refused when the event is made."""
    with pytest.raises(InvalidEvent) as caught:
        changed(email="ada\ud800")
    assert str(caught.value) == (
        "UserRegistered: email must be a text without lone surrogates, which are no characters, "
        "got a str (personal value not shown)"
    )
    with pytest.raises(InvalidEvent, match="metadata"):
        changed(metadata={"a": "\udfff"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "must be JSON values only: None, bool, int, finite float, str, list, tuple, dict"),
        ({1: 2}, "must be under a key that is a text, as in JSON"),
        (float("nan"), "must be a finite number (JSON has no NaN or infinity)"),
        ("\ud800", "must be a text without lone surrogates"),
    ],
)
def test_data_that_is_not_json_is_refused(value: Any, reason: str) -> None:
    """The data of an untyped event is checked when it is made, all the way down, and is not quoted."""
    with pytest.raises(InvalidEvent) as caught:
        BaseEvent("a.b", USER, data={"x": [{"secret": value}]})
    assert f" {reason}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_int_of_too_many_digits_is_refused_in_untyped_data() -> None:
    """The bound on digits is one of the serializer, and counts when the event is written."""
    message = unencodable(BaseEvent("a.b", USER, data={"x": [{"y": 10**1000}]}))
    assert message == "BaseEvent cannot be encoded: data must be an int of less than 1000 digits"


def test_data_that_contains_itself_is_refused() -> None:
    """A circle is nesting without end, and ends in an error."""

    @event
    class Odd(Event):
        anything: Any

    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidEvent, match=r"anything\[0\].* must be nested less than 500 levels"):
        Odd(aggregate_id=USER, anything=circle)


def test_what_no_reader_would_take_is_not_written() -> None:
    """The bounds hold for writing too, so that an accepted event can always be read."""
    small = JsonSerializer(JsonOptions(max_bytes=600, max_depth=6))
    assert "at most 600 are accepted (max_bytes)" in unencodable(changed(email="x" * 600), small)
    deep = BaseEvent("a.b", USER, data={"x": [[[[1]]]]})
    assert decode(encode(deep, small), BaseEvent, small) == deep
    deeper = BaseEvent("a.b", USER, data={"x": [[[[[1]]]]]})
    assert "nests deeper than 6 levels (max_depth)" in unencodable(deeper, small)


def test_how_deep_a_class_nests_is_bounded_as_well() -> None:
    """It is known before there is an event, and counts all the same."""

    @event
    class Deep(Event):
        rows: tuple[tuple[tuple[int, ...], ...], ...]

    made = Deep(aggregate_id=USER, rows=(((1,),),))
    assert "nests deeper than 4 levels (max_depth)" in unencodable(
        made, JsonSerializer(JsonOptions(max_depth=4))
    )
    assert decode(encode(made, enough := JsonSerializer(JsonOptions(max_depth=5))), Deep, enough) == made


def test_an_event_that_lacks_a_value_is_refused() -> None:
    """As one that was pickled by another version of its class."""
    made = changed()
    type(made).occurred_at.__delete__(made)  # type: ignore[attr-defined]
    assert "UserRegistered cannot be encoded" in unencodable(made)
