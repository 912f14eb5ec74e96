"""CloudEvents JSON: by msgspec where that is certain to mean the same, elsewhere by the built-in one."""

from __future__ import annotations

from typing import Any

from bus_core import BaseEvent, Event
from bus_core.serialization import JsonOptions, JsonSerializer
from promenade_bus_msgspec.plans import Plan, plan_of
from promenade_bus_msgspec.untyped import UntypedPlan

__all__ = ["MsgspecSerializer"]


class MsgspecSerializer:
    """Writes and reads what ``JsonSerializer`` does, with the same limits and the same errors.

    msgspec takes part where nothing can differ: for classes whose fields have types that both treat alike,
    and, in reading, for bytes that are exactly what it would write itself. Such bytes have no key twice, no
    unknown field, no number out of bounds. Everything else goes the way of the built-in serializer, which
    also says what is wrong with what is refused. Safe to share between threads.
    """

    def __init__(self, options: JsonOptions | None = None) -> None:
        self._default = JsonSerializer(options)
        self._max_bytes = self._default.options.max_bytes
        self._plans: dict[type[Event[Any]], Plan | UntypedPlan | None] = {}

    @property
    def options(self) -> JsonOptions:
        """The bounds of what it reads and writes."""
        return self._default.options

    def check(self, event_class: type[Event[Any]]) -> None:
        """Raises ``SerializationError`` when an annotation of the class cannot be resolved."""
        self._default.check(event_class)

    def is_fast(self, event_class: type[Event[Any]]) -> bool:
        """Whether msgspec takes part for events of this class."""
        plans = self._plans
        return (plans[event_class] if event_class in plans else self._plan(event_class)) is not None

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        """The event as bytes; raises ``SerializationError`` naming the class and the field."""
        try:
            plan = self._plans[type(event)]
        except KeyError:
            plan = self._plan(type(event))
        if plan is not None:
            try:
                body = plan.write(event, topic, source)
            except Exception:
                body = None  # the other one says what is wrong, if anything is
            if body is not None and len(body) <= self._max_bytes:
                return body
        return self._default.encode(event, topic=topic, source=source)

    def decode(self, body: bytes, *, event_class: type[Event[Any]]) -> Event[Any]:
        """The event of the bytes; raises ``DeserializationError``, whatever they are."""
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
