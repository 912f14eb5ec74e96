"""Upcasters: the data of older versions becomes data of the class that is known here."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from bus_core import BaseEvent, DeserializationError, Event, Serializer, event, upcaster
from bus_core.events import missing_upcasters, upcast, upcasters_of
from bus_core.serialization import JsonSerializer
from promenade_bus_msgspec.serializer import MsgspecSerializer

ADDRESS = {"topic": "shop.order.placed", "source": "shop"}
AGGREGATE = UUID(int=1)


@pytest.fixture(params=[JsonSerializer, MsgspecSerializer])
def serializer(request: pytest.FixtureRequest) -> Serializer:
    made: Serializer = request.param()
    return made


def stored(cls: type[Event[Any]], serializer: Serializer, version: int, **data: object) -> bytes:
    """The bytes that a service with that version of the class has written."""
    example = event(type=cls.__event_type__, version=version)(type(cls.__name__, (Event,), {}))
    document = json.loads(serializer.encode(example(aggregate_id=AGGREGATE), **ADDRESS))
    return json.dumps({**document, "data": data}, separators=(",", ":")).encode()


def placed(version: int = 3) -> type[Any]:
    @event(type="order.placed", version=version)
    class Placed(Event):
        first: str
        last: str = ""
        total: int = 0

    return Placed


def split_name(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data.pop("name").partition(" ")
    return data | {"first": first, "last": last}


def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"total": data["total"] * 100}


def test_steps_are_chained(serializer: Serializer) -> None:
    """A message of version 1 passes both steps, one of version 2 the second, one of version 3 none."""
    cls = placed()
    upcaster(cls, from_version=1)(split_name)
    upcaster(cls, from_version=2)(in_cents)
    old: Any = serializer.decode(stored(cls, serializer, 1, name="Ada King", total=5), event_class=cls)
    assert (type(old), old.first, old.last, old.total) == (cls, "Ada", "King", 500)
    body = stored(cls, serializer, 2, first="Ada", last="", total=5)
    newer: Any = serializer.decode(body, event_class=cls)
    assert (newer.first, newer.total) == ("Ada", 500)
    newest: Any = serializer.decode(
        stored(cls, serializer, 3, first="Ada", last="", total=5), event_class=cls
    )
    assert newest.total == 5


def test_a_step_counts_even_where_the_old_data_fits(serializer: Serializer) -> None:
    """Data that has another meaning is upcasted, although the class could read it as it is."""
    cls = placed(version=2)
    body = stored(cls, serializer, 1, first="Ada", last="", total=5)
    assert serializer.decode(body, event_class=cls).total == 5  # type: ignore[attr-defined]
    upcaster(cls, from_version=1)(in_cents)
    assert serializer.decode(body, event_class=cls).total == 500  # type: ignore[attr-defined]


def test_a_step_may_skip_versions(serializer: Serializer) -> None:
    """to_version leads over versions that nobody has stored."""
    cls = placed()
    upcaster(cls, from_version=1, to_version=3)(split_name)
    body = stored(cls, serializer, 1, name="Ada", total=1)
    assert serializer.decode(body, event_class=cls).first == "Ada"  # type: ignore[attr-defined]
    assert missing_upcasters(cls, 1) is None
    assert missing_upcasters(cls, 2) == 2


def test_upcasters_belong_to_one_class() -> None:
    """A class that derives from another one starts without upcasters."""
    cls = placed(version=2)
    upcaster(cls, from_version=1)(split_name)

    @event(version=2)
    class Derived(cls):  # type: ignore[misc]
        more: int = 0

    assert [*upcasters_of(cls)] == [1]
    assert [*upcasters_of(Derived)] == []


def test_a_gap_is_named_and_waits_for_other_code(serializer: Serializer) -> None:
    """A missing step is an error that names it; another instance may have it."""
    cls = placed()
    upcaster(cls, from_version=2)(in_cents)
    with pytest.raises(DeserializationError) as caught:
        serializer.decode(stored(cls, serializer, 1, name="Ada", total=1), event_class=cls)
    assert str(caught.value) == (
        "version 1 of Placed cannot be brought to version 3: no upcaster begins at version 1 "
        "(known: 2 -> 3); write @upcaster(Placed, from_version=1)"
    )
    assert caught.value.other_version == 1
    assert missing_upcasters(cls, 1) == 1


def broken(data: dict[str, Any]) -> dict[str, Any]:
    raise KeyError(data["name"])


def no_dict(data: dict[str, Any]) -> Any:
    return [data]


def half_done(data: dict[str, Any]) -> dict[str, Any]:
    return {"first": 7}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (broken, "from version 1, raised KeyError at .*in broken"),
        (no_dict, "no_dict of Placed, from version 1, returned a list; it must return a dict"),
        (half_done, "not a valid Placed after its upcasters from version 1: first must be a str"),
    ],
)
def test_a_broken_step_is_told_without_values(
    step: Callable[[dict[str, Any]], Any], words: str, serializer: Serializer
) -> None:
    """The error of a step names it, quotes no value, and is not taken for one of another version."""
    cls = placed(version=2)
    upcaster(cls, from_version=1)(step)
    with pytest.raises(DeserializationError, match=words) as caught:
        serializer.decode(stored(cls, serializer, 1, name="a secret"), event_class=cls)
    assert "secret" not in str(caught.value)
    assert caught.value.other_version is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


async def waits(data: dict[str, Any]) -> dict[str, Any]:
    return data


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"from_version": 2}, "from version 2 to 3: the class has version 2; raise it with @event"),
        ({"from_version": 2, "to_version": 1}, "from version 2 to 1 leads in a circle"),
        ({"from_version": 1, "to_version": 1}, "from version 1 to 1 leads in a circle"),
        ({"from_version": 0}, "versions are ints from 1"),
        ({"from_version": "1"}, "from version '1' to None: versions are ints from 1"),
        ({"from_version": True}, "versions are ints from 1"),
    ],
)
def test_wrong_versions_are_refused(versions: dict[str, Any], words: str) -> None:
    """An upcaster leads from an older version to a newer one that the class has or had."""
    with pytest.raises(ValueError, match=words):
        upcaster(placed(version=2), **versions)


def test_two_steps_from_one_version_are_refused() -> None:
    """One step begins at a version; the same function may come again with its reloaded module."""
    cls = placed(version=2)
    upcaster(cls, from_version=1)(split_name)
    upcaster(cls, from_version=1)(split_name)
    with pytest.raises(ValueError, match=r"registered already: .*split_name; one step begins at a version"):
        upcaster(cls, from_version=1)(in_cents)


@pytest.mark.parametrize("cls", [Event, BaseEvent, dict, "Placed"])
def test_only_event_classes_have_upcasters(cls: Any) -> None:
    """Only a class with @event has a version."""
    with pytest.raises(TypeError, match="upcasters are for a class with the decorator @event"):
        upcaster(cls, from_version=1)


def test_an_async_step_is_refused() -> None:
    """A step is a plain function: a coroutine would be no data."""
    with pytest.raises(TypeError, match="is a plain function of the data"):
        upcaster(placed(version=2), from_version=1)(waits)  # type: ignore[type-var]


def test_upcast_for_serializers() -> None:
    """A serializer of any format gets the data of the current version; newer data stays as it is."""
    cls = placed(version=2)
    data = {"name": "Ada King"}
    assert upcast(cls, data, 1) is data
    upcaster(cls, from_version=1)(split_name)
    assert upcast(cls, data, 1) == {"first": "Ada", "last": "King"}
    assert data == {"name": "Ada King"}
    assert upcast(cls, data, 2) is upcast(cls, data, 3) is data


# --- enums that read what they do not know ----------------------------------------------------------------


class Plan(enum.Enum):
    FREE = "free"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> Plan:
        return cls.OTHER


class Level(enum.IntEnum):
    LOW = 1

    @classmethod
    def _missing_(cls, value: object) -> Level | None:
        return cls.LOW if value == 2 else None


def test_an_enum_may_tolerate_new_values(serializer: Serializer) -> None:
    """An enum with _missing_ reads a value of a newer version as one of its members, by type and value."""

    @event(type="plan.chosen")
    class Chosen(Event):
        plan: Plan = Plan.FREE
        level: Level = Level.LOW

    def read(**data: object) -> Any:
        return serializer.decode(stored(Chosen, serializer, 1, **data), event_class=Chosen)

    assert read(plan="gold").plan is Plan.OTHER
    assert read(plan="free", level=2).level is Level.LOW
    for value in (3, True, "1", None):
        with pytest.raises(DeserializationError, match="level must be one of the values of Level"):
            read(level=value)
    with pytest.raises(DeserializationError, match="plan must be one of the values of Plan"):
        read(plan=5)
