"""A lane is the engine's side of one subscription: how its events reach its handler, and what holds them.

A lane without any restriction holds nothing: its entries stand in the engine's common queue. A lane that
is paused, ordered, or bounded in concurrency keeps what may not run yet, and feeds the queue as others
of its jobs come to an end.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from bus_core.abc import Middleware, RetryPolicy, SubscriptionSpec, SubscriptionState
from bus_core.dispatch.handlers import HandlerShape
from bus_core.dispatch.middleware import compose
from bus_core.dispatch.settling import Settler
from bus_core.dispatch.units import Job, Port
from bus_core.errors import HandlerTimeout, PermanentError
from bus_core.events.base import Event
from bus_core.events.messages import DeadLetter, Delivery, Envelope, Message
from bus_core.events.topics import is_pattern
from bus_core.runtime.timeouts import call_within, run_with_timeout

if TYPE_CHECKING:
    from bus_core.dispatch.engine import Engine

__all__ = ["Lane"]


class Lane:
    """Implements ``bus_core.abc.Inlet``; see there for ``spec`` and ``redeliver``.

    ``settler`` is set when the lane is attached to an adapter, before it gets anything.
    """

    settler: Settler

    __slots__ = (
        "_active",
        "_backlog",
        "_chain",
        "_engine",
        "_held",
        "_held_back",
        "_left",
        "_shape",
        "_where",
        "behind",
        "concurrency",
        "dead_lettered",
        "failed_attempts",
        "give_up_on",
        "handler",
        "job_port",
        "late",
        "paused",
        "policy_for",
        "port",
        "redriven",
        "retried",
        "settler",
        "skipped",
        "spec",
        "timeout",
        "waiting",
    )

    def __init__(
        self,
        engine: Engine,
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
        self._shape = shape
        self.policy_for = policy_for
        self.give_up_on = give_up_on
        self.timeout = timeout
        self.concurrency = concurrency
        self._where = where
        self._chain = compose(middleware, self._call)
        takes_event_only = (
            shape.is_async
            and not shape.takes_delivery
            and not middleware
            and timeout is None
            and where is None
        )
        is_free = concurrency is None and not spec.ordered and not is_pattern(spec.topic)
        self.port = Port(self, handler) if takes_event_only and is_free else None
        self.job_port = Port(self, self._run_plain if takes_event_only else self.run)
        self.paused = False
        self._active = 0
        self._backlog: deque[Job] = deque()
        self._held: dict[str, deque[Job] | None] = {}  # per key that is at work, what waits for it
        self._held_back = False  # while it is not known to whom belongs what waits here
        self._left: asyncio.Future[None] | None = None
        self.waiting = 0  # for a retry that is not due
        self.behind = 0  # another event of their key
        self.skipped = 0
        self.late = 0
        self.failed_attempts = 0
        self.retried = 0
        self.dead_lettered = 0
        self.redriven = 0

    @property
    def engine(self) -> Engine:
        """The engine whose workers run this lane's handler."""
        return self._engine

    def instrument(self, middleware: Middleware) -> None:
        """Puts one more middleware around the others. Only while nothing has been accepted."""
        self._chain = middleware(self._chain)
        self.port = None
        self.job_port = Port(self, self.run)

    @property
    def direct(self) -> Port | None:
        """The port for events as they are, when the handler takes them and nothing restricts the lane."""
        return None if self.paused else self.port

    @property
    def runs_in_threads(self) -> bool:
        """Whether the handler is a synchronous one, which cannot be cancelled."""
        return not self._shape.is_async

    # --- what may run now -----------------------------------------------------------------------------------

    def accept(self, job: Job) -> None:
        """Takes a job: it goes to the workers at once, or waits here for its turn."""
        if self.spec.ordered:
            if job.key in self._held:
                waiting = self._held[job.key] = self._held[job.key] or deque()
                waiting.append(job)
                self.behind += 1
                return
            self._held[job.key] = None
        self._admit(job)

    def accept_all(self, jobs: Sequence[Job]) -> None:
        """Takes jobs, in order."""
        if not jobs:
            return
        if self.spec.ordered or self.concurrency is not None or not self._may_run:
            for job in jobs:
                self.accept(job)
        else:
            self._active += len(jobs)
            self._engine.push_all(self, jobs)

    def resume_job(self, job: Job) -> None:
        """Takes a job back whose retry is due. In an ordered lane its key was kept for it."""
        self._admit(job)

    def _admit(self, job: Job) -> None:
        if self._may_run:
            self._active += 1
            self._engine.push(job)
        else:
            self._backlog.append(job)

    @property
    def _may_run(self) -> bool:
        """Whether one more job may go to the workers."""
        has_room = self.concurrency is None or self._active < self.concurrency
        return has_room and not self.paused and not self._held_back

    def step_done(self, job: Job, *, settled: bool) -> None:
        """A worker is through with a job: for good, or (not ``settled``) until its retry is due."""
        self._active -= 1
        if settled and self.spec.ordered:
            held = self._held.get(job.key)
            if held:
                self.behind -= 1
                self._backlog.append(held.popleft())  # behind the jobs of other keys that wait for room
            else:
                self._held.pop(job.key, None)
        self._feed()
        self._look_whether_left()

    def _look_whether_left(self) -> None:
        if self._left is not None and not self._outstanding and not self._left.done():
            self._left.set_result(None)

    def _feed(self) -> None:
        while self._backlog and self._may_run:
            self._active += 1
            self._engine.push(self._backlog.popleft())

    @property
    def _outstanding(self) -> int:
        return self._active + self.waiting + len(self.held_jobs())

    def pause(self) -> None:
        """Begins no further handler; what runs is finished."""
        self.paused = True
        self._take_back()

    def _take_back(self) -> None:
        taken_back = self._engine.take_back(self)
        self._active -= len(taken_back)
        self._backlog.extendleft(reversed(taken_back))

    def resume(self) -> None:
        """Undoes ``pause``."""
        self.paused = False
        self._feed()

    def hold_back(self) -> None:
        """Begins nothing that no worker has begun, until ``go_on``; ``held_jobs`` are those, then."""
        self._held_back = True
        self._take_back()

    def go_on(self, without: Collection[Job] = (), waiting: Iterable[Job] = ()) -> None:
        """Undoes ``hold_back``, and forgets some of the jobs: they are others'.

        Those of them that are ``waiting`` have waited for a retry; the others wait here.
        """
        self._held_back = False
        if without:
            for key, behind in self._held.items():
                if behind:
                    self._held[key] = deque(job for job in behind if job not in without)
            heads = chain(waiting if self.spec.ordered else (), self._backlog)
            self._backlog = deque(each for job in heads if (each := self._unless(job, without)))
            self.behind = sum(len(behind) for behind in self._held.values() if behind)
        self._feed()
        self._look_whether_left()

    def _unless(self, job: Job, without: Collection[Job]) -> Job | None:
        """The job, or the next one of its key in place of one that is forgotten."""
        if job not in without:
            return job
        behind = self._held.get(job.key)
        if behind:
            return behind.popleft()
        self._held.pop(job.key, None)
        return None

    def leave(self) -> asyncio.Future[None]:
        """A future that is done when all that was accepted is settled; nothing may be routed here by now."""
        self._engine.adopt_running(self)
        self._take_back()
        self._left = asyncio.get_running_loop().create_future()
        self.resume()
        if not self._outstanding:
            self._left.set_result(None)
        return self._left

    def take_all(self) -> list[Job]:
        """Removes all that no worker has begun, in order."""
        self._take_back()
        jobs = self.held_jobs()
        self._backlog.clear()
        self._held.clear()
        self.behind = 0
        return jobs

    def clear(self) -> None:
        """Forgets what waits here, after it was reported as abandoned."""
        self._backlog.clear()
        self._held.clear()
        self.behind = 0
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def adopted(self) -> None:
        """An entry without a job has become one; from now on it counts like any other."""
        self._active += 1

    def held_jobs(self) -> list[Job]:
        """Every job that waits in this lane for its turn."""
        return [*self._backlog, *(job for held in self._held.values() for job in held or ())]

    # --- one attempt ----------------------------------------------------------------------------------------

    def _event_of(self, job: Job) -> Event:
        """What is to be handled; raises when it must not be, or cannot be decoded."""
        if job.doomed is not None:
            raise PermanentError(job.doomed)
        if job.event is None:
            job.event = self._engine.decode(job)
        return job.event

    def _run_plain(self, job: Job) -> Awaitable[Any]:
        """Like ``run``, where nobody asks for more than the event: a third of what an attempt costs."""
        awaitable: Awaitable[Any] = self.handler(self._event_of(job))
        return awaitable

    async def run(self, job: Job) -> None:
        """Makes one attempt; returns when the event is handled or skipped, raises when it failed."""
        event = self._event_of(job)
        if self._where is not None and not self._where(event):
            self.skipped += 1
            return
        delivery = Delivery(
            topic=job.topic,
            subscription=self.spec.name,
            message_id=str(event.event_id),
            attempt=job.attempt,
            redelivered=job.redelivered,
            published_at=job.accepted_at,
            headers=job.headers,
        )
        await self._chain(Envelope(job.topic, event, dict(job.headers), delivery))

    async def _call(self, envelope: Envelope) -> None:
        arguments = (envelope.event, envelope.delivery) if self._shape.takes_delivery else (envelope.event,)
        if not self._shape.is_async:
            await self._call_in_thread(partial(self.handler, *arguments))
        elif self.timeout is None:
            await self.handler(*arguments)
        else:
            await run_with_timeout(
                self._engine.clock, self.timeout, self.spec.name, partial(self.handler, *arguments)
            )

    async def _call_in_thread(self, call: Callable[[], Any]) -> None:
        clock = self._engine.clock
        began = clock.monotonic()
        future = self._engine.threads.submit(call)
        cancellation: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as cancelled:
                if self._engine.abandoning or self._engine.torn_down:
                    raise
                cancellation = cancelled  # a thread cannot be cancelled: its worker is kept until it returns
        if cancellation is not None:
            raise cancellation
        result, error = future.result()
        if error is not None:
            raise error
        if inspect.isawaitable(result):  # a synchronous function that returned a coroutine
            if self.timeout is None:
                await result
            else:
                rest = max(0.0, self.timeout - (clock.monotonic() - began))
                await call_within(
                    clock, rest, partial(HandlerTimeout, self.spec.name, self.timeout), lambda: result
                )
        if self.timeout is not None and clock.monotonic() - began > self.timeout:
            # The failure is recorded now that the thread has returned.
            raise HandlerTimeout(self.spec.name, self.timeout)

    # --- the Inlet protocol and reports ---------------------------------------------------------------------

    def redeliver(self, letter: DeadLetter, payload: Event | Message) -> None:
        """Hands a dead letter back to this subscription; attempts start at 1, the history is kept."""
        self.redriven += 1
        self._engine.redeliver(self, letter, payload)

    def state(self, queued: int, running: int, plain: int) -> SubscriptionState:
        """A snapshot of the counters.

        ``plain`` is how many of its entries have no counter and are not handled yet: all others that were
        accepted like this, and stayed so, are handled.
        """
        handled = self.job_port.handled - self.skipped
        if self.port is not None:
            handled += self.port.handled + self.port.accepted - self.port.apart - plain
        return SubscriptionState(
            name=self.spec.name,
            topic=self.spec.topic,
            paused=self.paused,
            queued=queued + len(self.held_jobs()),
            running=running,
            waiting_retries=self.waiting,
            handled=handled,
            skipped=self.skipped,
            failed_attempts=self.failed_attempts,
            retried=self.retried,
            dead_lettered=self.dead_lettered,
            redriven=self.redriven,
            late=self.late,
        )
