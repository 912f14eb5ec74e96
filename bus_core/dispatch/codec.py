"""Encodes events into messages and decodes them: the only place where types change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus_core.abc import Serializer
from bus_core.errors import SerializationError
from bus_core.events.base import BaseEvent, Event
from bus_core.events.ids import text_of_aggregate, text_of_id
from bus_core.events.messages import Message
from bus_core.events.primitives import FrozenMapping
from bus_core.events.topics import Topic, TopicRegistry

__all__ = ["Codec", "is_text", "key_of"]


def key_of(topic: Topic[Any], event: Event) -> str:
    """The ordering key of an event. Raises ``SerializationError`` when the topic's ``key`` returns none."""
    if topic.key is None:
        return text_of_aggregate(event.aggregate_id)
    try:
        key: object = topic.key(event)
    except Exception as error:
        raise SerializationError(
            f"the key function of topic {topic.name!r} raised {type(error).__name__} "
            f"for an event of class {type(event).__name__}"
        ) from error
    if not isinstance(key, str):
        raise SerializationError(
            f"the key function of topic {topic.name!r} must return a str, got {type(key).__name__}"
        )
    if not is_text(key):
        raise SerializationError(
            f"the key function of topic {topic.name!r} returned text that cannot be encoded: it holds a lone "
            "surrogate, which is no character"
        )
    return key


def is_text(text: str) -> bool:
    """True when a str can be encoded, which lone surrogates (halves of characters) cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Codec:
    """Encodes events into messages, and decodes messages into the classes of the known topics.

    ``source`` names the service that publishes.
    """

    def __init__(self, serializer: Serializer, registry: TopicRegistry, source: str) -> None:
        self._serializer = serializer
        self._registry = registry
        self._source = source

    def encode(self, topic: Topic[Any], event: Event, headers: Mapping[str, str]) -> Message:
        """The message of an event; raises ``SerializationError``."""
        body: object = self._serializer.encode(event, topic=topic.name, source=self._source)
        if not isinstance(body, bytes):  # a serializer is a plugin
            raise SerializationError(
                f"the serializer made a {type(body).__name__} instead of bytes of an event of "
                f"{type(event).__name__} for topic {topic.name!r}"
            )
        return Message(
            text_of_id(event.event_id),
            topic.name,
            key_of(topic, event),
            body,
            headers if type(headers) is FrozenMapping else FrozenMapping(headers),
        )

    def encode_named(self, topic: str, event: Event) -> Message:
        """Encodes an event for a topic given by name; raises ``SerializationError``."""
        return self.encode(self._topic(topic), event, FrozenMapping())

    def special_key(self, topic: str, event: Event) -> str | None:
        """The ordering key that the topic derives from an event; None where it is the ``aggregate_id``.

        Raises ``SerializationError``.
        """
        declared = self._registry.get(topic)
        return None if declared is None or declared.key is None else key_of(declared, event)

    def decode(self, message: Message) -> Event[Any]:
        """The event of a message, of its topic's class, or a ``BaseEvent`` when the topic is unknown.

        Raises ``DeserializationError`` and nothing else, as serializers do.
        """
        topic = self._registry.get(message.topic)
        event_class = BaseEvent if topic is None else topic.event_class  # unknown: the message decides
        if event_class is Event:  # an undeclared topic accepts any event
            event_class = BaseEvent
        return self._serializer.decode(message.body, event_class=event_class)

    def _topic(self, name: str) -> Topic[Any]:
        return self._registry.get(name) or Topic(name, BaseEvent)
