"""Jobs and counters of accepted events: small objects, made only when they are needed.

An event waits in the queue as it is, or as a record. A handler that does not fail leaves nothing behind. Only
a failure, a blocked handler that others wait for, or a pause turns it into a ``Job``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias

from bus_core.abc import Inlet, RetryPolicy
from bus_core.events.base import Event
from bus_core.events.ids import text_of_aggregate
from bus_core.events.messages import Attempt, DeadLetter, EventRecord, Message, with_attempt

__all__ = [
    "Deferred",
    "DeliveryState",
    "DrainMark",
    "Entry",
    "Job",
    "JobLane",
    "Payload",
    "PendingEvent",
    "Port",
    "Settler",
    "key_of_record",
    "pending_event",
    "pending_event_of",
]


class DrainMark:
    """One call of ``drain``: counts the marked units that are not settled yet."""

    __slots__ = ("done", "remaining")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.remaining = 0

    def add(self, pending: PendingEvent) -> None:
        """Makes this drain wait for a unit; harmless when it does already."""
        if self not in pending.marks:
            pending.marks = (*pending.marks, self)
            self.remaining += 1

    def settled(self, number: int = 1) -> None:
        """Counts settled events among the marked ones."""
        self.remaining -= number
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)


class PendingEvent:
    """One accepted event in the buffer: it takes one place until each of its deliveries is settled."""

    __slots__ = ("marks", "remaining")

    def __init__(self, remaining: int, marks: tuple[DrainMark, ...] = ()) -> None:
        self.remaining = remaining
        self.marks = marks


def pending_event(remaining: int, marks: Iterable[DrainMark]) -> PendingEvent:
    """The unit of an event that these drains wait for, from now on."""
    pending = PendingEvent(remaining)
    for mark in marks:
        mark.add(pending)
    return pending


def key_of_record(record: EventRecord) -> str:
    """The ordering key of an event on its way."""
    payload, _, _, _, key = record
    if key is not None:
        return key
    return payload.key if isinstance(payload, Message) else text_of_aggregate(payload.aggregate_id)


class DeliveryState:
    """The state of a job that is more than a fresh event: it was tried before, or came from outside.

    ``receipt`` is the adapter's, of what was received; ``reject_reason`` is why it goes to the dead letters
    without being handled. ``waited`` is for how many seconds it has waited for one that can decode it.
    """

    __slots__ = ("attempt", "history", "receipt", "redelivered", "reject_reason", "waited")

    def __init__(
        self,
        history: tuple[Attempt, ...] = (),
        attempt: int = 1,
        redelivered: bool = False,
        receipt: object = None,
        reject_reason: str | None = None,
        waited: float = 0.0,
    ) -> None:
        self.history = history
        self.attempt = attempt
        self.redelivered = redelivered
        self.receipt = receipt
        self.reject_reason = reject_reason
        self.waited = waited


_FRESH = DeliveryState()


class Settler(Protocol):
    """The way back of the jobs of one lane. Each job comes to exactly one end; nothing here waits."""

    @property
    def releases(self) -> bool:
        """True when unsettled jobs can be given back, for another process or a later one."""
        ...

    @property
    def settling(self) -> Sequence[Job]:
        """The jobs with a decided outcome that is not carried out yet."""
        ...

    @property
    def acknowledge(self) -> Callable[[Job], None]:
        """Is called with a job that was handled."""
        ...

    def dead_letter(self, job: Job, letter: DeadLetter) -> None:
        """It is dead; when this raises, the letter is lost and nothing has been done."""
        ...

    def holds_locally(self, job: Job, delay: float) -> bool:
        """True when the engine holds a job until its retry is due; False when the settler has taken it."""
        ...

    def returns_to_group(self, job: Job, delay: float) -> bool:
        """Hands a job back to its group after ``delay`` seconds; False where no other instance can get it."""
        ...

    def release(self, job: Job) -> bool:
        """Gives a job back that was not handled to its end; False where that cannot be done."""
        ...

    def drop(self, job: Job) -> bool:
        """Ends a job whose failure could not be decided. Returns True when that loses it."""
        ...


class JobLane(Inlet, Protocol):
    """A lane as its jobs know it: ``bus_core.dispatch.lane.Lane``, for those below it."""

    @property
    def policy_for(self) -> Callable[[str], RetryPolicy]:
        """The retry policy for events of a topic."""
        ...

    @property
    def give_up_on(self) -> tuple[type[BaseException], ...]:
        """The errors that are not retried."""
        ...

    @property
    def settler(self) -> Settler:
        """The way back of its jobs."""
        ...

    @property
    def port(self) -> Port | None:
        """The port for events that have no job; None when each event needs one."""
        ...

    @property
    def record_port(self) -> Port:
        """The port for records."""
        ...

    @property
    def job_port(self) -> Port:
        """The port for jobs."""
        ...

    @property
    def restricted(self) -> bool:
        """True when a delivery that is held up blocks others, of its key or of any."""
        ...

    @property
    def runs_in_threads(self) -> bool:
        """True when the handler is a synchronous one, which cannot be cancelled."""
        ...

    waiting: int
    failed_attempts: int
    retried: int
    dead_lettered: int

    def accept(self, job: Job) -> None:
        """Takes a job: it goes to the workers at once, or waits for its turn."""
        ...

    def job_of(self, payload: Event | EventRecord, pending: PendingEvent | None) -> Job:
        """The job of a delivery that had none."""
        ...

    def adopt(self, job: Job) -> None:
        """Counts a delivery that a worker is at, and that has become a job: it holds its key, and a place."""
        ...

    def attempt_done(self, job: Job, *, settled: bool) -> None:
        """A worker is through with a job: for good, or (not ``settled``) until its retry is due."""
        ...

    def resume_jobs(self, jobs: Sequence[Job]) -> None:
        """Takes jobs back whose retries are due, in order."""
        ...


class Job:
    """One event on its way to one subscription: its record, its lane, its attempts.

    Most wait for their first attempt, and are many: they share one past.
    """

    __slots__ = ("_key", "event", "lane", "pending", "record", "state")

    def __init__(
        self,
        lane: JobLane,
        record: EventRecord,
        pending: PendingEvent | None = None,
        event: Event | None = None,
        state: DeliveryState | None = None,
        key: str | None = None,
    ) -> None:
        self.lane = lane
        self.record = record
        self.pending = pending
        self.event = event  # None as long as it was not decoded
        self._key = key or record[4]
        self.state = _FRESH if state is None else state

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self.record[1]

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that travel beside the event."""
        return self.record[3]

    @property
    def accepted_at(self) -> datetime:
        """When the adapter accepted it."""
        return datetime.fromtimestamp(self.record[2], UTC)

    @property
    def payload(self) -> Event | Message:
        """The accepted event, or its message where events are serialized."""
        return self.record[0]

    @property
    def message(self) -> Message | None:
        """The message that arrived, where events are serialized."""
        payload = self.record[0]
        return payload if isinstance(payload, Message) else None

    @property
    def key(self) -> str:
        """The ordering key."""
        if self._key is None:
            self._key = key_of_record(self.record)
        return self._key

    @property
    def history(self) -> tuple[Attempt, ...]:
        """The attempts so far."""
        return self.state.history

    @property
    def attempt(self) -> int:
        """The number of the attempt that it is at, from 1."""
        return self.state.attempt

    @property
    def redelivered(self) -> bool:
        """True when it may have been handled before."""
        return self.state.redelivered

    @property
    def receipt(self) -> object:
        """The receipt of the adapter for the received message."""
        return self.state.receipt

    @property
    def reject_reason(self) -> str | None:
        """Why it goes to the dead letters without being handled."""
        return self.state.reject_reason

    def note(self, attempt: Attempt) -> None:
        """Adds an attempt to the history."""
        state = self.state
        if state is _FRESH:
            state = self.state = DeliveryState()
        state.history = with_attempt(state.history, attempt) if state.history else (attempt,)

    @property
    def waited(self) -> float:
        """For how many seconds it has waited for an instance that can decode it."""
        return self.state.waited

    def comes_again(self, attempt: int, waited: float = 0.0) -> None:
        """The next time that it is handled, it is handled again: with this number.

        ``waited`` are seconds for which it waits for an instance that can decode it.
        """
        state = self.state
        if state is _FRESH:
            state = self.state = DeliveryState()
        state.redelivered = True
        state.attempt = attempt
        state.waited += waited

    @property
    def event_id(self) -> str:
        """The event's id as text; readable even when the event cannot be decoded."""
        payload = self.record[0]
        return payload.id if isinstance(payload, Message) else str(payload.event_id)


Payload: TypeAlias = "Event | EventRecord | Job"
"""The payload of an entry: an event as it is, for plain handlers; a record for all others; or a job."""


class Deferred(BaseException):
    """Raised to a worker by a lane that an event has to wait for; no handler was called."""


class Port:
    """Where a worker calls into a lane: with an event for its plain handler, with a record, or with a job.

    ``ports`` is the port itself, or those of several lanes that one event is for. What is counted per event
    is counted here once, in ``accepted``; everything else is worked out when somebody asks.
    """

    __slots__ = ("accepted", "admit", "apart", "call", "handled", "is_single", "lane", "ports", "reported")

    def __init__(
        self,
        lane: JobLane,
        call: Callable[[Any], Awaitable[Any]],
        ports: tuple[Port, ...] | None = None,
        *,
        admit: Callable[[EventRecord, PendingEvent | None], Job | None] | None = None,
    ) -> None:
        self.lane = lane
        self.call = call
        self.ports = (self,) if ports is None else ports
        self.is_single = ports is None
        # Of a restricted lane: makes a job of a record that is about to be handled, or keeps it until others
        # of the lane have come to an end.
        self.admit = admit
        self.accepted = 0  # entries without a counter
        self.reported = 0  # those of them that a route has counted as published
        self.apart = 0  # those of them that became entries with a counter, or were given up
        self.handled = 0  # deliveries counted one by one, and skipped ones

    def take_apart(
        self,
        counter: PendingEvent | Job | None,
        remaining: int | None = None,
        marks: tuple[DrainMark, ...] = (),
    ) -> PendingEvent:
        """The unit that counts the deliveries of an entry of this port from now on, if none did yet."""
        if counter is not None:
            return pending_event_of(counter)
        self.apart += 1
        return PendingEvent(len(self.ports) if remaining is None else remaining, marks)


Entry = tuple[Port, Payload, "PendingEvent | Job | None"]
"""A place in the queue: a port, what it is called with, and who counts its deliveries.

An event stands there once, also for several handlers. Nobody counts as long as one worker is enough for all
of them. A job stands there with its lane's port for jobs, and counts itself.
"""


def pending_event_of(counter: PendingEvent | Job) -> PendingEvent:
    """The unit that counts the deliveries of an entry."""
    if isinstance(counter, PendingEvent):
        return counter
    counter.pending = counter.pending or PendingEvent(1)
    return counter.pending
