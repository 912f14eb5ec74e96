"""The built-in serializer: CloudEvents 1.0 in the structured JSON format.

``id`` is the event id, ``source`` the service, ``subject`` the aggregate id, ``data`` the event's own
fields. Extensions: ``topic``, ``dataversion`` (the version of the class; left out for an event without one)
and ``metadata`` (left out when empty). The latter is a JSON object as text: an extension has no structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from threading import RLock
from typing import Any, Final, NoReturn
from uuid import UUID

import attrs

from bus_core.errors import DeserializationError, InvalidEvent, SerializationError
from bus_core.events.base import BaseEvent, Event, event_type_of, event_version_of, model_of
from bus_core.events.faults import Unfit, unfit, within
from bus_core.events.ids import IdForm, read_uuid
from bus_core.events.models import NO_METADATA, normalize_occurred_at
from bus_core.events.primitives import FrozenMapping, text_of_uuid
from bus_core.events.shapes import Field
from bus_core.events.upcasting import Upcaster, upcast, upcasters_of
from bus_core.events.values import write_datetime
from bus_core.serialization.json_quick import quick_reader_of
from bus_core.serialization.json_reading import fields_reader_of
from bus_core.serialization.json_text import DuplicateKey, JsonReader, JsonTextError, JsonWriter
from bus_core.serialization.json_values import read_datetime
from bus_core.serialization.json_writing import Writers, depth_of
from bus_core.serialization.options import JsonOptions

__all__ = ["JsonSerializer"]

_ATTRIBUTES = frozenset({"specversion", "id", "source", "type", "subject", "time", "data", "datacontenttype"})
_SAFE_TYPE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MAX_HEADS = 1000


@attrs.frozen
class _Plan:
    """The readers and writers of one event class: of its own fields, and of its ids.

    ``write`` returns the text of ``data``, and ``depth`` bounds the nesting of a document. ``quick`` makes an
    event of usual values. ``untyped`` is for events without a class: the writer of their data and their type
    name. ``upcasters`` may be registered later. ``heads`` are texts that begin the documents of the class.
    """

    cls: type[Event[Any]]
    name: str
    type: str
    version: int
    upcasters: Mapping[int, Upcaster]
    untyped: bool
    keys: frozenset[str]
    id: IdForm
    write: Callable[[Any], str]
    depth: float
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    quick: Callable[..., Event[Any]]
    heads: dict[tuple[str, str, str], str] = attrs.field(factory=dict)


class JsonSerializer:
    """Writes events as CloudEvents JSON, and reads them. Threads may share it."""

    def __init__(self, options: JsonOptions | None = None) -> None:
        self.options = options or JsonOptions()
        self._reader = JsonReader(self.options)
        self._writer = JsonWriter(self.options)
        self._plans: dict[type[Event[Any]], _Plan] = {}
        self._planning = RLock()
        self._writers = Writers(self.options, self._writer.text)

    def check(self, event_class: type[Event[Any]]) -> None:
        """Raises ``SerializationError`` when an annotation of the class cannot be resolved."""
        self._plan(event_class)

    # --- encoding

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        """The event as bytes. Raises ``SerializationError`` that names the class and the field."""
        cls = type(event)
        plan = self._plans.get(cls) or self._plan(cls)
        try:
            text = self._writer.text
            aggregate_id = event.aggregate_id
            if aggregate_id.__class__ is UUID:
                subject = f'"{text_of_uuid(aggregate_id)}"'
            else:
                subject = text(str(aggregate_id))
            head = plan.heads.get((topic, source, event.type)) or self._head(plan, topic, source, event.type)
            metadata = f'"metadata":{text(text(dict(event.metadata)))},' if event.metadata else ""
            return self._writer.bounded(
                f'{head}"id":"{text_of_uuid(event.event_id)}","subject":{subject},'
                f'"time":"{write_datetime(event.occurred_at)}",{metadata}"data":{plan.write(event)}}}',
                depth=plan.depth,
            )
        except Unfit as error:
            raise SerializationError(f"{plan.name} cannot be encoded: {_sentences(error)}") from None
        except JsonTextError as error:
            raise SerializationError(f"{plan.name} cannot be encoded: {error}") from None
        except (TypeError, ValueError, AttributeError, RecursionError, MemoryError) as error:
            raise SerializationError(
                f"{plan.name} cannot be encoded: a field holds a value that does not fit its type "
                f"({type(error).__name__})"
            ) from None

    def _head(self, plan: _Plan, topic: str, source: str, event_type: str) -> str:
        version = {} if plan.untyped else {"dataversion": plan.version}  # data without a class may have any
        attributes = {
            "specversion": "1.0",
            "type": event_type,
            "source": source,
            "topic": topic,
            **version,
            "datacontenttype": "application/json",
        }
        head = self._writer.text(attributes)[:-1] + ","
        if len(plan.heads) < _MAX_HEADS:
            plan.heads[topic, source, event_type] = head
        return head

    # --- decoding

    def decode(self, body: bytes, *, event_class: type[Event[Any]]) -> Event[Any]:
        """The event of the bytes. Raises ``DeserializationError`` for any other bytes.

        Unknown attributes and data fields are ignored, also those of a newer ``dataversion``. The data of an
        older one passes the upcasters of the class, if it has any.
        """
        plan = self._plans.get(event_class) or self._plan_to_decode(event_class)
        try:
            document = self._reader.read(body)
        except DuplicateKey as error:
            known = error.key in _ATTRIBUTES or error.key in plan.keys
            _refuse(plan, [f"{error}: {error.key!r}" if known else str(error)])
        except JsonTextError as error:
            _refuse(plan, [str(error)])
        if plan.upcasters:
            document = _upcasted(plan, document)
        event = self._quick_event(plan, document)
        if event is not None:
            return event
        try:
            return self._event(plan, document)
        except (RecursionError, MemoryError) as error:
            _refuse(plan, [f"it cannot be read ({type(error).__name__})"])

    def _quick_event(self, plan: _Plan, document: dict[str, Any]) -> Event[Any] | None:
        """The event, if the document is entirely usual."""
        if "data_base64" in document:
            return None
        try:
            source = document["source"]
            kind, data = document["type"], document["data"]
            if (
                document["specversion"] != "1.0"
                or not (kind == plan.type or plan.untyped)
                or type(source) is not str
                or not source
            ):
                return None
            occurred_at = read_datetime(document["time"])
            metadata = document.get("metadata")
            return plan.quick(
                {"type": kind, "data": data} if plan.untyped else data,
                plan.id.read(document["subject"]),
                read_uuid(document["id"]),
                occurred_at if occurred_at.tzinfo is UTC else normalize_occurred_at(occurred_at),
                NO_METADATA if metadata is None else self._read_metadata(metadata),
            )
        except Exception:  # whatever it is, the thorough reader finds and reports it
            return None

    def _event(self, plan: _Plan, document: dict[str, Any]) -> Event[Any]:
        if document.get("specversion") != "1.0":
            _refuse(plan, ["specversion must be '1.0' (CloudEvents 1.0 in the JSON format)"])
        faults: list[str] = []
        values: dict[str, Any] = {}
        source = document.get("source")
        if type(source) is not str or not source:
            faults.append("source must be a non-empty str" if source is not None else "source is missing")
        readers = (
            ("id", "event_id", read_uuid, True),
            ("subject", "aggregate_id", plan.id.read, True),
            ("time", "occurred_at", read_datetime, False),
            ("metadata", "metadata", self._read_metadata, False),
        )
        for name, field, read, required in readers:
            value = document.get(name)
            if value is not None:
                try:
                    values[field] = read(value)
                except Unfit as error:
                    faults += [f"{name} {words}" for _, words in error.faults]
            elif required:
                faults.append(f"{name} is missing")
        if document.get("type") != plan.type or plan.untyped:
            faults += _type_faults(document.get("type"), None if plan.untyped else plan.type)
        data = document.get("data")
        if document.get("data_base64") is not None:
            faults.append(
                "data_base64 (binary data) is not supported: data must be a JSON object with the fields"
            )
        elif data is not None and type(data) is not dict:
            faults.append("data must be an object with the event's fields")
        elif plan.untyped:
            values["type"], values["data"] = document.get("type"), data or {}
        else:
            try:
                values.update(plan.read(data or {}))
            except Unfit as error:
                faults += [f"{path.lstrip('.')} {words}" for path, words in error.faults]
        if faults:
            _refuse(plan, faults, document)
        try:
            return plan.cls(**values)
        except InvalidEvent as error:
            _refuse(plan, [fault.partition(", got ")[0] for fault in error.faults], document)
        except (RecursionError, MemoryError):
            raise
        except Exception as error:  # a validator or a converter of the event class
            _refuse(plan, [f"the class refuses its values ({type(error).__name__})"], document)

    def _read_metadata(self, value: Any) -> Mapping[str, str]:
        try:
            metadata = self._reader.read(value.encode())
        except (AttributeError, UnicodeEncodeError, JsonTextError):
            metadata = None
        if metadata is None or not all(type(item) is str for item in metadata.values()):
            raise unfit("a JSON object of texts, as text")
        return FrozenMapping(metadata)

    # --- plans

    def _plan(self, cls: type[Event[Any]]) -> _Plan:
        # One at a time: no thread may use the half-compiled plan of another.
        with self._planning:
            plan = self._plans.get(cls)
            if plan is None:
                plan = self._plans[cls] = self._new_plan(cls)
            return plan

    def _new_plan(self, cls: type[Event[Any]]) -> _Plan:
        name = cls.__qualname__.rpartition("<locals>.")[2]
        try:
            model = model_of(cls)
        except TypeError as error:
            raise SerializationError(f"{name} cannot be encoded: {error}") from error
        fields = model.own.fields
        untyped = issubclass(cls, BaseEvent)
        return _Plan(
            cls,
            name,
            event_type_of(cls),
            event_version_of(cls),
            upcasters_of(cls),
            untyped,
            frozenset(field.key for field in fields),
            model.id,
            self._writer_of_data(fields[-1]) if untyped else self._writers.writer_of_fields(fields),
            1 + depth_of(model.own),
            fields_reader_of(fields),
            quick_reader_of(cls),
        )

    def _writer_of_data(self, field: Field) -> Callable[[Any], str]:
        """The writer of the data of an event without a class."""
        write_data = self._writers.writer_of(field.shape)

        def write(event: Any) -> str:
            try:
                return write_data(event.data)
            except Unfit as error:
                raise within(f".{field.key}", error) from None

        return write

    def _plan_to_decode(self, cls: type[Event[Any]]) -> _Plan:
        try:
            return self._plan(cls)
        except SerializationError as error:
            raise DeserializationError(str(error).replace("encoded", "decoded", 1)) from error


def _upcasted(plan: _Plan, document: dict[Any, Any]) -> dict[Any, Any]:
    """The document with its data in the version of the class; the same one if it is not older."""
    version, data = document.get("dataversion"), document.get("data")
    if type(version) is not int or version >= plan.version or type(data) is not dict:
        return document
    data = upcast(plan.cls, data, version)
    return {**document, "data": data, "dataversion": plan.version, _UPCASTED: version}


def _sentences(error: Unfit) -> str:
    return "; ".join(f"{path.lstrip('.')} {words}" for path, words in error.faults)


_NOTHING: Final[Mapping[Any, Any]] = {}
_UPCASTED: Final = object()
"""The key of a document whose data is upcasted, with the version that it had; no message has such a key."""


def _refuse(plan: _Plan, faults: list[str], document: Mapping[Any, Any] = _NOTHING) -> NoReturn:
    known, version = event_version_of(plan.cls), document.get("dataversion")
    if type(version) is not int or version == known or plan.untyped:
        begun = document.get(_UPCASTED)
        after = "" if begun is None else f" after its upcasters from version {begun}"
        raise DeserializationError(f"not a valid {plan.name}{after}: {'; '.join(faults)}") from None
    relation = "newer" if version > known else "older"
    error = DeserializationError(
        f"version {version} of {plan.name} is {relation} than version {known}, which is known here, and does "
        f"not fit it: {'; '.join(faults)}"
    )
    error.other_version = version
    raise error from None


def _type_faults(found: Any, expected: str | None) -> list[str]:
    if found is None:
        return ["type is missing"]
    if type(found) is not str or not found:
        return ["type must be a non-empty str"]
    if expected is None or found == expected:
        return []
    shown = f" ({found!r})" if _SAFE_TYPE.fullmatch(found) else ""
    return [f"type must be {expected!r}, not another one{shown}"]
