"""The cost of making, writing and reading an event, beside that of the libraries underneath.

The counterparts do what one would write by hand: a plain frozen attrs class with the same fields, cattrs with
``json`` or msgspec for the same CloudEvents document.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Final
from uuid import UUID

import attrs
import cattrs.preconf.json
import msgspec

from bus_core import BaseEvent, Event, FrozenMapping, Message, Topic, event
from bus_core.dispatch import Codec
from bus_core.events import assembler_of
from bus_core.events.primitives import uuid7
from bus_core.events.topics import TopicRegistry
from bus_core.serialization import JsonSerializer
from promenade_bus_msgspec.serializer import MsgspecSerializer

__all__ = ["RATIOS", "measure"]

RATIOS: Final[Mapping[str, tuple[str, str, float | None]]] = {
    "make_event_vs_plain_class": ("make_event", "make_plain", 1.5),
    "make_event_of_six_fields_vs_plain_class": ("make_event_of_six_fields", "make_plain_of_six_fields", 1.5),
    "json_encode_vs_cattrs": ("json_encode", "cattrs_json_encode", 1.2),
    "json_decode_vs_cattrs": ("json_decode", "cattrs_json_decode", 1.2),
    "json_unknown_class_vs_known": ("json_decode_unknown_class", "json_decode", 1.5),
    "msgspec_encode_vs_bare": ("msgspec_encode", "bare_msgspec_encode", 1.5),
    "msgspec_decode_vs_bare": ("msgspec_decode", "bare_msgspec_decode", None),
    "msgspec_encode_vs_structs": ("msgspec_encode", "bare_msgspec_encode_structs", None),
    "msgspec_decode_vs_structs": ("msgspec_decode", "bare_msgspec_decode_structs", None),
    "msgspec_unknown_class_vs_known": ("msgspec_decode_unknown_class", "msgspec_decode", None),
}
"""Figures that come of two measurements: their names, and the bound where there is one."""


# --- the event, and the same by hand ----------------------------------------------------------------------


@attrs.frozen
class Address:
    """A nested class."""

    street: str
    city: str
    country: str


@event
class Ping(Event):
    """An event without fields of its own."""


@event
class OrderPlaced(Event):
    """Six fields, one of them of a nested class."""

    number: str
    customer: str
    cents: int
    express: bool
    address: Address
    tags: tuple[str, ...]


def _now() -> datetime:
    return datetime.now(UTC)


NOTHING: Final[Mapping[str, str]] = FrozenMapping()


@attrs.frozen(kw_only=True)
class PlainPing:
    """The fields of every event, unchecked."""

    aggregate_id: UUID
    event_id: UUID = attrs.field(factory=uuid7)
    occurred_at: datetime = attrs.field(factory=_now)
    metadata: Mapping[str, str] = NOTHING


@attrs.frozen(kw_only=True)
class PlainOrder(PlainPing):
    """The fields of the order, unchecked."""

    number: str
    customer: str
    cents: int
    express: bool
    address: Address
    tags: tuple[str, ...]


@attrs.frozen
class OrderData:
    """``data`` as a class."""

    number: str
    customer: str
    cents: int
    express: bool
    address: Address
    tags: tuple[str, ...]


@attrs.frozen
class OrderDocument:
    """The whole document as a class, which msgspec takes as it is."""

    specversion: str
    type: str
    source: str
    topic: str
    dataversion: int
    datacontenttype: str
    id: UUID
    subject: UUID
    time: datetime
    data: OrderData


class AddressStruct(msgspec.Struct):
    """The same as structs, for which msgspec is made."""

    street: str
    city: str
    country: str


class DataStruct(msgspec.Struct):
    """``data``."""

    number: str
    customer: str
    cents: int
    express: bool
    address: AddressStruct
    tags: tuple[str, ...]


class DocumentStruct(msgspec.Struct):
    """The whole document."""

    specversion: str
    type: str
    source: str
    topic: str
    dataversion: int
    datacontenttype: str
    id: UUID
    subject: UUID
    time: datetime
    data: DataStruct


TOPIC: Final = Topic("shop.order.placed", OrderPlaced)
SOURCE: Final = "shop"
CUSTOMER: Final = UUID(int=77)
FIELDS: Final[dict[str, Any]] = {
    "number": "A-1001",
    "customer": "customer-77",
    "cents": 129_900,
    "express": True,
    "address": Address("Long Street 1", "Springfield", "US"),
    "tags": ("new", "priority"),
}


# --- what is measured -------------------------------------------------------------------------------------


def measure(calls: int = 100, rounds: int = 100) -> dict[str, float]:
    """Microseconds of processor time by name: the least of ``rounds``, each of so many ``calls``."""
    measured = _making() | _by_hand() | _serializing()
    least = dict.fromkeys(measured, float("inf"))
    for function in measured.values():
        function()  # compiles what is compiled at the first use
    for _ in range(rounds):
        for name, function in measured.items():
            began = time.process_time_ns()
            for _ in repeat(None, calls):
                function()
            least[name] = min(least[name], (time.process_time_ns() - began) / calls / 1e3)
    return least


def _making() -> dict[str, Callable[[], object]]:
    placed: Any = OrderPlaced(aggregate_id=CUSTOMER, **FIELDS)
    as_list: dict[str, Any] = FIELDS | {"tags": ["new", "priority"]}
    data = {**FIELDS, "address": {"street": "Long Street 1"}, "tags": ["new", "priority"]}
    assemble = assembler_of(OrderPlaced)
    assert assemble is not None
    base = (placed.aggregate_id, placed.event_id, placed.occurred_at, placed.metadata)
    return {
        "uuid7": uuid7,
        "now": _now,
        "make_event": lambda: Ping(aggregate_id=CUSTOMER),
        "make_plain": lambda: PlainPing(aggregate_id=CUSTOMER),
        "make_event_of_six_fields": lambda: OrderPlaced(aggregate_id=CUSTOMER, **FIELDS),
        "make_plain_of_six_fields": lambda: PlainOrder(aggregate_id=CUSTOMER, **FIELDS),
        "check_six_fields": placed.__event_misfits__,
        "make_event_and_freeze_a_list": lambda: OrderPlaced(aggregate_id=CUSTOMER, **as_list),
        "make_event_and_freeze_metadata": lambda: OrderPlaced(
            aggregate_id=CUSTOMER, metadata={"trace": "1"}, **FIELDS
        ),
        "make_base_event_and_freeze_its_data": lambda: BaseEvent("order.placed", CUSTOMER, data=data),
        "fill_event_that_was_read": lambda: assemble(*base, *FIELDS.values()),
    }


def _serializing() -> dict[str, Callable[[], object]]:
    placed = OrderPlaced(aggregate_id=CUSTOMER, **FIELDS)
    registry = TopicRegistry()
    registry.declare(TOPIC)
    measured: dict[str, Callable[[], object]] = {}
    for name, serializer in (("json", JsonSerializer()), ("msgspec", MsgspecSerializer())):
        measured |= _serializer(name, serializer, placed, Codec(serializer, registry, SOURCE))
    return measured


def _serializer(
    name: str, serializer: JsonSerializer | MsgspecSerializer, placed: OrderPlaced, codec: Codec
) -> dict[str, Callable[[], object]]:
    body = serializer.encode(placed, topic=TOPIC.name, source=SOURCE)
    message = codec.encode(TOPIC, placed, NOTHING)
    unknown = Message(message.id, "shop.order.unknown", message.key, message.body)
    return {
        f"{name}_encode": lambda: serializer.encode(placed, topic=TOPIC.name, source=SOURCE),
        f"{name}_decode": lambda: serializer.decode(body, event_class=OrderPlaced),
        f"{name}_decode_unknown_class": lambda: serializer.decode(body, event_class=BaseEvent),
        f"{name}_message_of_event": lambda: codec.encode(TOPIC, placed, NOTHING),
        f"{name}_event_of_message": lambda: codec.decode(message),
        f"{name}_event_of_message_of_unknown_topic": lambda: codec.decode(unknown),
    }


def _by_hand() -> dict[str, Callable[[], object]]:
    plain: Any = PlainOrder(aggregate_id=CUSTOMER, **FIELDS)
    body = _cattrs_encode(plain)
    assert _cattrs_decode(body) == plain
    document = OrderDocument(
        **_ATTRIBUTES,
        id=plain.event_id,
        subject=CUSTOMER,
        time=plain.occurred_at,
        data=OrderData(**FIELDS),
    )
    structs = msgspec.json.decode(body, type=DocumentStruct)
    encode = msgspec.json.Encoder().encode
    decode_classes = msgspec.json.Decoder(OrderDocument).decode
    decode_structs = msgspec.json.Decoder(DocumentStruct).decode
    return {
        "cattrs_json_encode": lambda: _cattrs_encode(plain),
        "cattrs_json_decode": lambda: _cattrs_decode(body),
        "bare_json_loads": lambda: json.loads(body),
        "bare_msgspec_encode": lambda: encode(document),
        "bare_msgspec_decode": lambda: decode_classes(body),
        "bare_msgspec_encode_structs": lambda: encode(structs),
        "bare_msgspec_decode_structs": lambda: decode_structs(body),
        "msgspec_decode_structs_and_make_event": lambda: _event_of(decode_structs(body)),
    }


_ATTRIBUTES: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "type": "order.placed",
    "source": SOURCE,
    "topic": TOPIC.name,
    "dataversion": 1,
    "datacontenttype": "application/json",
}

_converter: Final = cattrs.preconf.json.make_converter()
_converter.register_structure_hook(UUID, lambda value, _: UUID(value))
_converter.register_unstructure_hook(UUID, str)
_unstructure: Final = _converter.get_unstructure_hook(PlainOrder)
_structure: Final = _converter.get_structure_hook(PlainOrder)


def _cattrs_encode(order: PlainOrder) -> bytes:
    data = _unstructure(order)
    document = {
        **_ATTRIBUTES,
        "id": data.pop("event_id"),
        "subject": data.pop("aggregate_id"),
        "time": data.pop("occurred_at"),
        "data": data,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _cattrs_decode(body: bytes) -> object:
    document = json.loads(body)
    values = {
        **document["data"],
        "event_id": document["id"],
        "aggregate_id": document["subject"],
        "occurred_at": document["time"],
    }
    return _structure(values, PlainOrder)


def _event_of(document: DocumentStruct) -> OrderPlaced:
    data = document.data
    return OrderPlaced(
        aggregate_id=document.subject,
        event_id=document.id,
        occurred_at=document.time,
        number=data.number,
        customer=data.customer,
        cents=data.cents,
        express=data.express,
        address=Address(data.address.street, data.address.city, data.address.country),
        tags=data.tags,
    )
