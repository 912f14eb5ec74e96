"""Errors travel: between processes, through queues and copies, as those of a task that ran elsewhere do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest

from bus_core import errors
from bus_core.errors import BusError, InvalidEvent, PermanentError

MADE: dict[str, Callable[[], BusError]] = {
    "BufferFull": lambda: errors.BufferFull("buffer", 10),
    "BusClosed": lambda: errors.BusClosed("publish"),
    "BusForked": lambda: errors.BusForked("publish"),
    "BusNotStarted": lambda: errors.BusNotStarted("publish"),
    "CalledFromHandler": lambda: errors.CalledFromHandler("drain the bus"),
    "ConfigError": lambda: errors.ConfigError("app.yaml", ["one fault", "another"]),
    "DeadLetterNotFound": lambda: errors.DeadLetterNotFound("7"),
    "DuplicateSubscription": lambda: errors.DuplicateSubscription("audit", "a.b", "a.#"),
    "EventTypeMismatch": lambda: errors.EventTypeMismatch("a.b", "One", "Other"),
    "HandlerTimeout": lambda: errors.HandlerTimeout("audit", 5.0),
    "InvalidEvent": lambda: errors.InvalidEvent("One", ["a fault"]),
    "PluginConflict": lambda: errors.PluginConflict("adapter", "redis", ["one", "two"]),
    "Postpone": lambda: errors.Postpone(after=timedelta(seconds=3)),
    "PublishFailed": lambda: errors.PublishFailed("no", transient=True),
    "PublishManyError": lambda: errors.PublishManyError([None, PermanentError("no")]),
    "RetryLater": lambda: errors.RetryLater(after=3),
    "UnhealthyError": lambda: errors.UnhealthyError("not well"),
    "UnknownPlugin": lambda: errors.UnknownPlugin("adapter", "rediss", ["redis"]),
    "UnknownTopic": lambda: errors.UnknownTopic("a.c", ["a.b"]),
    "UnsupportedFeature": lambda: errors.UnsupportedFeature("memory", ["it cannot"]),
    "WrongEventLoop": lambda: errors.WrongEventLoop("publish"),
}

CLASSES = {
    name: found
    for name in errors.__all__
    if isinstance(found := getattr(errors, name), type) and issubclass(found, BusError)
}


def make(name: str) -> BusError:
    made = MADE.get(name)
    return made() if made is not None else CLASSES[name]("a text")


def shown(error: BaseException) -> tuple[Any, ...]:
    """All that is known of an error; errors among its values are shown likewise, as they equal nothing."""
    values = {
        key: tuple(map(repr, value)) if isinstance(value, tuple) else value
        for key, value in vars(error).items()
    }
    return type(error), str(error), error.args, values


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    "way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"]
)
def test_every_error_travels(name: str, way: Callable[[BusError], BusError]) -> None:
    """A pickled or copied error is the same one: its class, its sentence, and its facts."""
    error = make(name)
    if "results" in vars(error) and way is not copy.copy:
        assert shown(way(error))[:2] == shown(error)[:2]
    else:
        assert shown(way(error)) == shown(error)


class Refused(PermanentError):
    """An application's own, with facts of its own."""

    def __init__(self, order: int, *, why: str) -> None:
        self.order = order
        super().__init__(f"order {order} is refused: {why}")


class Misfit(InvalidEvent):
    """One of an application that derives from an error with a constructor of its own."""

    def __init__(self, order: int) -> None:
        self.order = order
        super().__init__("Order", [f"order {order} does not fit"])


def test_the_errors_of_applications_travel() -> None:
    """A subclass needs nothing for it, however its constructor is called."""
    error = pickle.loads(pickle.dumps(Refused(7, why="late")))
    assert (type(error), str(error), error.order) == (Refused, "order 7 is refused: late", 7)
    misfit = pickle.loads(pickle.dumps(Misfit(7)))
    assert (type(misfit), str(misfit), misfit.order) == (Misfit, "Order: order 7 does not fit", 7)
    assert misfit.faults == ("order 7 does not fit",)


@attrs.define
class Slotted(PermanentError):
    """One whose facts are in slots, as attrs makes them."""

    order: int


@attrs.frozen
class Frozen(PermanentError):
    """One that cannot be changed."""

    order: int


@attrs.frozen(slots=False)
class FrozenFacts(PermanentError):
    """One that cannot be changed, without slots."""

    order: int


class OwnSlots(PermanentError):
    """One whose facts are in slots that nobody else knows of."""

    __slots__ = ("order",)

    def __init__(self, order: int) -> None:
        self.order = order
        super().__init__(f"order {order}")


@pytest.mark.parametrize("kind", [Slotted, Frozen, FrozenFacts, OwnSlots])
@pytest.mark.parametrize(
    "way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"]
)
def test_errors_travel_wherever_their_facts_are(kind: Any, way: Callable[[Any], Any]) -> None:
    """Slots and frozen classes are as good as attributes."""
    error = kind(7)
    again = way(error)
    assert (type(again), again.order, again.args) == (kind, 7, error.args)
