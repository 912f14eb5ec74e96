"""The built-in serializer: CloudEvents 1.0 in the structured JSON format.

``id`` is the event id, ``source`` the service, ``subject`` the aggregate id, ``data`` the event's own
fields. Extensions: ``topic``, ``dataversion`` (the version of the class), and ``metadata`` (a JSON object
as text, because an extension attribute has no structure; left out when empty).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any, NoReturn, cast

import attrs

from bus_core.errors import DeserializationError, InvalidEvent, SerializationError
from bus_core.events.base import NO_METADATA, BaseEvent, Event, event_type_of, event_version_of, hints_of
from bus_core.events.primitives import FrozenMapping
from bus_core.serialization.json_quick import compile_quick
from bus_core.serialization.json_text import DuplicateKey, JsonReader, JsonTextError, JsonWriter
from bus_core.serialization.json_values import Unfit, read_datetime, read_json, read_uuid, write_datetime
from bus_core.serialization.options import JsonOptions

if TYPE_CHECKING:
    import cattrs

    from bus_core.serialization.converter import Record

__all__ = ["JsonSerializer"]

_BASE_FIELDS = ("aggregate_id", "event_id", "occurred_at", "metadata")
_ATTRIBUTES = frozenset({"specversion", "id", "source", "type", "subject", "time", "data", "datacontenttype"})
_SAFE_TYPE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MAX_HEADS = 1000


@attrs.frozen
class _Plan:
    """What is known of a class of events: its own fields, and the text that begins each of its documents.

    ``may_be_quick``: it is an event as usual, so that documents without metadata mean ``NO_METADATA``.
    """

    cls: type[Event]
    name: str
    type: str
    fields: Record
    may_be_quick: bool
    heads: dict[tuple[str, str, str], str] = attrs.field(factory=dict)


class JsonSerializer:
    """Events as CloudEvents JSON, and back. Safe to share between threads.

    cattrs, which converts the values of fields, is imported when the first of them is converted: a bus that
    hands objects from publisher to handler does without. ``prepare`` imports it at once.
    """

    def __init__(self, options: JsonOptions | None = None) -> None:
        self.options = options or JsonOptions()
        self._reader = JsonReader(self.options)
        self._writer = JsonWriter(self.options)
        self._plans: dict[type[Event], _Plan] = {}
        self._planning = RLock()
        self._makers: dict[type[Event], Callable[..., Event]] = {}  # of classes that were read
        self._readers = (
            ("id", "event_id", read_uuid, True),
            ("subject", "aggregate_id", read_uuid, True),
            ("time", "occurred_at", read_datetime, False),
            ("metadata", "metadata", self._read_metadata, False),
        )

    @cached_property
    def converter(self) -> cattrs.Converter:
        """The converter of field values.

        Register hooks on it, before the first event of a class, for field types that it does not know.
        """
        from bus_core.serialization.converter import make_converter

        # Two threads may be here: both must get the one on which hooks are registered.
        made: cattrs.Converter = self.__dict__.setdefault("converter", make_converter(self.options))
        return made

    def prepare(self) -> None:
        """Imports and makes now what the first event would have to wait for."""
        self._dump_json  # noqa: B018

    @cached_property
    def _dump_json(self) -> Callable[[Any], Any]:
        return self.converter.get_unstructure_hook(Any)

    def check(self, event_class: type[Event]) -> None:
        """Raises ``SerializationError`` when a field of the class has a type without a JSON form."""
        self._plan(event_class)

    # --- encoding

    def encode(self, event: Event, *, topic: str, source: str) -> bytes:
        """The event as bytes; raises ``SerializationError`` naming the class and the field."""
        cls = type(event)
        plan = self._plans.get(cls) or self._plan(cls)
        try:
            if isinstance(event, BaseEvent):
                data = self._dump_base_data(event)
            else:
                data = plan.fields.dump(event)
            text = self._writer.text
            parts = [
                plan.heads.get((topic, source, event.type)) or self._head(plan, topic, source, event.type),
                f'"id":"{event.event_id}","subject":"{event.aggregate_id}",',
                f'"time":"{write_datetime(event.occurred_at)}",',
            ]
            if event.metadata:
                parts.append(f'"metadata":{text(text(dict(event.metadata)))},')
            parts.append(f'"data":{text(data)}}}')
            return self._writer.bounded("".join(parts))
        except Unfit as error:
            raise SerializationError(f"{plan.name} cannot be encoded: {_sentences(error)}") from None
        except JsonTextError as error:
            where = self._field_with_surrogate(plan, event) if "surrogate" in str(error) else ""
            raise SerializationError(f"{plan.name} cannot be encoded: {where}{error}") from None
        except (TypeError, ValueError, RecursionError, MemoryError) as error:
            raise SerializationError(
                f"{plan.name} cannot be encoded: a field holds a value that does not fit its type "
                f"({type(error).__name__})"
            ) from None

    def _dump_base_data(self, event: BaseEvent) -> Any:
        try:
            return self._dump_json(event.data)
        except Unfit as error:
            raise Unfit([(f".data{path}", words) for path, words in error.faults]) from None

    def _head(self, plan: _Plan, topic: str, source: str, event_type: str) -> str:
        attributes = {
            "specversion": "1.0",
            "type": event_type,
            "source": source,
            "topic": topic,
            "dataversion": event_version_of(plan.cls),
            "datacontenttype": "application/json",
        }
        head = self._writer.text(attributes)[:-1] + ","
        if len(plan.heads) < _MAX_HEADS:
            plan.heads[topic, source, event_type] = head
        return head

    def _field_with_surrogate(self, plan: _Plan, event: Event) -> str:
        data = {"data": event.data} if isinstance(event, BaseEvent) else plan.fields.dump(event)
        for name, value in [*data.items(), ("metadata", dict(event.metadata))]:
            try:
                self._writer.text(value).encode()
            except UnicodeEncodeError:
                return f"in {name}, "
        return ""

    # --- decoding

    def decode(self, body: bytes, *, event_class: type[Event]) -> Event:
        """The event of the bytes; raises ``DeserializationError``, whatever they are.

        Unknown attributes and data fields are passed over, also those of a newer ``dataversion``.
        """
        plan = self._plans.get(event_class) or self._plan_to_decode(event_class)
        try:
            document = self._reader.read(body)
        except DuplicateKey as error:
            known = error.key in _ATTRIBUTES or any(error.key == key for key, *_ in plan.fields.loads)
            _refuse(plan, [f"{error}: {error.key!r}" if known else str(error)])
        except JsonTextError as error:
            _refuse(plan, [str(error)])
        event = self._quick_event(plan, document)
        if event is not None:
            return event
        try:
            return self._event(plan, document)
        except (RecursionError, MemoryError) as error:
            _refuse(plan, [f"it cannot be read ({type(error).__name__})"])

    def _quick_event(self, plan: _Plan, document: dict[str, Any]) -> Event | None:
        """The event, if there is nothing odd about the document."""
        if "data_base64" in document or not plan.may_be_quick:
            return None
        try:
            source = document["source"]
            if (
                document["specversion"] != "1.0"
                or document["type"] != plan.type
                or type(source) is not str
                or not source
            ):
                return None
            make = self._makers.get(plan.cls)
            if make is None:
                make = self._makers[plan.cls] = compile_quick(plan.cls, plan.fields.loads, also=_BASE_FIELDS)
            metadata = document.get("metadata")
            return make(
                document["data"],
                read_uuid(document["subject"]),
                read_uuid(document["id"]),
                read_datetime(document["time"]),
                NO_METADATA if metadata is None else self._read_metadata(metadata),
            )
        except Exception:  # whatever it is: it is found, and told, on the long way
            return None

    def _event(self, plan: _Plan, document: dict[str, Any]) -> Event:
        if document.get("specversion") != "1.0":
            _refuse(plan, ["specversion must be '1.0' (CloudEvents 1.0 in the JSON format)"])
        faults: list[str] = []
        values: dict[str, Any] = {}
        source = document.get("source")
        if type(source) is not str or not source:
            faults.append("source must be a non-empty str" if source is not None else "source is missing")
        for name, field, read, required in self._readers:
            value = document.get(name)
            if value is not None:
                try:
                    values[field] = read(value)
                except Unfit as error:
                    faults += [f"{name} {words}" for _, words in error.faults]
            elif required:
                faults.append(f"{name} is missing")
        untyped = issubclass(plan.cls, BaseEvent)
        if document.get("type") != plan.type or untyped:
            faults += _type_faults(document.get("type"), None if untyped else plan.type)
        data = document.get("data")
        if document.get("data_base64") is not None:
            faults.append(
                "data_base64 (binary data) is not supported: data must be a JSON object with the fields"
            )
        elif data is not None and type(data) is not dict:
            faults.append("data must be an object with the event's fields")
        elif untyped:
            values["type"], values["data"] = document.get("type"), read_json(data or {})
        else:
            try:
                values.update(plan.fields.load(data or {}))
            except Unfit as error:
                faults += [f"{path.lstrip('.')} {words}" for path, words in error.faults]
        if faults:
            _refuse(plan, faults)
        try:
            return plan.cls(**values)
        except InvalidEvent as error:
            _refuse(plan, [fault.partition(", got ")[0] for fault in error.faults])
        except (RecursionError, MemoryError):
            raise
        except Exception as error:  # a validator or a converter of the event class
            _refuse(plan, [f"the class refuses its values ({type(error).__name__})"])

    def _read_metadata(self, value: Any) -> Mapping[str, str]:
        try:
            metadata = self._reader.read(value.encode())
        except (AttributeError, UnicodeEncodeError, JsonTextError):
            metadata = None
        if metadata is None or not all(type(item) is str for item in metadata.values()):
            raise Unfit([("", "must be a JSON object of texts, as text")])
        return FrozenMapping(metadata)

    # --- plans

    def _plan(self, cls: type[Event]) -> _Plan:
        # One at a time: what a thread has compiled in part is no plan for another one.
        with self._planning:
            plan = self._plans.get(cls)
            if plan is None:
                plan = self._plans[cls] = self._new_plan(cls)
            return plan

    def _new_plan(self, cls: type[Event]) -> _Plan:
        name = cls.__qualname__.rpartition("<locals>.")[2]
        from bus_core.serialization.converter import Record, record_of
        from bus_core.serialization.json_shapes import UnsupportedType

        if issubclass(cls, BaseEvent):
            return _Plan(cls, name, event_type_of(cls), Record(), may_be_quick=False)
        try:
            fields = record_of(self.converter, cls, hints_of(cls), leave_out=_BASE_FIELDS, trusted=True)
        except (UnsupportedType, TypeError, RecursionError) as error:
            raise SerializationError(f"{name} cannot be encoded: {error}") from error
        has_usual_metadata = attrs.fields_dict(cast(Any, cls))["metadata"].default is NO_METADATA
        return _Plan(cls, name, event_type_of(cls), fields, may_be_quick=has_usual_metadata)

    def _plan_to_decode(self, cls: type[Event]) -> _Plan:
        try:
            return self._plan(cls)
        except SerializationError as error:
            raise DeserializationError(str(error).replace("encoded", "decoded", 1)) from error


def _sentences(error: Unfit) -> str:
    return "; ".join(f"{path.lstrip('.')} {words}" for path, words in error.faults)


def _refuse(plan: _Plan, faults: list[str]) -> NoReturn:
    raise DeserializationError(f"not a valid {plan.name}: {'; '.join(faults)}") from None


def _type_faults(found: Any, expected: str | None) -> list[str]:
    if found is None:
        return ["type is missing"]
    if type(found) is not str or not found:
        return ["type must be a non-empty str"]
    if expected is None or found == expected:
        return []
    shown = f" ({found!r})" if _SAFE_TYPE.fullmatch(found) else ""
    return [f"type must be {expected!r}, not another one{shown}"]
