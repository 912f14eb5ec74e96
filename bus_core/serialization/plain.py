"""Events as plain data and back: the base for serializers of any format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from bus_core.errors import DeserializationError, InvalidEvent
from bus_core.events.base import BaseEvent, Event, event_type_of, event_version_of, model_of
from bus_core.events.faults import Unfit, unfit
from bus_core.events.ids import read_uuid
from bus_core.events.primitives import FrozenMapping
from bus_core.events.upcasting import upcast
from bus_core.serialization.json_reading import fields_reader_of
from bus_core.serialization.json_values import read_datetime

__all__ = ["from_data", "to_data"]

E = TypeVar("E", bound=Event[Any])
Reader = Callable[[Mapping[str, Any]], dict[str, Any]]

_LARGEST: Final = 10**40
"""Larger than every int that is an id; the text of a much larger one would take long."""

_readers: WeakKeyDictionary[type[Any], Reader] = WeakKeyDictionary()


def to_data(event: Event[Any]) -> dict[str, Any]:
    """The event as plain data: dicts with text keys, lists, str, int, float, bool and None.

    It has ``event_id``, ``type``, ``version``, ``aggregate_id`` (a str, or an int), ``occurred_at`` and
    ``metadata``, and the fields of the class in ``data``, in the same forms as in JSON. The data is new: the
    caller may change it. The data of a ``BaseEvent`` has no version: its ``version`` is 1.
    """
    return event.to_dict()


def from_data(event_class: type[E], data: Mapping[str, Any]) -> E:
    """The event of plain data, as ``to_data`` returns it. Every value is checked.

    Unknown keys are ignored. Data of an older ``version`` passes the upcasters of the class. ``version``,
    ``occurred_at`` and ``metadata`` may be missing; ``type`` may be missing if the class has one.

    Raises ``DeserializationError``, and nothing else, whatever the data is. It names each fault and quotes no
    value. Its ``other_version`` is set if the data has another version than the class.
    """
    name = event_class.__qualname__.rpartition("<locals>.")[2]
    try:
        return _made(event_class, name, data)
    except (RecursionError, MemoryError) as error:
        raise DeserializationError(
            f"not a valid {name}: it cannot be read ({type(error).__name__})"
        ) from None


def _made(event_class: type[E], name: str, data: Any) -> E:
    if not isinstance(data, Mapping):
        raise DeserializationError(f"not a valid {name}: it must be a mapping, got a {type(data).__name__}")
    untyped = issubclass(event_class, BaseEvent)
    version = data.get("version")
    version = version if type(version) is int and not untyped else event_version_of(event_class)
    fields, faults = data.get("data"), list[str]()
    values: dict[str, Any] = {}
    if untyped:
        values["data"] = {} if fields is None else fields
        values["type"] = data.get("type")
    elif data.get("type") not in (None, event_type_of(event_class)):
        faults.append(f"type must be {event_type_of(event_class)!r}, not another one")
    try:
        model = model_of(event_class)
    except TypeError as error:
        raise DeserializationError(f"{name} cannot be decoded: {error}") from error
    for key, read, required in (
        ("event_id", read_uuid, True),
        ("aggregate_id", lambda value: model.id.read(_text(value)), True),
        ("occurred_at", read_datetime, False),
        ("metadata", _metadata, False),
    ):
        value = data.get(key)
        if value is not None:
            try:
                values[key] = read(value)
            except Unfit as error:
                faults += [f"{key} {words}" for _, words in error.faults]
        elif required:
            faults.append(f"{key} is missing")
    if not untyped:
        if not isinstance(fields, Mapping):
            faults.append("data must be a mapping with the event's fields")
        else:
            try:
                values |= _reader_of(event_class)(upcast(event_class, fields, version))
            except Unfit as error:
                faults += [f"{path.lstrip('.')} {words}" for path, words in error.faults]
    if faults:
        _refuse(event_class, name, version, faults)
    try:
        return event_class(**values)
    except InvalidEvent as error:
        _refuse(event_class, name, version, [fault.partition(", got ")[0] for fault in error.faults])
    except (RecursionError, MemoryError):
        raise
    except Exception as error:  # a validator or a converter of the event class
        _refuse(event_class, name, version, [f"the class refuses its values ({type(error).__name__})"])


def _refuse(event_class: type[Any], name: str, version: int, faults: list[str]) -> NoReturn:
    known, told = event_version_of(event_class), "; ".join(faults)
    error = DeserializationError(f"not a valid {name}: {told}")
    if version != known:
        relation = "newer" if version > known else "older"
        error = DeserializationError(
            f"version {version} of {name} is {relation} than version {known}, which is known here, and does "
            f"not fit it: {told}"
        )
        error.other_version = version
    raise error from None


def _reader_of(event_class: type[Event[Any]]) -> Reader:
    reader = _readers.get(event_class)
    if reader is None:
        reader = _readers[event_class] = fields_reader_of(model_of(event_class).own.fields)
    return reader


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if type(value) is int and abs(value) < _LARGEST:
        return str(value)
    raise unfit("a str or an int")


def _metadata(value: Any) -> Mapping[str, str]:
    is_texts = isinstance(value, Mapping) and all(
        type(part) is str for pair in value.items() for part in pair
    )
    if not is_texts:
        raise unfit("a mapping of texts")
    return FrozenMapping(value)
