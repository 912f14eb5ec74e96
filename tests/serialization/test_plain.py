"""Events as plain data and back, for serializers of any format."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import msgspec
import pytest

from bus_core import BaseEvent, DeserializationError, Event, Personal, SerializationError, event, upcaster
from bus_core.serialization import JsonSerializer, from_data, to_data
from promenade_bus_msgspec.serializer import MsgspecSerializer
from promenade_bus_testing.serializer_contract import SerializerContract

AGGREGATE = UUID(int=1)


class TestJson(SerializerContract):
    def serializer(self) -> JsonSerializer:
        return JsonSerializer()


class TestMsgspec(SerializerContract):
    def serializer(self) -> MsgspecSerializer:
        return MsgspecSerializer()


class MessagePack:
    """The smallest serializer of another format."""

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        body = msgspec.msgpack.encode({**to_data(event), "topic": topic, "source": source})
        if len(body) > 1 << 20:
            raise SerializationError(f"{type(event).__name__} has more than a MiB")
        return body

    def decode(self, body: bytes, *, event_class: type[Event[Any]]) -> Event[Any]:
        try:
            data = msgspec.msgpack.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError, MemoryError) as error:
            raise DeserializationError(f"not MessagePack ({type(error).__name__})") from None
        return from_data(event_class, data)


class TestMessagePack(SerializerContract):
    def serializer(self) -> MessagePack:
        return MessagePack()


@event(version=2)
class Placed(Event):
    name: Personal[str]
    total: int = 0


@upcaster(Placed, from_version=1)
def rename(data: dict[str, Any]) -> dict[str, Any]:
    return {"name": data["who"], "total": data.get("total", 0)}


GIVEN: dict[str, Any] = {
    "event_id": str(UUID(int=5)),
    "type": "placed",
    "version": 2,
    "aggregate_id": str(AGGREGATE),
    "occurred_at": "2024-05-01T12:00:00Z",
    "metadata": {"trace": "1"},
    "data": {"name": "Ada", "total": 3},
}


def test_plain_data_is_what_json_holds() -> None:
    """The data of an event is ready for any format that holds JSON values, and makes the same event."""
    made = from_data(Placed, GIVEN)
    assert to_data(made) == json.loads(json.dumps(to_data(made))) == GIVEN
    assert from_data(Placed, to_data(made)) == made


def test_what_may_be_missing() -> None:
    """Version, type, time and metadata may be missing, and unknown keys are ignored."""
    bare = {key: GIVEN[key] for key in ("event_id", "aggregate_id", "data")}
    made = from_data(Placed, {**bare, "more": 1, "data": {"name": "x", "more": [1]}})
    assert (made.name, made.total, dict(made.metadata)) == ("x", 0, {})


def test_old_data_is_upcasted() -> None:
    """Data of an older version passes the upcasters."""
    made = from_data(Placed, {**GIVEN, "version": 1, "data": {"who": "Ada"}})
    assert (made.name, made.total) == ("Ada", 0)


def test_untyped_data() -> None:
    """A BaseEvent takes any data, and needs a type."""
    made = from_data(BaseEvent, {**GIVEN, "data": {"a": [1]}})
    assert (made.type, dict(made.data)) == ("placed", {"a": (1,)})
    with pytest.raises(DeserializationError, match="type must be"):
        from_data(BaseEvent, {**GIVEN, "type": None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"event_id": "x"}, "event_id must be a UUID"),
        ({"event_id": None, "aggregate_id": None}, "event_id is missing; aggregate_id is missing"),
        ({"aggregate_id": [1]}, "aggregate_id must be a str or an int"),
        ({"aggregate_id": 10**5000}, "aggregate_id must be a str or an int"),
        ({"occurred_at": 5}, "occurred_at must be an RFC 3339 time"),
        ({"metadata": {"a": 1}}, "metadata must be a mapping of texts"),
        ({"type": "other"}, "type must be 'placed', not another one"),
        ({"data": [1]}, "data must be a mapping with the event's fields"),
        ({"data": {"name": 5, "total": "x"}}, "name must be a str; total must be an int"),
        ({"data": {"name": "Lovelace\ud800"}}, "name must be"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], words: str) -> None:
    """Every fault is named with its key, and no value is quoted."""
    with pytest.raises(DeserializationError) as caught:
        from_data(Placed, {**GIVEN, **changes})
    assert f"not a valid Placed: {words}" in str(caught.value)
    assert "Lovelace" not in str(caught.value)
    assert caught.value.other_version is None


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_only_a_mapping_is_an_event(value: Any) -> None:
    """Anything but a mapping is refused."""
    with pytest.raises(DeserializationError, match="must be a mapping, got a"):
        from_data(Placed, value)


def test_newer_data_that_does_not_fit_is_named() -> None:
    """The error knows the version of the data, so that the event waits for newer code."""
    with pytest.raises(DeserializationError, match="version 3 of Placed is newer than version 2") as caught:
        from_data(Placed, {**GIVEN, "version": 3, "data": {}})
    assert caught.value.other_version == 3
