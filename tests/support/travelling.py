"""Runs every event class that a test makes through one property: its events can travel.

They are written by each serializer, read by the class and without it, and come to the same. A class is looked
at once, after the first test that made it, with values made of its shapes and with the first event that the
test made itself.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, cast
from uuid import UUID
from weakref import WeakKeyDictionary, WeakSet

import attrs
import pytest

from bus_core import BaseEvent, Event, SerializationError
from bus_core.events import base
from bus_core.events.shapes import (
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
)
from bus_core.serialization.cloudevents import JsonSerializer

__all__ = ["check_that_events_travel", "pytest_configure", "pytest_runtest_teardown"]

_seen: WeakSet[type[Any]] = WeakSet()
_first_events: WeakKeyDictionary[type[Any], Event[Any]] = WeakKeyDictionary()


class NoSample(Exception):
    """There are values of the shape, but nobody here can make one up."""


SCALARS: Mapping[Any, Any] = {
    str: "é\u2028",
    bool: True,
    int: 2**70,
    float: 0.1,
    type(None): None,
    UUID: UUID(int=5),
    datetime: datetime(2024, 5, 1, 12, microsecond=7, tzinfo=UTC),
    date: date(2024, 5, 1),
    time_of_day: time_of_day(12, 30),
    timedelta: timedelta(days=-1, microseconds=3),
    Decimal: Decimal("-1.50"),
    bytes: b"\x00\xff",
}


def sample_of(shape: Shape, depth: int = 3) -> Any:
    """A value of a shape, in its one form; raises ``NoSample``."""
    if isinstance(shape, Scalar):
        value = SCALARS[shape.base]
        return value if shape.cls is shape.base else shape.cls(value)
    if isinstance(shape, AnyJson):
        return (None, True, 1, 0.5, "x", ())
    if isinstance(shape, EnumMember):
        return next(iter(shape.cls))
    if isinstance(shape, LiteralValue):
        return shape.values[-1]
    if isinstance(shape, Hidden):
        return sample_of(shape.inner, depth)
    if isinstance(shape, Collection):
        return shape.kind([sample_of(shape.item, depth - 1)] if depth > 0 else [])
    if isinstance(shape, FixedTuple):
        return tuple(sample_of(item, depth - 1) for item in shape.items)
    if isinstance(shape, MappingOf):
        return {sample_of(shape.key, depth - 1): sample_of(shape.item, depth - 1)} if depth > 0 else {}
    if isinstance(shape, OneOf):
        return sample_of(shape.alternatives[0 if depth > 0 else -1], depth)
    if isinstance(shape, Recursive) and shape.shape is not None and depth > 0:
        return sample_of(shape.shape, depth - 1)
    if isinstance(shape, RecordShape) and depth > 0:
        given = {field.key: sample_of(field.shape, depth - 1) for field in shape.fields}
        return shape.cls(**given)
    if isinstance(shape, Constrained):
        sample = sample_of(shape.inner, depth)
        if all(rule.check(sample) for rule in shape.rules):
            return sample
    if isinstance(shape, WithJsonForm):
        return shape.form.read(sample_of(shape.inner, depth - 1))
    raise NoSample


def samples_of(cls: type[Event[Any]]) -> Iterator[Event[Any]]:
    """Events of a class: one as a test made it, one with every field, and one with as few as possible."""
    first = _first_events.pop(cls, None)
    if first is not None:
        yield attrs.evolve(cast(Any, first))
    model = base.model_of(cls)
    aggregate_id = {"uuid": UUID(int=9), "int": 9, "text": 'order "9"', "any": UUID(int=9)}[model.id.kind]
    for fields in (model.own.fields, [field for field in model.own.fields if field.default is attrs.NOTHING]):
        try:
            given = {field.key: sample_of(field.shape) for field in fields}
            yield cls(aggregate_id=aggregate_id, **given)
        except Exception:  # it has rules, validators or converters of its own
            continue


def check_that_events_travel(cls: type[Event[Any]]) -> int:
    """Asserts the property for a class; returns how many events were tried."""
    tried = 0
    for made in samples_of(cls):
        for serializer in serializers():
            try:
                body = serializer.encode(made, topic="tests.event.travelled", source="tests")
            except SerializationError as error:
                if "digits" in str(error) or "max_" in str(error):
                    continue  # a limit, which is a setting
                raise
            read = serializer.decode(body, event_class=cls)
            assert serializer.encode(read, topic="tests.event.travelled", source="tests") == body
            by_value = copy.deepcopy(made) == made  # not where a nested class compares by identity
            assert read == made or not by_value, f"{cls.__qualname__}: another event arrives"
            untyped = serializer.decode(body, event_class=BaseEvent)
            assert isinstance(untyped, BaseEvent)
            assert (untyped.type, str(untyped.aggregate_id)) == (made.type, str(made.aggregate_id))
            again = serializer.encode(untyped, topic="tests.event.travelled", source="tests")
            redriven = serializer.decode(again, event_class=cls)
            assert redriven == made or not by_value, f"{cls.__qualname__}: another one without its class"
        tried += 1
    return tried


def serializers() -> Iterator[Any]:
    """Those that are installed."""
    yield JsonSerializer()
    if importlib.util.find_spec("promenade_bus_msgspec"):
        from promenade_bus_msgspec.serializer import MsgspecSerializer

        yield MsgspecSerializer()


def new_classes(below: type[Any] = Event) -> Iterator[type[Any]]:
    """The decorated classes that were not looked at yet."""
    for cls in below.__subclasses__():
        if cls is not BaseEvent and "__event_type__" in vars(cls) and cls not in _seen:
            _seen.add(cls)
            yield cls
        yield from new_classes(cls)


# --- hooks of pytest --------------------------------------------------------------------------------------


def pytest_configure() -> None:
    """Keeps a copy of the first event of each class, for those with rules that no sample keeps."""
    normalize = base._normalize

    def noting(event: Event[Any]) -> None:
        normalize(event)
        cls = type(event)
        if cls not in _seen and cls not in _first_events and "__event_type__" in vars(cls):
            _first_events[cls] = copy.copy(event)

    base._normalize = noting


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """After each test, tries the classes that are new."""
    for cls in [*new_classes()]:
        try:
            base.model_of(cls)
        except TypeError:  # a test about names that are not defined
            continue
        check_that_events_travel(cls)
