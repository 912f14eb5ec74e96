"""Upcasters: functions that bring the data of older versions of an event class to its current version.

They are kept by the class itself. A reader looks them up at each old message, so that it does not matter in
which order modules are imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from bus_core.errors import DeserializationError
from bus_core.events.base import BaseEvent, Event, event_version_of
from bus_core.runtime.error_text import place_of

__all__ = ["Upcaster", "missing_upcasters", "upcast", "upcaster", "upcasters_of"]

Upcast = Callable[[dict[str, Any]], Mapping[str, Any]]
U = TypeVar("U", bound=Upcast)


@attrs.frozen
class Upcaster:
    """One step: ``call`` takes data of ``from_version`` and returns data of ``to_version``."""

    from_version: int
    to_version: int
    call: Upcast

    @property
    def name(self) -> str:
        """The name of the function, with its module."""
        return f"{self.call.__module__}.{self.call.__qualname__}"


def upcaster(
    event_class: type[Event[Any]], *, from_version: int, to_version: int | None = None
) -> Callable[[U], U]:
    """Registers a function that brings the data of an older version to a newer one, for all serializers.

    ::

        @upcaster(UserRegistered, from_version=1)
        def split_name(data):
            first, _, last = data.pop("name").partition(" ")
            return data | {"first_name": first, "last_name": last}

    The function takes the fields as plain data, as in JSON, and returns those of ``to_version``, by default
    the next one. It may change its argument. Steps are chained up to the version of the class. A step must
    be pure: the same data gives the same result, without I/O. Define it in the module of the class, so that
    every process that knows the class knows its upcasters.

    Raises ``TypeError`` for a class without ``@event``, and for what is no plain function. Raises
    ``ValueError`` for versions that the class cannot have had, or a version that another step begins at.
    """
    known = _steps_of(event_class)
    current = event_version_of(event_class)
    last = from_version + 1 if to_version is None and _is_version(from_version) else to_version
    step = f"an upcaster of {event_class.__qualname__} from version {from_version!r}"
    if not _is_version(from_version) or not _is_version(last):
        raise ValueError(f"{step} to {last!r}: versions are ints from 1")
    assert last is not None
    if last <= from_version:
        raise ValueError(f"{step} to {last} leads in a circle; to_version must be greater than from_version")
    if last > current:
        raise ValueError(
            f"{step} to {last}: the class has version {current}; raise it with @event(version={last})"
        )

    def register(function: U) -> U:
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"{step} is a plain function of the data, got {function!r}")
        made = Upcaster(from_version, last, function)
        other = known.get(from_version)
        if other is not None and other.name != made.name:  # the same name: its module was loaded again
            raise ValueError(f"{step} is registered already: {other.name}; one step begins at a version")
        known[from_version] = made
        return function

    return register


def upcasters_of(event_class: type[Event[Any]]) -> Mapping[int, Upcaster]:
    """The steps of a class by the version they begin at.

    The mapping always shows the current state; serializers may keep it.
    """
    return event_class.__event_upcasters__


def missing_upcasters(event_class: type[Event[Any]], version: int) -> int | None:
    """The version at which the chain of steps from ``version`` breaks off; None when it is complete."""
    steps, current = event_class.__event_upcasters__, event_version_of(event_class)
    while version < current:
        step = steps.get(version)
        if step is None:
            return version
        version = step.to_version
    return None


def upcast(event_class: type[Event[Any]], data: Mapping[str, Any], version: int) -> Mapping[str, Any]:
    """Brings data of an older version to the version of the class.

    Returns the data as it is when the class has no upcasters, and when ``version`` is not older. Raises
    ``DeserializationError`` when a step is missing, raises, or returns anything but a mapping. The error
    does not quote values.
    """
    steps, current = event_class.__event_upcasters__, event_version_of(event_class)
    if not steps or version >= current:
        return data
    name, begun = event_class.__qualname__.rpartition("<locals>.")[2], version
    while version < current:
        step = steps.get(version)
        if step is None:
            known = ", ".join(f"{each.from_version} -> {each.to_version}" for each in _in_order(steps))
            error = DeserializationError(
                f"version {begun} of {name} cannot be brought to version {current}: no upcaster begins at "
                f"version {version} (known: {known}); write @upcaster({name}, from_version={version})"
            )
            error.other_version = begun
            raise error
        data = _called(name, step, dict(data))
        version = step.to_version
    return data


def _called(name: str, step: Upcaster, data: dict[str, Any]) -> dict[str, Any]:
    told = f"the upcaster {step.name} of {name}, from version {step.from_version},"
    try:
        made: object = step.call(data)
    except Exception as error:  # its text may quote personal values
        raise DeserializationError(f"{told} raised {type(error).__name__} at {place_of(error)}") from None
    if not isinstance(made, Mapping):
        raise DeserializationError(f"{told} returned a {type(made).__name__}; it must return a dict")
    return dict(made)


def _in_order(steps: Mapping[int, Upcaster]) -> list[Upcaster]:
    return [steps[version] for version in sorted(steps)]


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _steps_of(event_class: Any) -> dict[int, Upcaster]:
    is_event = isinstance(event_class, type) and issubclass(event_class, Event)
    has_version = is_event and event_class is not Event and not issubclass(event_class, BaseEvent)
    if not has_version or "__event_upcasters__" not in vars(event_class):
        raise TypeError(
            f"upcasters are for a class with the decorator @event, got {event_class!r}; "
            "an event without a class has no version"
        )
    steps: dict[int, Upcaster] = event_class.__event_upcasters__
    return steps
