"""Jobs and counters of accepted events: small objects, made only when they are needed.

An event waits in the queue as it is, or as a record. It leaves no object behind when its handler succeeds.
Only a failure, a blocked handler that others wait for, or a pause turns it into a ``Job``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeAlias

from bus_core.abc import Inlet, RetryPolicy
from bus_core.events.base import Event
from bus_core.events.ids import text_of_aggregate
from bus_core.events.messages import (
    Attempt,
    DeadLetter,
    EventRecord,
    Message,
    begin_of_run,
    with_attempt,
)

__all__ = [
    "NEVER",
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
    """One call of ``drain``. It counts the marked events that are not settled yet."""

    __slots__ = ("done", "remaining")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.remaining = 0

    def add(self, pending: PendingEvent) -> None:
        """Makes this drain wait for an event; no-op when it already does."""
        if self not in pending.marks:
            pending.marks = (*pending.marks, self)
            self.remaining += 1

    def settled(self, number: int = 1) -> None:
        """Counts settled events among the marked ones."""
        self.remaining -= number
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)


class PendingEvent:
    """One accepted event: it takes one place in the buffer until each of its deliveries is settled."""

    __slots__ = ("marks", "remaining")

    def __init__(self, remaining: int, marks: tuple[DrainMark, ...] = ()) -> None:
        self.remaining = remaining
        self.marks = marks


def pending_event(remaining: int, marks: Iterable[DrainMark]) -> PendingEvent:
    """Makes the counter of an event that these drains wait for."""
    pending = PendingEvent(remaining)
    for mark in marks:
        mark.add(pending)
    return pending


def key_of_record(record: EventRecord) -> str:
    """The ordering key of a record."""
    payload, _, _, _, key = record
    if key is not None:
        return key
    return payload.key if isinstance(payload, Message) else text_of_aggregate(payload.aggregate_id)


NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""Later than any time of a failure."""


class DeliveryState:
    """The state of a job that differs from a new event: it was tried before, or came from outside.

    ``receipt`` is the adapter's receipt of the message. ``reject_reason`` is the reason to dead-letter it
    without a call of the handler. ``waited`` is the time in seconds that it has waited for an instance that
    can decode it. ``failing_since`` is the time of its first failure since it was stored, or redriven.
    """

    __slots__ = ("attempt", "failing_since", "history", "receipt", "redelivered", "reject_reason", "waited")

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
        self.failing_since = NEVER


_FRESH = DeliveryState()


class Settler(Protocol):
    """Settles the jobs of one lane. Each job is settled exactly once; no call blocks."""

    @property
    def releases(self) -> bool:
        """True when unsettled jobs can be released, for another process or a later one."""
        ...

    @property
    def settling(self) -> Sequence[Job]:
        """The jobs whose outcome is decided but not carried out."""
        ...

    @property
    def acknowledge(self) -> Callable[[Job], None]:
        """Acknowledges a job that was handled."""
        ...

    def dead_letter(self, job: Job, letter: DeadLetter) -> None:
        """Dead-letters a job. When this raises, the letter is lost and nothing was done."""
        ...

    def holds_locally(self, job: Job, delay: float) -> bool:
        """True when the engine keeps a job until its retry is due; False when the settler has taken it."""
        ...

    def begins(self, jobs: Iterable[Job]) -> None:
        """Notes that jobs are begun whose retry is due."""
        ...

    def returns_to_group(self, job: Job, delay: float) -> bool:
        """Returns a job to its group after ``delay`` seconds.

        Returns False where no other instance can get it.
        """
        ...

    def release(self, job: Job) -> bool:
        """Releases a job that was not handled completely. Returns False where that is not possible."""
        ...

    def drop(self, job: Job) -> bool:
        """Ends a job whose failure could not be decided. Returns True when the event is lost by that."""
        ...


class JobLane(Inlet, Protocol):
    """The lane as lower modules see it; implemented by ``bus_core.dispatch.lane.Lane``."""

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
        """Settles its jobs."""
        ...

    @property
    def port(self) -> Port | None:
        """The port for plain events; None when each event needs a record."""
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
        """True when a blocked delivery blocks others: those of its key, or all."""
        ...

    @property
    def runs_in_threads(self) -> bool:
        """True when the handler is synchronous and so cannot be cancelled."""
        ...

    waiting: int
    failed_attempts: int
    retried: int
    dead_lettered: int

    def accept(self, job: Job) -> None:
        """Accepts a job: it goes to the workers at once, or waits for others."""
        ...

    def job_of(self, payload: Event | EventRecord, pending: PendingEvent | None) -> Job:
        """Makes the job of a delivery that had none."""
        ...

    def adopt(self, job: Job) -> None:
        """Counts a running delivery that has become a job: it holds its key and a place."""
        ...

    def attempt_done(self, job: Job, *, settled: bool) -> None:
        """Ends an attempt: for good, or (not ``settled``) until the retry is due."""
        ...

    def resume_jobs(self, jobs: Sequence[Job]) -> None:
        """Accepts jobs whose retries are due, in order."""
        ...


class Job:
    """One event on its way to one subscription: its record, its lane, its attempts.

    Most jobs wait for their first attempt; they share one state.
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
        self.event = event  # None until it is decoded
        self._key = key or record[4]
        self.state = _FRESH if state is None else state

    @property
    def topic(self) -> str:
        """The topic on which it was published."""
        return self.record[1]

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that travel beside the event."""
        return self.record[3]

    @property
    def accepted_at(self) -> datetime:
        """The time at which the adapter accepted it."""
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
        """The number of the current attempt, from 1."""
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
        """The reason to dead-letter it without a call of the handler."""
        return self.state.reject_reason

    def note(self, attempt: Attempt) -> None:
        """Adds an attempt to the history."""
        state = self.state
        if state is _FRESH:
            state = self.state = DeliveryState()
        if not state.history:
            state.history, state.failing_since = (attempt,), attempt.at
            return
        state.history = with_attempt(state.history, attempt)
        if state.failing_since is NEVER:  # it came with a history
            begin = begin_of_run(state.history, attempt.number + 1)
            state.failing_since = state.history[begin].at

    @property
    def waited(self) -> float:
        """The seconds for which it has waited for an instance that can decode it."""
        return self.state.waited

    def comes_again(self, attempt: int, waited: float = 0.0) -> None:
        """Sets the number of the next attempt, which is a redelivery.

        ``waited`` is the time in seconds that it has waited for an instance that can decode it.
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
"""The payload of an entry: the event itself for plain handlers, a record for others, or a job."""


class Deferred(BaseException):
    """Tells a worker that the event waits in its lane; no handler was called."""


class Port:
    """The entrance of a lane for workers: for plain events, for records, or for jobs.

    ``ports`` has the port itself, or the ports of several lanes that get the same event. ``accepted`` is the
    only count per event. All other numbers are computed on demand.
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
        # Only for a restricted lane. Makes a job of a record that is about to be handled, or keeps it until
        # other deliveries of the lane have ended.
        self.admit = admit
        self.accepted = 0  # entries without a counter
        self.reported = 0  # the part of them that a route has counted as published
        self.apart = 0  # the part of them that got a counter, or was abandoned
        self.handled = 0  # deliveries counted one by one, and skipped ones

    def take_apart(
        self,
        counter: PendingEvent | Job | None,
        remaining: int | None = None,
        marks: tuple[DrainMark, ...] = (),
    ) -> PendingEvent:
        """The counter of an entry of this port, from now on, unless it has one."""
        if counter is not None:
            return pending_event_of(counter)
        self.apart += 1
        return PendingEvent(len(self.ports) if remaining is None else remaining, marks)


Entry = tuple[Port, Payload, "PendingEvent | Job | None"]
"""An entry of the queue: a port, its payload, and the counter of its deliveries.

An event has one entry, also for several handlers. It needs no counter while one worker handles all of them. A
job has its lane's port for jobs, and is its own counter.
"""


def pending_event_of(counter: PendingEvent | Job) -> PendingEvent:
    """The counter of the event of an entry."""
    if isinstance(counter, PendingEvent):
        return counter
    counter.pending = counter.pending or PendingEvent(1)
    return counter.pending
