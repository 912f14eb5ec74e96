"""Checks the arguments that callers pass to the bus."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from bus_core.abc import Seconds
from bus_core.dispatch.codec import is_text, key_of
from bus_core.errors import EventTypeMismatch, InvalidTopic, SerializationError
from bus_core.events.base import Event
from bus_core.events.messages import NO_HEADERS
from bus_core.events.primitives import FrozenMapping
from bus_core.events.topics import Topic, class_name

__all__ = ["as_seconds", "check_topic_given", "checked_event", "checked_headers", "described"]

MOST_HEADER_BYTES: Final = 65_536
"""The most bytes of the headers of one event, because every consumer reads them first."""


def as_seconds(value: Seconds) -> float:
    """A timeout in seconds; raises ``TypeError`` or ``ValueError``."""
    seconds: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"a timeout is a number of seconds or a timedelta, got {value!r}")
    if not seconds >= 0:
        raise ValueError(f"a timeout must be at least 0 seconds, got {value!r}")
    return float(seconds)


def described(value: object) -> str:
    """Describes a value by its type, without its content."""
    return repr(value) if value is None or isinstance(value, int | float) else f"a {class_name(type(value))}"


def check_topic_given(topic: object) -> None:
    """Refuses a function in place of a topic, which a decorator without parentheses would pass."""
    if isinstance(topic, Topic | str):
        return
    if inspect.isroutine(topic):
        raise InvalidTopic(
            f"subscribe takes a topic first, and got the function {getattr(topic, '__qualname__', topic)!r}; "
            "as a decorator write @bus.subscribe(TOPIC)"
        )
    raise InvalidTopic(f"a topic is a Topic or the name of one, got {described(topic)}")


def checked_event(topic: Topic[Any], event: object) -> Event:
    """The event, if its class is the topic's or the topic carries any class; raises ``EventTypeMismatch``.

    An event of a subclass would arrive in process, and could not be decoded anywhere else. Raises
    ``SerializationError`` when the topic's key function returns no key, even where no key is needed.
    """
    if isinstance(event, Event) and topic.event_class in (type(event), Event):
        if topic.key is not None:
            key_of(topic, event)
        return event
    got = class_name(type(event))
    if isinstance(event, topic.event_class):
        got += ", a subclass, which could not be decoded again; give it a topic of its own"
    raise EventTypeMismatch(topic.name, class_name(topic.event_class), got)


def checked_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """A frozen copy of headers. Raises ``TypeError``, and ``SerializationError`` for text that cannot be
    encoded or is too large.

    Every adapter refuses the same headers, at this point, because events of others travel in the same batch.
    """
    if not headers:
        return NO_HEADERS
    if headers.__class__ is not dict and not isinstance(headers, Mapping):
        raise TypeError(f"headers map str to str, got a {type(headers).__name__}")
    try:
        text = "".join([*headers, *headers.values()])
    except TypeError:  # the loop below names the one that is no str
        text = ""
    if not (text and text.isascii() and len(text) <= MOST_HEADER_BYTES):
        _look_at_each(headers)
    return headers if headers.__class__ is FrozenMapping else FrozenMapping(headers)


def _look_at_each(headers: Mapping[str, str]) -> None:
    """Raises the error of the first invalid header, if there is one."""
    size = 0
    for key, value in headers.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"headers map str to str, got {key!r}: a {type(value).__name__}")
        if key.isascii() and value.isascii():
            size += len(key) + len(value)
        elif is_text(key) and is_text(value):
            size += len(key.encode()) + len(value.encode())
        else:
            raise SerializationError(
                f"the header {key!r} cannot be encoded: it holds a lone surrogate, which is no character"
            )
        if size > MOST_HEADER_BYTES:
            raise SerializationError(
                f"the headers have more than {MOST_HEADER_BYTES:,} bytes, names and values together "
                f"(counted up to {key[:60]!r}); put large values into the event"
            )
