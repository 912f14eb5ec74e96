"""Reads events from CloudEvents in JSON and from command-line options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from bus_core import BaseEvent, DeserializationError, Event, Message, Topic, uuid7
from bus_core.bus import BusParts
from bus_core.dispatch import Codec
from bus_core.events import Unfit, event_type_of, event_version_of, model_of, nearest_names, upcasters_of
from bus_core.serialization import JsonOptions, JsonReader, JsonSerializer, JsonTextError
from promenade_bus_cli.contracts import has_text_form, names_of
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.lines import Line

__all__ = ["DocumentReader", "EventOptions"]


@dataclass(frozen=True)
class EventOptions:
    """The command-line options that describe one event."""

    topic: str | None
    aggregate_id: str | None
    data: str | None
    settings: tuple[str, ...]
    type: str | None

    @property
    def describe_an_event(self) -> bool:
        """Returns True when an option other than the topic is given."""
        return bool(self.aggregate_id or self.data or self.settings or self.type)


class DocumentReader:
    """Reads events strictly, into the classes of their topics.

    A document is always a CloudEvent in JSON, whatever the serializer of the bus. The limits are those of the
    bus's serializer if it is ``json``. Raises a ``BusError`` that never quotes a value.
    """

    def __init__(self, parts: BusParts, topic: str | None) -> None:
        self._parts = parts
        self._topic = topic
        self._known_names: dict[str, tuple[str, ...]] = {}
        serializer = JsonSerializer()
        self._codec: Any = (
            parts.codec
            if parts.config.serializer.name == "json"
            else Codec(serializer, parts.registry, parts.config.service)
        )
        self._reader = JsonReader(JsonOptions(max_bytes=1 << 30))

    # --- one line of a file ---

    def from_line(self, line: Line) -> tuple[Topic[Any], Event]:
        """Returns topic and event of a line; raises a ``BusError``."""
        if line.is_cut:
            raise DeserializationError("the line is longer than 64 MiB")
        document = self._document(line.body)
        topic = self._topic_of(document)
        return topic, self._event(topic, line.body, document)

    def names_in(self, line: Line) -> dict[str, str]:
        """Returns the topic and id of a line, as far as they are readable, for an error message."""
        try:
            document = self._document(line.body)
        except DeserializationError:
            return {}
        found = {key: document.get(key) for key in ("topic", "id")}
        if found["topic"] is None:
            found["topic"] = self._topic
        return {
            key: value
            for key, value in found.items()
            if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200
        }

    def _document(self, body: bytes) -> dict[str, Any]:
        try:
            return self._reader.read(body)
        except JsonTextError as error:
            raise DeserializationError(f"not a CloudEvent in JSON: {error}") from None

    def _topic_of(self, document: Mapping[str, Any]) -> Topic[Any]:
        name = document.get("topic", self._topic)
        if name is None:
            raise DeserializationError("topic is missing: add the extension 'topic', or give --topic")
        if not isinstance(name, str):
            raise DeserializationError("topic must be a str")
        return self._parts.registry.find(name)

    def _event(self, topic: Topic[Any], body: bytes, document: Mapping[str, Any]) -> Event:
        unknown = _unknown_fields(topic, document, self._known_names)
        try:
            event: Event = self._codec.decode(Message(id="", topic=topic.name, key="", body=body))
        except DeserializationError as error:
            raise DeserializationError("; ".join([str(error), *unknown])) from None
        if unknown:
            raise DeserializationError(f"not a valid {topic.event_class.__name__}: {'; '.join(unknown)}")
        return event

    # --- one event of options ---

    def from_options(self, options: EventOptions) -> tuple[Topic[Any], Event]:
        """Returns topic and event from options; raises ``CommandFailed`` or a ``BusError``."""
        topic = self._parts.registry.find(options.topic or "")
        untyped = _is_untyped(topic.event_class)
        if options.type is not None and not untyped:
            raise CommandFailed(f"--type is for topics without an event class; {topic.name!r} has one")
        document = {
            "specversion": "1.0",
            "id": str(uuid7()),
            "source": self._parts.config.service,
            "type": (options.type or _last_words(topic.name))
            if untyped
            else event_type_of(topic.event_class),
            "subject": _aggregate_id(options.aggregate_id, BaseEvent if untyped else topic.event_class),
            "time": datetime.now(UTC).isoformat(),
            "topic": topic.name,
            "data": {**_json_object(options.data), **_settings(topic, options.settings)},
        }
        body = json.dumps(document).encode()
        return topic, self._event(topic, body, document)


def _unknown_fields(
    topic: Topic[Any], document: Mapping[str, Any], known_names: dict[str, tuple[str, ...]]
) -> list[str]:
    """Describes fields that the class does not have. Events of other versions may have some.

    Those of an older version may, if the class has upcasters.
    """
    cls, data, version = topic.event_class, document.get("data"), document.get("dataversion")
    if _is_untyped(cls) or not isinstance(data, dict):
        return []
    current = event_version_of(cls)
    if isinstance(version, int) and (version > current or (version < current and upcasters_of(cls))):
        return []
    if topic.name not in known_names:
        known_names[topic.name] = names_of(cls)
    known = known_names[topic.name]
    return [_no_such_field(name, known) for name in data if name not in known]


def _no_such_field(name: str, known: Sequence[str]) -> str:
    if not name.isidentifier() or len(name) > 60:
        return "it has a field with an invalid name"
    nearest = nearest_names(name, known, limit=1)
    return f"it has no field {name!r}" + (f" (did you mean {nearest[0]!r}?)" if nearest else "")


def _last_words(topic: str) -> str:
    return ".".join(topic.split(".")[-2:])


def _aggregate_id(text: str | None, cls: type[Event[Any]]) -> str:
    """Returns an id of the class's type as text; ``new`` makes a UUID where ids are UUIDs."""
    ids = model_of(cls).id
    is_uuid = ids.exact is UUID
    if text is None:
        kind = "UUID" if is_uuid else "ID"
        raise CommandFailed(f"no aggregate id: pass --aggregate-id {kind}" + _OR_NEW * is_uuid)
    if text == "new" and is_uuid:
        return str(uuid7())
    try:
        return str(ids.read(text.lower() if ids.kind == "uuid" else text))
    except Unfit as error:
        wanted = "; ".join(words for _, words in error.faults) + " or 'new'" * is_uuid
        raise CommandFailed(f"--aggregate-id {wanted}, got {text[:60]!r}") from None


_OR_NEW: Final = ", or 'new' for a new id"


def _json_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        return JsonReader(JsonOptions()).read(text.encode("utf-8", "surrogateescape"))
    except JsonTextError as error:
        raise CommandFailed(f"--data must be a JSON object: {error}") from None


def _settings(topic: Topic[Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """Reads the fields of ``--set``. A field that accepts a str gets the text; any other is read as JSON."""
    fields = () if _is_untyped(topic.event_class) else model_of(topic.event_class).own.fields
    shapes = {field.key: field.shape for field in fields}
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise CommandFailed("--set takes KEY=VALUE, for example --set email=a@example.com")
        if key in found:
            raise CommandFailed(f"--set gives {key!r} twice")
        found[key] = text if key in shapes and has_text_form(shapes[key]) else _json_or_text(text)
    return found


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_untyped(cls: type[Event]) -> bool:
    """Returns True for a topic without an event class of its own, or one that is not declared."""
    return cls is Event or issubclass(cls, BaseEvent)
