"""CloudEvents JSON with msgspec, or with the built-in serializer where msgspec may differ."""

from __future__ import annotations

from typing import Any

from bus_core import BaseEvent, Event
from bus_core.serialization import JsonOptions, JsonSerializer
from promenade_bus_msgspec.plans import Plan, plan_of
from promenade_bus_msgspec.untyped import UntypedPlan

__all__ = ["MsgspecSerializer"]


class MsgspecSerializer:
    """Encodes and decodes the documents of ``JsonSerializer``, with the same limits and errors.

    It uses msgspec for classes whose field types both serializers encode alike. When decoding, it accepts the
    result of msgspec only for bytes that are exactly its own encoding. Such bytes have no duplicate key, no
    unknown field and no number out of bounds. The built-in serializer handles everything else, and raises the
    errors. Safe to share between threads.
    """

    def __init__(self, options: JsonOptions | None = None) -> None:
        self._default = JsonSerializer(options)
        self._max_bytes = self._default.options.max_bytes
        self._plans: dict[type[Event[Any]], Plan | UntypedPlan | None] = {}

    @property
    def options(self) -> JsonOptions:
        """The limits for encoding and decoding."""
        return self._default.options

    def check(self, event_class: type[Event[Any]]) -> None:
        """Raises ``SerializationError`` when an annotation of the class cannot be resolved."""
        self._default.check(event_class)

    def is_fast(self, event_class: type[Event[Any]]) -> bool:
        """Returns True if msgspec is used for events of this class."""
        plans = self._plans
        return (plans[event_class] if event_class in plans else self._plan(event_class)) is not None

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        """Returns the event as bytes; raises ``SerializationError`` with the class and the field."""
        try:
            plan = self._plans[type(event)]
        except KeyError:
            plan = self._plan(type(event))
        if plan is not None:
            try:
                body = plan.write(event, topic, source)
            except Exception:
                body = None  # the built-in serializer raises the error, if any
            if body is not None and len(body) <= self._max_bytes:
                return body
        return self._default.encode(event, topic=topic, source=source)

    def decode(self, body: bytes, *, event_class: type[Event[Any]]) -> Event[Any]:
        """Returns the event of the bytes; raises only ``DeserializationError``, whatever the bytes are."""
        try:
            plan = self._plans[event_class]
        except KeyError:
            plan = self._plan(event_class)
        if plan is not None and type(body) is bytes and len(body) <= self._max_bytes:
            try:
                event = plan.read(body)
            except Exception:
                event = None
            if event is not None:
                return event
        return self._default.decode(body, event_class=event_class)

    def _plan(self, cls: type[Any]) -> Plan | UntypedPlan | None:
        max_depth = self.options.max_depth
        plan: Plan | UntypedPlan | None = UntypedPlan(max_depth) if cls is BaseEvent else plan_of(cls)
        if isinstance(plan, Plan) and plan.depth > max_depth:
            plan = None
        self._plans[cls] = plan
        return plan
