"""AsyncAPI 3.0 documents of contracts, one per context or one for the whole application.

A channel is a topic. The owner of a topic sends its events, and each subscription receives them. A payload is
the CloudEvent that the serializer ``json`` writes. Classes of the same name in different modules stay apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from bus_core.serialization import JsonSerializer
from promenade_bus_contracts.examples import Examples
from promenade_bus_contracts.published import Contract, PublishedTopic, Subscriber

__all__ = ["document_of"]

_serializer: Final = JsonSerializer()
_CONTENT_TYPE: Final = "application/cloudevents+json"


def document_of(
    title: str,
    version: str,
    contracts: Iterable[Contract],
    subscribers: Sequence[Subscriber],
    examples: Examples,
) -> dict[str, Any]:
    """Returns the AsyncAPI document of some contracts."""
    return _Document(examples).of(title, version, [*contracts], subscribers)


class _Document:
    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._messages: dict[str, Any] = {}
        self._schemas: dict[str, Any] = {}
        self._names: dict[type[Any], str] = {}

    def of(
        self, title: str, version: str, contracts: Sequence[Contract], subscribers: Sequence[Subscriber]
    ) -> dict[str, Any]:
        channels: dict[str, Any] = {}
        operations: dict[str, Any] = {}
        for contract in contracts:
            for topic in contract.topics.values():
                message = self._message(topic)
                channels[topic.name] = self._channel(topic, contract, message)
                operations |= _operations(topic, contract, subscribers, message)
        tags = [{"name": contract.context} for contract in contracts]
        return {
            "asyncapi": "3.0.0",
            "info": {"title": title, "version": version, **({"tags": tags} if tags else {})},
            "defaultContentType": _CONTENT_TYPE,
            "channels": channels,
            "operations": operations,
            "components": {"messages": self._messages, "schemas": self._schemas},
        }

    def _channel(self, topic: PublishedTopic, contract: Contract, message: str) -> dict[str, Any]:
        deprecated = topic.topic.deprecated
        told = {} if deprecated is None else {"description": f"Deprecated: {deprecated}"}
        return {
            "address": topic.name,
            "title": topic.name,
            **({"summary": topic.summary} if topic.summary else {}),
            **told,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
            "tags": [{"name": contract.context}],
            "x-owner": contract.owner,
        }

    def _message(self, topic: PublishedTopic) -> str:
        """Adds the message of a topic, and the schema of its class; returns the name of the message."""
        name = self._name(topic)
        if name not in self._schemas:
            self._schemas[name] = self._moved(topic.schema, name)
        message: dict[str, Any] = {
            "name": topic.type,
            "title": topic.event_class.__name__,
            "contentType": _CONTENT_TYPE,
            "payload": _envelope(topic, name),
            "x-version": topic.version,
            "x-personal": topic.personal,
        }
        if topic.summary:
            message["summary"] = topic.summary
        if topic.topic.deprecated is not None:
            message["deprecated"] = True
        example = self._examples.of(topic)
        if example is not None:
            body = _serializer.encode(example, topic=topic.name, source=topic.context)
            message["examples"] = [{"name": "example", "payload": json.loads(body)}]
        self._messages[topic.name] = message
        return topic.name

    def _name(self, topic: PublishedTopic) -> str:
        """Returns a name of a class that no other class of the document has: ``identity.UserRegistered``."""
        cls = topic.event_class
        if cls not in self._names:
            name, number = _safe(f"{topic.context}.{cls.__name__}"), 1
            while name in self._names.values():
                number += 1
                name = _safe(f"{topic.context}.{cls.__name__}.{number}")
            self._names[cls] = name
        return self._names[cls]

    def _moved(self, schema: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Moves the definitions of a schema to the components, under names of its own."""
        definitions = schema.get("$defs", {})
        names = {key: f"{name}.{_safe(key)}" for key in definitions}
        for key, definition in definitions.items():
            self._schemas[names[key]] = _draft_7(definition, names)
        return dict(_draft_7({key: part for key, part in schema.items() if key != "$defs"}, names))


def _draft_7(part: Any, names: Mapping[str, str]) -> Any:
    """Returns a schema in JSON Schema draft 7, the dialect of AsyncAPI, with references into components."""
    if isinstance(part, list):
        return [_draft_7(item, names) for item in part]
    if not isinstance(part, Mapping):
        return part
    if "$ref" in part:
        return {"allOf": [{"$ref": f"#/components/schemas/{names[part['$ref'].rpartition('/')[2]]}"}]} | {
            key: value for key, value in part.items() if key != "$ref"
        }
    made = {
        ("items" if key == "prefixItems" else key): value
        if key in ("enum", "required")
        else _draft_7(value, names)
        for key, value in part.items()
    }
    if "properties" in part:  # a field may have the name of a keyword
        made["properties"] = {key: _draft_7(value, names) for key, value in part["properties"].items()}
    return made


def _envelope(topic: PublishedTopic, name: str) -> dict[str, Any]:
    """Returns the schema of the CloudEvent around the data."""
    text: dict[str, Any] = {"type": "string"}
    subject = {**text, "format": "uuid"} if topic.ids == "uuid" else text
    kind = {**text, "const": topic.type} if topic.is_typed else text
    version = {"dataversion": {"type": "integer", "const": topic.version}} if topic.is_typed else {}
    return {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
        "properties": {
            "specversion": {**text, "const": "1.0"},
            "id": {**text, "format": "uuid"},
            "source": text,
            "type": kind,
            "subject": subject,
            "time": {**text, "format": "date-time"},
            "topic": {**text, "const": topic.name},
            **version,
            "datacontenttype": {**text, "const": "application/json"},
            "metadata": {**text, "description": "a JSON object of texts, as text"},
            "data": {"$ref": f"#/components/schemas/{name}"},
        },
    }


def _operations(
    topic: PublishedTopic, contract: Contract, subscribers: Sequence[Subscriber], message: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the operations of a topic: its owner sends, and each subscription receives."""
    channel = {"$ref": f"#/channels/{topic.name}"}
    messages = [{"$ref": f"#/channels/{topic.name}/messages/{message}"}]
    yield (
        f"send.{topic.name}",
        {
            "action": "send",
            "channel": channel,
            "messages": messages,
            "title": f"{contract.context} publishes {topic.name}",
        },
    )
    for subscriber in subscribers:
        if subscriber.takes(topic.name):
            yield (
                f"receive.{_safe(subscriber.service)}.{_safe(subscriber.name)}.{topic.name}",
                {
                    "action": "receive",
                    "channel": channel,
                    "messages": messages,
                    "title": f"{subscriber.name} of {subscriber.service} receives {topic.name}",
                    "x-handler": subscriber.handler,
                },
            )


def _safe(name: str) -> str:
    """Returns a name of the characters that keys of AsyncAPI components have."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
