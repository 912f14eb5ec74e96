"""What ``Bus.subscribe`` returns, and what it accepts: the user's side of a lane."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from bus_core.abc import RetryPolicy, Seconds, SubscriptionState
from bus_core.errors import InvalidHandler
from bus_core.events import Event
from bus_core.messages import Delivery

if TYPE_CHECKING:
    from bus_core.bus import Bus
    from bus_core.lanes import Lane

__all__ = ["SubscribeDecorator", "Subscription"]

E = TypeVar("E", bound=Event)
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


class SubscribeDecorator(Protocol[E]):
    """The decorator form of ``subscribe``: takes a handler of the topic's events, returns it unchanged."""

    @overload
    def __call__(self, handler: Callable[[E], R], /) -> Callable[[E], R]: ...
    @overload
    def __call__(self, handler: Callable[[E, Delivery], R], /) -> Callable[[E, Delivery], R]: ...


class Subscription:
    """A handler bound to a topic or a pattern under a name."""

    __slots__ = ("_bus", "_handler", "_lane")

    def __init__(self, bus: Bus, lane: Lane, handler: Callable[..., Any]) -> None:
        self._bus = bus
        self._lane = lane
        self._handler = handler

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} to {self.topic!r}>"

    @property
    def name(self) -> str:
        """The name, unique among the subscriptions of overlapping topics."""
        return self._lane.spec.name

    @property
    def topic(self) -> str:
        """The topic's name, or the pattern."""
        return self._lane.spec.topic

    @property
    def group(self) -> str:
        """What its instances share: the name, prefixed by the service."""
        return self._lane.spec.group

    @property
    def mode(self) -> Literal["group", "broadcast"]:
        """Whether instances compete for events, or each gets all."""
        return self._lane.spec.mode

    @property
    def ordered(self) -> bool:
        """Whether the events of one key are handled one after the other."""
        return self._lane.spec.ordered

    @property
    def start(self) -> Literal["earliest", "latest"] | None:
        """Where it begins on an adapter that retains events."""
        return self._lane.spec.start

    @property
    def concurrency(self) -> int | None:
        """How many of its handlers may run at once; None when only the workers bound them."""
        return self._lane._concurrency

    @property
    def timeout(self) -> float | None:
        """How many seconds one attempt may take; None without a bound."""
        return self._lane.timeout

    @property
    def give_up_on(self) -> tuple[type[BaseException], ...]:
        """The errors that are not retried."""
        return self._lane.give_up_on

    def retry_for(self, topic: str) -> RetryPolicy:
        """The policy for events of that topic."""
        return self._lane.policy_for(topic)

    @property
    def handler(self) -> Callable[..., Any]:
        """What was subscribed."""
        return self._handler

    @property
    def state(self) -> SubscriptionState:
        """A snapshot of its counters."""
        return next(
            state
            for state in self._bus.state().subscriptions
            if state.name == self.name and state.topic == self.topic
        )

    async def ready(self) -> None:
        """Returns when the subscription is open on the adapter. Raises ``BusNotStarted`` or ``BusClosed``."""
        await self._bus.subscription_ready(self._lane)

    def pause(self) -> None:
        """Begins no further handler until ``resume``; events go on being accepted and held."""
        self._bus.set_paused(self._lane, paused=True)

    def resume(self) -> None:
        """Undoes ``pause``; harmless when the subscription is not paused."""
        self._bus.set_paused(self._lane, paused=False)

    async def unsubscribe(self) -> None:
        """Takes no further event, and returns when those that were accepted are settled.

        Called from inside a handler it returns at once: waiting would be waiting for itself. A paused
        subscription is resumed for what it holds. On a durable adapter the group stays. Harmless when
        it is called again.
        """
        await self._bus.leave(self._lane)


def check_name(name: object) -> str:
    """The name of a subscription, when it is one; raises ``InvalidHandler``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidHandler(
            f"invalid subscription name {name!r}: 1 to 200 letters, digits, '.', '_', ':' and '-', "
            "beginning with a letter or digit"
        )
    return name


def default_name(qualified_name: str, taken: Callable[[str], bool]) -> str:
    """A name made of a handler's qualified name, made unique by a number."""
    base = (
        re.sub(r"[^A-Za-z0-9._:-]", "", qualified_name.replace("<locals>.", "")).lstrip("._:-")[:180]
        or "handler"
    )
    name, number = base, 1
    while taken(name):
        number += 1
        name = f"{base}-{number}"
    return name


def check_seconds(what: str, value: Seconds | None) -> float | None:
    """A positive duration in seconds; raises ``InvalidHandler``."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidHandler(f"{what} must be a positive number of seconds or a timedelta, got {value!r}")
    return float(seconds)


def check_concurrency(value: object) -> int | None:
    """A positive number of handlers at once; raises ``InvalidHandler``."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise InvalidHandler(f"concurrency must be an int of at least 1, got {value!r}")


def check_error_types(
    value: type[BaseException] | Iterable[type[BaseException]],
) -> tuple[type[BaseException], ...]:
    """Exception classes as a tuple; raises ``InvalidHandler``."""
    types = (value,) if isinstance(value, type) else tuple(value)
    for item in types:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise InvalidHandler(f"give_up_on takes exception classes, got {item!r}")
    return types
