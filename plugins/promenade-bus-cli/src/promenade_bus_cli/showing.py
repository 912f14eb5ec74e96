"""The display of events that others have published: no personal data, unless asked for."""

from __future__ import annotations

from typing import Any

from bus_core import BaseEvent, Bus, DeserializationError, Event, Message

__all__ = ["shown_event"]


def shown_event(bus: Bus, message: Message) -> dict[str, Any]:
    """``event``: the event with personal values hidden; or ``withheld``: the reason why it is not shown.

    Without the class of an event nobody knows which of its values are personal.
    """
    topic = bus.topics.get(message.topic)
    if topic is None or topic.event_class in (Event, BaseEvent):
        return {"withheld": f"the class of the events of {message.topic!r} is not installed here"}
    try:
        event = bus.parts.codec.decode(message)
    except DeserializationError:
        return {"withheld": f"the body is not a {topic.event_class.__name__} as it is known here"}
    return {"event": event.to_dict(personal=False)}
