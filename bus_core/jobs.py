"""The engine's notes about accepted events: small mutable records, made only when they are needed.

An event for one plain handler has none of them: it waits in the queue as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bus_core.events import Event
from bus_core.messages import Attempt, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bus_core.lanes import Lane

__all__ = ["DrainMark", "Entry", "Job", "Port", "Unit", "unit_of"]


class DrainMark:
    """One call of ``drain``: counts the marked units that are not settled yet."""

    __slots__ = ("done", "remaining")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.remaining = 0

    def add(self, unit: Unit) -> None:
        """Makes this drain wait for a unit; harmless when it does already."""
        if self not in unit.marks:
            unit.marks = (*unit.marks, self)
            self.remaining += 1

    def settled(self) -> None:
        """One marked unit is settled."""
        self.remaining -= 1
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)


class Unit:
    """One accepted event in the buffer: it takes one place until each of its deliveries is settled."""

    __slots__ = ("marks", "remaining")

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining
        self.marks: tuple[DrainMark, ...] = ()


class Job:
    """What is known of one message on its way to one subscription, beyond the event itself."""

    __slots__ = (
        "accepted_at",
        "attempt",
        "doomed",
        "event",
        "headers",
        "history",
        "key",
        "lane",
        "message",
        "receipt",
        "redelivered",
        "topic",
        "unit",
    )

    def __init__(
        self,
        lane: Lane,
        topic: str,
        unit: Unit | None,
        accepted_at: datetime,
        *,
        event: Event | None = None,
        message: Message | None = None,
        headers: Mapping[str, str],
        key: str = "",
        history: tuple[Attempt, ...] = (),
        attempt: int = 1,
        redelivered: bool = False,
        receipt: object = None,
        doomed: str | None = None,
    ) -> None:
        self.lane = lane
        self.topic = topic
        self.unit = unit
        self.accepted_at = accepted_at
        self.event = event
        self.message = message
        self.headers = headers
        self.key = key
        self.history = history
        self.attempt = attempt
        self.redelivered = redelivered
        self.receipt = receipt  # the adapter's, of what was received
        self.doomed = doomed  # why it goes to the dead letters without being handled

    @property
    def payload(self) -> Event | Message:
        """What was accepted: the event itself, or its message where events are serialized."""
        payload = self.message if self.message is not None else self.event
        assert payload is not None, "a job carries an event or a message"
        return payload

    @property
    def event_id(self) -> str:
        """The event's id as text; readable even when the event cannot be decoded."""
        if self.event is not None:
            return str(self.event.event_id)
        return self.message.id if self.message is not None else ""


class Port:
    """Where a worker calls into a lane: with an event for its plain handler, or with a job.

    ``ports`` is the port itself, or those of several lanes that one event is for. What is counted per event
    is counted here once, in ``accepted``; everything else is worked out when somebody asks.
    """

    __slots__ = ("accepted", "apart", "call", "handled", "lane", "ports", "reported")

    def __init__(
        self, lane: Lane, call: Callable[[Any], Awaitable[Any]], ports: tuple[Port, ...] | None = None
    ) -> None:
        self.lane = lane
        self.call = call
        self.ports = (self,) if ports is None else ports
        self.accepted = 0  # plain entries
        self.reported = 0  # those of them that a route counts among what was published already
        self.apart = 0  # those of them that became entries with a counter, or were given up
        self.handled = 0  # deliveries that were counted by themselves

    def take_apart(self, counter: Unit | Job | None, remaining: int | None = None) -> Unit:
        """The unit that counts the deliveries of an entry of this port from now on, if none did yet."""
        if counter is not None:
            return unit_of(counter)
        self.apart += 1
        return Unit(len(self.ports) if remaining is None else remaining)


Entry = tuple[Port, "Event | Job", "Unit | Job | None"]
"""A place in the queue: a port, what it is called with, and who counts its deliveries.

An event for plain handlers stands there once. Nobody counts as long as one worker is enough for all of
them. A job stands there with its lane's port for jobs, and counts itself.
"""


def unit_of(counter: Unit | Job) -> Unit:
    """The unit that counts the deliveries of an entry."""
    if isinstance(counter, Unit):
        return counter
    counter.unit = counter.unit or Unit(1)
    return counter.unit
