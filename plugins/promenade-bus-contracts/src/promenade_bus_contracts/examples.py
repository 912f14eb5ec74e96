"""Example events: those that a contract package offers, or made up from the types of the fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final
from uuid import UUID

import attrs

from bus_core import Event
from bus_core.events import (
    AnyJson,
    Collection,
    Constrained,
    EnumMember,
    FixedTuple,
    Hidden,
    LiteralValue,
    MappingOf,
    OneOf,
    RecordShape,
    Recursive,
    Scalar,
    Shape,
    WithJsonForm,
    model_of,
)
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_contracts.published import PublishedTopic

__all__ = ["Examples"]

_AGGREGATE: Final = UUID("01900000-0000-7000-8000-000000000001")
_EVENT: Final = UUID("01900000-0000-7000-8000-000000000002")
_TIME: Final = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


class NoExample(Exception):
    """Raised for a type with rules that only a person can satisfy."""


class Examples:
    """Finds an example event of each class.

    A contract package ``promenade_identity`` offers examples as ``promenade_identity.examples.EXAMPLES``, a
    sequence of events. ``modules`` names further modules with such a sequence.
    """

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self._known: dict[type[Any], Event[Any]] = {}
        self._searched: set[str] = set()
        for name in modules:
            self._load(name, required=True)

    def of(self, topic: PublishedTopic) -> Event[Any] | None:
        """Returns an example of a topic's event, or None if none is offered and none can be made up."""
        cls = topic.event_class
        if not topic.is_typed:
            return None
        package = cls.__module__.rpartition(".")[0]
        if package:
            self._load(f"{package}.examples")
        if cls not in self._known:
            try:
                self._known[cls] = _made_up(cls)
            except Exception:  # its rules, validators and converters are code of the application
                return None
        return self._known[cls]

    def _load(self, name: str, *, required: bool = False) -> None:
        if name in self._searched:
            return
        self._searched.add(name)
        try:
            if not required and find_spec(name) is None:
                return
            found = getattr(import_module(name), "EXAMPLES", None)
        except Exception as error:
            raise CommandFailed(
                f"the examples in {name} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if found is None and required:
            raise CommandFailed(f"the module {name} has no EXAMPLES; name there a sequence of events")
        for example in found or ():
            if isinstance(example, Event):
                self._known.setdefault(type(example), example)


def _made_up(cls: type[Event[Any]]) -> Event[Any]:
    model = model_of(cls)
    given = {field.key: _value(field.shape) for field in model.own.fields if field.default is attrs.NOTHING}
    ids: Mapping[str, Any] = {"uuid": _AGGREGATE, "int": 1, "text": "example"}
    aggregate_id = ids.get(model.id.kind, _AGGREGATE)
    return cls(aggregate_id=aggregate_id, event_id=_EVENT, occurred_at=_TIME, **given)


_VALUES: Final[Mapping[Any, Any]] = {
    str: "example",
    bool: True,
    int: 1,
    float: 1.5,
    type(None): None,
    UUID: UUID("01900000-0000-7000-8000-000000000003"),
    datetime: _TIME,
    date: date(2024, 5, 1),
    time_of_day: time_of_day(12, 0),
    timedelta: timedelta(hours=1),
    Decimal: Decimal("1.50"),
    bytes: b"example",
}


def _value(shape: Shape) -> Any:
    """Returns a value of a shape; raises ``NoExample``."""
    if isinstance(shape, Scalar):
        value = _VALUES[shape.base]
        return value if shape.cls is shape.base else shape.cls(value)
    if isinstance(shape, AnyJson):
        return "example"
    if isinstance(shape, EnumMember):
        return next(iter(shape.cls))
    if isinstance(shape, LiteralValue):
        return shape.values[0]
    if isinstance(shape, Hidden):
        return _value(shape.inner)
    if isinstance(shape, Collection):
        return shape.kind(())
    if isinstance(shape, FixedTuple):
        return tuple(map(_value, shape.items))
    if isinstance(shape, MappingOf):
        return {}
    if isinstance(shape, OneOf):
        return _value(shape.alternatives[0])
    if isinstance(shape, RecordShape):
        required = [field for field in shape.fields if field.default is attrs.NOTHING]
        return shape.cls(**{field.key: _value(field.shape) for field in required})
    if isinstance(shape, Recursive) and shape.shape is not None:
        return _value(shape.shape)
    if isinstance(shape, Constrained):
        value = _value(shape.inner)
        if all(rule.check(value) for rule in shape.rules):
            return value
    if isinstance(shape, WithJsonForm):
        return shape.form.read(_value(shape.inner))
    raise NoExample
