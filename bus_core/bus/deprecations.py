"""Warnings about deprecated topics and fields: once for each publisher, and for each subscription."""

from __future__ import annotations

import warnings
from typing import Any, Final

import attrs

from bus_core.events.base import Event, model_of
from bus_core.events.shapes import Field
from bus_core.events.topics import Topic, TopicRegistry
from bus_core.runtime.callers import calling_line

__all__ = ["Deprecations"]

_MOST_UNDECLARED: Final = 1000
"""The names of undeclared topics may be without number: beyond this, none is remembered."""


class Deprecations:
    """The deprecations that a bus warns of.

    ``fields`` has for each topic that was published on its deprecated fields that nobody was warned of yet.
    An event takes the longer way, and is looked at, until its topic has none of them. ``registry`` has the
    declared topics.
    """

    def __init__(self, registry: TopicRegistry) -> None:
        self._registry = registry
        self.fields: dict[str, tuple[Field, ...]] = {}

    def look(self, topic: Topic[Any], event: Event[Any]) -> None:
        """Warns of a deprecated topic at its first event, and of a deprecated field at its first use."""
        known = self.fields.get(topic.name)
        if known is None:
            known = _deprecated_fields(topic)
            if topic.deprecated is not None:
                _warn(f"the topic {topic.name!r} is deprecated, and this publishes on it: {topic.deprecated}")
            if topic.name in self._registry or len(self.fields) < _MOST_UNDECLARED:
                self.fields[topic.name] = known
        used = [field for field in known if _is_used(field, event)]
        if not used:
            return
        self.fields[topic.name] = tuple(field for field in known if field not in used)
        for field in used:
            name = topic.event_class.__name__
            _warn(f"the field {field.key!r} of {name} is deprecated, and this sets it: {field.deprecated}")

    def subscribed(self, topic: Topic[Any]) -> None:
        """Warns of a deprecated topic, and of the deprecated fields of its events, at a subscription."""
        if topic.deprecated is not None:
            _warn(f"the topic {topic.name!r} is deprecated, and this subscribes to it: {topic.deprecated}")
        for field in _deprecated_fields(topic):
            name = topic.event_class.__name__
            _warn(f"the field {field.key!r} of {name} is deprecated: {field.deprecated}")


def _deprecated_fields(topic: Topic[Any]) -> tuple[Field, ...]:
    fields = model_of(topic.event_class).own.fields
    return tuple(field for field in fields if field.deprecated is not None)


def _is_used(field: Field, event: Event[Any]) -> bool:
    default = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = attrs.NOTHING if default.takes_self else default.factory()
    return bool(getattr(event, field.name, attrs.NOTHING) != default)


def _warn(text: str) -> None:
    """Warns at the line of the application that called the bus."""
    file, line, module = calling_line()
    seen = module.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, DeprecationWarning, file, line, module.get("__name__"), seen, module)
