"""A lane is the engine's side of one subscription: it passes events to the handler, or holds them.

Its entries wait in the common queue of the engine. One worker goes along them. As long as no handler blocks,
events are handled one after the other, as every lane demands. A blocked handler becomes a job of its lane. In
an ordered lane, or one with bounded concurrency, later events may have to wait for it. They become jobs, too,
and the lane holds them until other jobs end. A paused lane holds all of its events.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

from bus_core.abc import Middleware, Observer, RetryPolicy, SubscriptionSpec, SubscriptionState
from bus_core.dispatch.handlers import HandlerShape
from bus_core.dispatch.invocation import Invocation, InvocationHost
from bus_core.dispatch.jobs import Job, JobLane, PendingEvent, Port, Settler, key_of_record
from bus_core.events.base import Event
from bus_core.events.messages import NO_HEADERS, DeadLetter, EventRecord, Message
from bus_core.events.topics import is_pattern

__all__ = ["Lane", "LaneHost"]


class LaneHost(InvocationHost, Protocol):
    """The engine as a lane sees it; implemented by ``bus_core.dispatch.engine.Engine``."""

    @property
    def push(self) -> Callable[[Job], None]:
        """Puts a job into the queue of the workers, or hands it on to one of them."""
        ...

    def push_all(self, lane: JobLane, jobs: Sequence[Job]) -> None:
        """Puts jobs of one lane into the queue of the workers."""
        ...

    def timestamp(self) -> float:
        """Seconds since the epoch."""
        ...

    @property
    def defer(self) -> Callable[[JobLane, EventRecord], Awaitable[Any]]:
        """Puts the event that a worker is about to handle back into its lane, where it waits for others.

        May raise ``Deferred``.
        """
        ...

    def close_walk(self) -> None:
        """Ends the open walk. A running delivery of a restricted lane becomes a job that the lane counts."""
        ...

    def take_back(self, lane: JobLane) -> list[tuple[Job, bool]]:
        """Removes the entries of a lane from the queue, in order, and returns them as jobs.

        The flag is False for an entry that was not a job before.
        """
        ...

    def adopt_running(self, lane: JobLane) -> None:
        """Makes jobs of the running deliveries of a lane."""
        ...

    def redeliver(self, lane: Lane, letter: DeadLetter, payload: Event | Message) -> None:
        """Accepts a dead letter for its own lane again."""
        ...


class Lane:
    """Implements ``bus_core.abc.Inlet`` and ``JobLane``, which document ``spec`` and ``redeliver``.

    ``settler`` is set when the lane is attached to an adapter, before the first event.
    """

    settler: Settler

    __slots__ = (
        "_active",
        "_backlog",
        "_bound",
        "_drained",
        "_engine",
        "_held",
        "_held_back",
        "_invocation",
        "_ordered",
        "_policy_for",
        "behind",
        "concurrency",
        "dead_lettered",
        "failed_attempts",
        "give_up_on",
        "handler",
        "job_port",
        "late",
        "paused",
        "port",
        "record_port",
        "redriven",
        "restricted",
        "retried",
        "settler",
        "spec",
        "timeout",
        "waiting",
    )

    def __init__(
        self,
        engine: LaneHost,
        spec: SubscriptionSpec,
        handler: Callable[..., Any],
        shape: HandlerShape,
        *,
        policy_for: Callable[[str], RetryPolicy],
        middleware: Sequence[Middleware] = (),
        give_up_on: tuple[type[BaseException], ...] = (),
        timeout: float | None = None,
        concurrency: int | None = None,
        where: Callable[[Any], bool] | None = None,
    ) -> None:
        self._engine = engine
        self.spec = spec
        self.handler = handler
        self._policy_for = policy_for
        self.give_up_on = give_up_on
        self.timeout = timeout
        self.concurrency = concurrency
        self._invocation = Invocation(
            engine, spec, handler, shape, middleware=middleware, timeout=timeout, where=where
        )
        self._ordered = spec.ordered
        self.restricted = concurrency is not None or spec.ordered
        self._set_ports()
        self.paused = False
        # The most jobs that the workers may have at once.
        self._bound = math.inf if concurrency is None else concurrency
        self._active = 0
        self._backlog: deque[Job] = deque()
        self._held: dict[str, deque[Job] | None] = {}  # for each running key, the jobs that wait for it
        self._held_back = False  # True while other consumers may own the waiting jobs
        self._drained: asyncio.Future[None] | None = None
        self.waiting = 0  # jobs whose retry is not due
        self.behind = 0  # jobs behind another one of their key
        self.late = 0
        self.failed_attempts = 0
        self.retried = 0
        self.dead_lettered = 0
        self.redriven = 0

    @property
    def engine(self) -> LaneHost:
        """The engine whose workers run this lane's handler."""
        return self._engine

    def observe(self, observer: Observer) -> None:
        """Adds an observer. Call it before the lane accepts events."""
        self._invocation.observe(observer)
        self._set_ports()

    def _set_ports(self) -> None:
        invocation = self._invocation
        # An event alone does not tell its topic, which differs under a pattern.
        is_bare = not self.restricted and not is_pattern(self.spec.topic)
        self.port = None
        if is_bare and invocation.of_event is not None:
            self.port = Port(self, invocation.of_event)
        self.record_port = (
            Port(self, self._entrance(invocation.of_record), admit=self.admit)
            if self.restricted
            else Port(self, invocation.of_record)
        )
        self.job_port = Port(self, invocation.of_job)

    def _entrance(
        self, call: Callable[[EventRecord], Awaitable[Any]]
    ) -> Callable[[EventRecord], Awaitable[Any]]:
        """Calls the handler, unless the event has to wait for others."""

        def enter(record: EventRecord) -> Awaitable[Any]:
            # Only blocked or waiting jobs can block an event, and mostly there are none.
            if (self._active or self._held or self._backlog) and self._must_wait(record):
                return self._engine.defer(self, record)
            return call(record)

        return enter

    def _must_wait(self, record: EventRecord) -> bool:
        if self._ordered and key_of_record(record) in self._held:
            return True
        return self.concurrency is not None and (self._active >= self.concurrency or bool(self._backlog))

    def admit(self, record: EventRecord, pending: PendingEvent | None) -> Job | None:
        """The job of an event that a worker may handle now; None when it waits here for others of the lane.

        It replaces the calls of ``enter`` and ``adopt`` where handlers are expected to block.
        """
        event = record[0]
        key = key_of_record(record) if self._ordered else None
        job = Job(self, record, pending, None if isinstance(event, Message) else event, None, key)
        if key is not None:
            held = self._held
            if key in held:
                self._wait_for_key(job)
                return None
            held[key] = None
        if self._active >= self._bound or self._backlog:
            self._backlog.append(job)
            return None
        self._active += 1
        return job

    @property
    def policy_for(self) -> Callable[[str], RetryPolicy]:
        """Returns the retry policy for events of a topic."""
        return self._policy_for

    @property
    def runs_in_threads(self) -> bool:
        """True when the handler is synchronous and so cannot be cancelled."""
        return self._invocation.in_thread

    # --- jobs -----------------------------------------------------------------------------------------------

    def job_of(self, payload: Event | EventRecord, pending: PendingEvent | None) -> Job:
        """Makes the job of a delivery that had none."""
        if not isinstance(payload, tuple):
            payload = (payload, self.spec.topic, self._engine.timestamp(), NO_HEADERS, None)
        event = payload[0]
        return Job(self, payload, pending, event=None if isinstance(event, Message) else event)

    def adopt(self, job: Job) -> None:
        """Counts a running delivery that has become a job: it holds its key and a place."""
        self._active += 1
        if self._ordered:
            self._held.setdefault(job.key)

    # --- what may run now -----------------------------------------------------------------------------------

    def accept(self, job: Job) -> None:
        """Accepts a job: it goes to the workers at once, or waits here for others."""
        if self._ordered:
            if job.key in self._held:
                self._wait_for_key(job)
                return
            self._held[job.key] = None
        self._admit(job)

    def reserve(self, job: Job) -> bool:
        """Reserves the key of a job that waits for its retry elsewhere. Returns False when others have it."""
        if self._ordered:
            if job.key in self._held:
                return False
            self._held[job.key] = None
        return True

    def _wait_for_key(self, job: Job) -> None:
        waiting = self._held[job.key] = self._held[job.key] or deque()
        waiting.append(job)
        self.behind += 1

    def accept_all(self, jobs: Sequence[Job]) -> None:
        """Accepts jobs, in order."""
        if self._ordered:
            for job in jobs:
                self.accept(job)
        elif jobs:
            self._admit_all(jobs)

    def resume_jobs(self, jobs: Sequence[Job]) -> None:
        """Accepts jobs whose retries are due, in order. An ordered lane has reserved their keys for them."""
        if self.restricted:
            self._engine.close_walk()  # running deliveries take places, too
        self._admit_all(jobs)

    def _admit(self, job: Job) -> None:
        if self._active < self._bound:
            self._active += 1
            self._engine.push(job)
        else:
            self._backlog.append(job)

    def _admit_all(self, jobs: Sequence[Job]) -> None:
        if self._bound == math.inf:
            self._active += len(jobs)
            self._engine.push_all(self, jobs)
        else:
            for job in jobs:
                self._admit(job)

    def _set_bound(self) -> None:
        if self.paused or self._held_back:
            self._bound = 0
        else:
            self._bound = math.inf if self.concurrency is None else self.concurrency

    def attempt_done(self, job: Job, *, settled: bool) -> None:
        """Ends an attempt: for good, or (not ``settled``) until the retry is due."""
        self._active -= 1
        if settled and self._ordered:
            key = job.key
            held = self._held.get(key)
            if held:
                self.behind -= 1
                self._backlog.append(held.popleft())  # after the jobs of other keys that wait for room
            else:
                self._held.pop(key, None)
        if self._backlog:
            self._feed()
        if self._drained is not None:
            self._finish_leaving()

    def _finish_leaving(self) -> None:
        if self._drained is not None and not self._outstanding and not self._drained.done():
            self._drained.set_result(None)

    def _feed(self) -> None:
        backlog = self._backlog
        while backlog and self._active < self._bound:
            self._active += 1
            self._engine.push(backlog.popleft())

    @property
    def _outstanding(self) -> int:
        return self._active + self.waiting + self._held_count

    @property
    def _held_count(self) -> int:
        return len(self._backlog) + self.behind

    def pause(self) -> None:
        """Starts no further handler; running ones finish."""
        self.paused = True
        self._set_bound()
        self._take_back()

    def _take_back(self) -> None:
        """Takes the jobs of this lane out of the queue: admitted ones first, then the others."""
        jobs: list[Job] = []
        fresh: list[Job] = []
        for job, was_job in self._engine.take_back(self):
            (jobs if was_job else fresh).append(job)
        self._active -= len(jobs)
        self._backlog.extendleft(reversed(jobs))
        for job in fresh:
            if self._ordered:
                if job.key in self._held:
                    self._wait_for_key(job)
                    continue
                self._held[job.key] = None
            self._backlog.append(job)

    def requeue(self) -> None:
        """Moves queued events before events that are accepted later."""
        if self.restricted:
            self._take_back()
            self._feed()

    def resume(self) -> None:
        """Undoes ``pause``."""
        self.paused = False
        self._set_bound()
        self._feed()

    def hold_back(self) -> None:
        """Starts no handler until ``release_held``.

        Until then, ``held_jobs`` are the jobs that no worker has begun.
        """
        self._held_back = True
        self._set_bound()
        self._take_back()

    def release_held(self, without: Collection[Job] = (), waiting: Iterable[Job] = ()) -> None:
        """Undoes ``hold_back``, and drops the jobs that other consumers own.

        The ``waiting`` ones of them wait for a retry; the others wait in this lane.
        """
        self._held_back = False
        self._set_bound()
        if without:
            for key, behind in self._held.items():
                if behind:
                    self._held[key] = deque(job for job in behind if job not in without)
            heads = chain(waiting if self._ordered else (), self._backlog)
            self._backlog = deque(each for job in heads if (each := self._unless(job, without)))
            self.behind = sum(len(behind) for behind in self._held.values() if behind)
        self._feed()
        self._finish_leaving()

    def _unless(self, job: Job, without: Collection[Job]) -> Job | None:
        """The job, or the next one of its key if it is dropped."""
        if job not in without:
            return job
        behind = self._held.get(job.key)
        if behind:
            return behind.popleft()
        self._held.pop(job.key, None)
        return None

    def leave(self) -> asyncio.Future[None]:
        """A future that is done when all accepted events are settled.

        Call it when no route leads here any more.
        """
        self._engine.adopt_running(self)
        self._take_back()
        self._drained = asyncio.get_running_loop().create_future()
        self.resume()
        if not self._outstanding:
            self._drained.set_result(None)
        return self._drained

    def take_all(self) -> list[Job]:
        """Removes all jobs that no worker has begun, in order."""
        self._take_back()
        jobs = self.held_jobs()
        self._backlog.clear()
        self._held.clear()
        self.behind = 0
        return jobs

    def clear(self) -> None:
        """Drops waiting jobs, after they were reported as abandoned."""
        self._backlog.clear()
        self._held.clear()
        self.behind = 0
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @property
    def holds(self) -> bool:
        """True when the lane keeps a job, or one is being settled."""
        return bool(self._backlog or self._held or self.settler.settling)

    def held_jobs(self) -> list[Job]:
        """Every job that waits in this lane."""
        return [*self._backlog, *(job for held in self._held.values() for job in held or ())]

    # --- the Inlet protocol and reports ---------------------------------------------------------------------

    def redeliver(self, letter: DeadLetter, payload: Event | Message) -> None:
        """Hands a dead letter back to this subscription; attempts start at 1, the history is kept."""
        self.redriven += 1
        self._engine.redeliver(self, letter, payload)

    def state(self, queued: int, running: int, plain: int) -> SubscriptionState:
        """A snapshot of the counters.

        ``plain`` is the number of unhandled entries without a counter. All other accepted entries without a
        counter are handled.
        """
        handled = self.job_port.handled - self._invocation.skipped - plain
        for port in (self.port, self.record_port):
            if port is not None:
                handled += port.handled + port.accepted - port.apart
        return SubscriptionState(
            name=self.spec.name,
            topic=self.spec.topic,
            paused=self.paused,
            queued=queued + self._held_count,
            running=running,
            waiting_retries=self.waiting,
            handled=handled,
            skipped=self._invocation.skipped,
            failed_attempts=self.failed_attempts,
            retried=self.retried,
            dead_lettered=self.dead_lettered,
            redriven=self.redriven,
            late=self.late,
        )
