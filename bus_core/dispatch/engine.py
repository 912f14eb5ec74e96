"""The dispatch engine: from an accepted event to a finished handler.

It joins the queue (``Buffer``), the workers that run handlers, the lanes that decide which events may run,
and the retries after failures. It drains and stops all of them.

It is fast because it does little per event:

- An event for a plain handler waits in the queue as it is, and any other as a small record.
- A worker awaits the handler directly: there is no task per event.
- Everything that a subscription decides once is done once. Retries, waits for others and dead letters cost
  only the events that need them.

It is fair, and isolates handlers:

- Workers that have run for ``SLICE`` seconds without a pause yield to the rest of the loop.
- One worker goes along the queue. When a handler blocks it, others wake and take the rest: fast handlers run
  in one worker, slow ones in all of them.
- A worker whose context variables changed in a handler ends, and a fresh one replaces it.
- Any exception of a handler is a failure of that handler. Only the engine's own shutdown stops the workers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from bus_core.abc import EngineState, MiddlewareCount, Observer, SubscriptionState
from bus_core.dispatch.codec import Codec
from bus_core.dispatch.jobs import (
    DeliveryState,
    DrainMark,
    Entry,
    Job,
    JobLane,
    Payload,
    PendingEvent,
    Port,
    pending_event,
)
from bus_core.dispatch.lane import Lane
from bus_core.dispatch.queue import Buffer
from bus_core.dispatch.reports import Abandoned, DrainReport, Leftover, abandoned
from bus_core.dispatch.retries import RetryScheduler
from bus_core.dispatch.worker import Worker, running_worker
from bus_core.dispatch.worker_pool import WorkerPool
from bus_core.errors import BusClosed
from bus_core.events.base import Event
from bus_core.events.messages import NO_HEADERS, DeadLetter, EventRecord, Message
from bus_core.runtime.clock import Clock, lease_clock, timestamps_of
from bus_core.runtime.logs import counted, plain_logger
from bus_core.runtime.threads import ThreadPool
from bus_core.runtime.timeouts import Deadlines, expiry

__all__ = ["Engine", "current_engine"]

logger = plain_logger("promenade.bus")


def current_engine() -> Engine | None:
    """The engine of the running handler; None outside handlers."""
    worker = running_worker()
    return None if worker is None else cast(Engine, worker.pool.inside)


def _released(worker: Worker, left: Leftover, unfinished: Collection[Worker]) -> bool:
    """Releases the job of a cancelled worker. A handler that goes on, as in a thread, must not run twice."""
    lane, job, _ = left
    return (
        worker not in unfinished
        and not lane.runs_in_threads
        and isinstance(job, Job)
        and lane.settler.release(job)
    )


class Engine:
    """Runs the handlers of one bus. Call its methods on the event loop of the bus only."""

    def __init__(
        self,
        *,
        codec: Codec,
        clock: Clock,
        worker_pool_size: int,
        buffer_size: int,
        overflow_size: int,
        unknown_version_wait: float = 600.0,
        tracebacks: bool = False,
    ) -> None:
        self.clock = clock
        self.timestamp = timestamps_of(clock)
        self.deadlines = Deadlines(clock)
        self.decode = codec.decode
        self.buffer = Buffer(buffer_size, overflow_size)
        self.threads = ThreadPool(worker_pool_size, "promenade-handler")
        self._codec = codec
        self.worker_pool_size = worker_pool_size
        self._retries = RetryScheduler(
            codec=codec,
            clock=clock,
            finish=lambda job: self.finish(job),
            unknown_version_wait=unknown_version_wait,
            tracebacks=tracebacks,
        )
        self._pool = WorkerPool(
            size=worker_pool_size,
            buffer=self.buffer,
            inside=self,
            failed=self._retries.attempt_failed,
            process_paused=self._notify_process_paused,
        )
        # Is called with each finished job, after its settler.
        self.finish: Callable[[Job], None] = self._pool.finish
        # See ``WorkerPool``.
        self.rouse: Callable[[], None] = self._pool.rouse
        self.push: Callable[[Job], None] = self._pool.push
        self.defer: Callable[[JobLane, EventRecord], Awaitable[Any]] = self._pool.defer
        self._pause_observers: list[Callable[[], None]] = []
        self._marks: set[DrainMark] = set()

    def start(self) -> None:
        """Starts the workers on the running loop."""
        self._pool.start()

    def observe(self, observer: Observer) -> None:
        """Adds an observer of failed attempts and of losses."""
        self._retries.observe(observer)

    def observe_process_pause(self, observer: Callable[[], None]) -> None:
        """Calls ``observer`` before the first entry after a time without any: the process may have been
        paused.

        The observer may take entries out of the queue, as ``Lane.hold_back`` does.
        """
        self._pause_observers.append(observer)

    def _notify_process_paused(self) -> None:
        for observer in self._pause_observers:
            observer()

    def unstarted(self, lane: Lane) -> list[Job]:
        """The jobs of a held-back lane that no worker runs: those that wait for others, or for a retry."""
        return [*lane.held_jobs(), *self._retries.of_lane(lane)]

    def drop_lost(self, lane: Lane, jobs: Collection[Job]) -> None:
        """Ends ``lane.hold_back``, and drops the ``unstarted`` jobs that other consumers own."""
        lane.release_held(jobs, self._retries.take(jobs))
        for job in jobs:
            self.buffer.delivery_settled(job.pending)

    @property
    def abandoning(self) -> bool:
        """True when the engine has abandoned everything it held."""
        return self._pool.stopping

    @property
    def torn_down(self) -> bool:
        """True when the event loop is being closed although the bus is open."""
        return self._pool.torn_down

    # --- accepting events ---------------------------------------------------------------------------------

    def port_for(self, ports: Sequence[Port]) -> Port:
        """One port for an event that goes to all of these lanes."""
        return self._pool.port_for(ports)

    @property
    def takes_at_once(self) -> bool:
        """True when the open columns of the buffer accept a record: there is room, and no drain."""
        return len(self.buffer.ports) < self.buffer.limit and not self._marks

    def wake_for_room(self) -> bool:
        """Wakes a worker if the queue has room and all are asleep. Returns False when there is no room."""
        return self._pool.wake_for_room()

    def put(
        self,
        topic: str,
        payload: Event | Message,
        lanes: Collection[Lane],
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        """Accepts an event for these lanes even when the queue is full: call ``has_room`` before."""
        paused = [lane for lane in lanes if lane.paused]
        ready = [lane for lane in lanes if not lane.paused]
        bare = [lane.port for lane in ready if lane.port is not None]
        as_it_is = not headers and not isinstance(payload, Message) and len(bare) == len(ready)
        # Steps that may fail come first, so that either all lanes accept an event or none.
        key = None if isinstance(payload, Message) else self._codec.special_key(topic, payload)
        record: EventRecord = (payload, topic, self.timestamp(), headers, key)
        if self.buffer.asleep:
            self.rouse()
        causing = running_worker() if self._marks else None
        marks = () if causing is None else causing.marks
        pending = pending_event(len(lanes), marks) if len(paused) > 1 or (paused and ready) or marks else None
        self.buffer.accepted()
        if ready:
            port = self.port_for(bare if as_it_is else [lane.record_port for lane in ready])
            what = payload if as_it_is and not isinstance(payload, Message) else record
            if pending is None:
                self.buffer.append_plain(port, what)
                port.reported += 1  # counted by the route that it came by, which may belong to another bus
            else:
                self.buffer.append((port, what, pending))
        for lane in paused:
            lane.accept(lane.job_of(record, pending))

    def has_room(self, *, granted: bool = False) -> bool:
        """True when an event can be accepted now; see ``Buffer.has_room``."""
        return self.buffer.has_room(for_handler=running_worker() is not None, granted=granted)

    def push_all(self, lane: JobLane, jobs: Sequence[Job]) -> None:
        """Puts jobs of one lane into the queue of the workers."""
        self.buffer.append_jobs(lane.job_port, jobs)
        if self.buffer.asleep:
            self._pool.rouse()

    def redeliver(self, lane: Lane, letter: DeadLetter, payload: Event | Message) -> None:
        """Accepts a dead letter for its own lane again."""
        self.buffer.accepted()
        lane.requeue()  # running and queued jobs existed before
        record: EventRecord = (payload, letter.topic, self.timestamp(), letter.headers, letter.key)
        event = None if isinstance(payload, Message) else payload
        lane.accept(
            Job(lane, record, event=event, state=DeliveryState(history=letter.attempts, redelivered=True))
        )

    def receive(self, lane: Lane, jobs: Sequence[Job], waiting: Mapping[Job, float]) -> None:
        """Accepts the messages of an adapter's consumer.

        Those that go on ``waiting`` for a retry are due in so many seconds.
        """
        self.buffer.received(len(jobs))
        if not waiting:
            lane.accept_all(jobs)
            return
        for job in jobs:
            if job in waiting and lane.reserve(job):
                self._retries.wait(job, waiting[job])
            else:
                lane.accept(job)

    def take_unstarted(self, lane: Lane) -> dict[Job, float]:
        """Removes the unstarted jobs of a lane that ends; the caller settles them.

        Returns the seconds until each of them may begin.
        """
        jobs = dict.fromkeys(lane.take_all(), 0.0) | self._retries.take(self._retries.of_lane(lane))
        for job in jobs:
            self.buffer.delivery_settled(job.pending)
        return jobs

    def close_walk(self) -> None:
        """Ends the open walk. A running delivery of a restricted lane becomes a job that the lane counts."""
        self._pool.close_walk()

    def take_back(self, lane: JobLane) -> list[tuple[Job, bool]]:
        """Removes the entries of a lane from the queue, in order, and returns them as jobs.

        The flag is False for an entry that was not a job before.
        """
        self._pool.close_walk()
        jobs: list[tuple[Job, bool]] = []
        kept: list[Entry] = []
        for port, payload, counter in self.buffer.take_all():
            if isinstance(payload, Job):
                if payload.lane is lane:
                    jobs.append((payload, True))
                else:
                    kept.append((port, payload, counter))
                continue
            rest = [each for each in port.ports if each.lane is not lane]
            if len(rest) == len(port.ports):
                kept.append((port, payload, counter))
                continue
            pending = port.take_apart(counter)
            jobs.append((lane.job_of(payload, pending), False))
            if rest:
                kept.append((self.port_for(rest), payload, pending))
        self.buffer.put_back(kept)
        return jobs

    def adopt_running(self, lane: JobLane) -> None:
        """Makes jobs of the running deliveries of a lane."""
        self._pool.adopt_running(lane)

    # --- drain and stop -----------------------------------------------------------------------------------

    async def drain(self, lanes: Iterable[Lane]) -> bool:
        """Waits until all events accepted so far, and those that their handling causes, are settled.

        Returns False when there was nothing to wait for.
        """
        mark = DrainMark(asyncio.get_running_loop().create_future())
        self._mark_accepted(mark, lanes)
        if not mark.remaining:
            return False
        self._marks.add(mark)
        try:
            await mark.done
        finally:
            self._marks.discard(mark)
        return True

    def _mark_accepted(self, mark: DrainMark, lanes: Iterable[Lane]) -> None:
        for worker in self._pool.at_work:
            mark.add(self._pool.single_out(worker))
        self.buffer.mark(mark)
        in_lanes = [
            job for lane in lanes if lane.holds for job in (*lane.held_jobs(), *lane.settler.settling)
        ]
        for job in [*self._retries.waiting, *in_lanes]:
            job.pending = job.pending or PendingEvent(1)
            mark.add(job.pending)

    async def stop(
        self, lanes: Sequence[Lane], timeout: float, before_abandoning: Callable[[], None]
    ) -> DrainReport:
        """Drains within ``timeout`` seconds, then cancels running handlers, and reports abandoned events.

        ``before_abandoning`` stops the sources of further events.
        """
        began = self.clock.monotonic()
        loop = asyncio.get_running_loop()
        self.buffer.refuse_publishers()
        expired, timer = expiry(self.clock, timeout)
        drained = loop.create_task(self._drain_all(lanes), name="promenade-drain")
        reported: list[Abandoned] = []
        try:
            await asyncio.wait((drained, expired), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            drained.cancel()
            before_abandoning()
            left, cancelled = self._take_everything(lanes)
            reported += map(abandoned, left)
        unfinished = await self._pool.end()
        reported += [abandoned(left) for worker, left in cancelled if not _released(worker, left, unfinished)]
        for mark in (*self._marks,):
            if not mark.done.done():
                mark.done.set_exception(BusClosed("drain"))
        self.threads.close()
        return DrainReport(not reported, tuple(reported), self.clock.monotonic() - began)

    async def _drain_all(self, lanes: Sequence[Lane]) -> None:
        while self.buffer.unsettled:
            if not await self.drain(lanes):
                missing = counted(self.buffer.unsettled, "event is", "events are")
                logger.critical("%s neither settled nor to be found", missing)
                return

    def _take_everything(self, lanes: Sequence[Lane]) -> tuple[list[Leftover], list[tuple[Worker, Leftover]]]:
        """Empties the queue and the timers.

        Returns the abandoned events, and those that may be released later.
        """
        left: list[Leftover] = []
        cancelled: list[tuple[Worker, Leftover]] = []
        for worker, (port, payload, counter) in self._pool.abandon():
            # If an event became a job while it ran, the job identifies it.
            running: Leftover = (
                port.lane,
                _known(port, counter if isinstance(counter, Job) else payload),
                "running",
            )
            if port.lane.settler.releases:
                cancelled.append((worker, running))
            else:
                left.append(running)
        for port, payload, _ in self.buffer.take_all():
            left.extend((each.lane, _known(each, payload), "queued") for each in port.ports)
        for lane in lanes:
            left.extend((lane, job, "queued") for job in lane.held_jobs())
            lane.clear()
        left.extend((job.lane, job, "waiting for retry") for job in self._retries.stop())
        return left, cancelled

    # --- reports ------------------------------------------------------------------------------------------

    def state(
        self,
        lanes: Sequence[Lane],
        *,
        published: int,
        unrouted: int,
        lost: int,
        middleware: tuple[MiddlewareCount, ...] = (),
    ) -> EngineState:
        """A snapshot for probes and tools. ``lost`` counts losses outside of the engine."""
        buffer = self.buffer
        at_work = self._pool.at_work
        longest = min(at_work, key=lambda worker: worker.since, default=None)
        oldest_retry, waits_for = self._retries.oldest()
        return EngineState(
            running_handlers=len(at_work),
            worker_pool_size=self.worker_pool_size,
            unsettled=buffer.unsettled,
            buffer_size=buffer.size,
            overflow_size=buffer.overflow_size,
            overflowed=buffer.overflowed,
            waiting_publishers=buffer.waiting_publishers,
            waiting_retries=len(self._retries.waiting),
            longest_running=lease_clock() - longest.since if longest is not None else 0.0,
            longest_running_subscription=(
                longest.lane.spec.name if longest is not None and longest.lane is not None else None
            ),
            published=published,
            unrouted=unrouted,
            lost=self._pool.lost + self._retries.lost + lost,
            subscriptions=self.states_of(lanes),
            oldest_retry=oldest_retry,
            oldest_retry_subscription=waits_for,
            waiting_postponed=self._retries.waiting_postponed,
            middleware=middleware,
        )

    def states_of(self, lanes: Sequence[Lane]) -> tuple[SubscriptionState, ...]:
        """A snapshot of the counters of each lane."""
        self._pool.close_walk()  # the remaining deliveries of an event for several handlers count as queued
        at_work = self._pool.at_work
        waiting, plain = self.buffer.waiting()
        queued = Counter[JobLane]()
        for port, number in waiting.items():
            for each in port.ports:
                queued[each.lane] += number
        running = Counter(worker.lane for worker in at_work)
        for worker in at_work:
            current = worker.current
            if current is not None and current[2] is None:
                plain[current[0]] += 1
        return tuple(
            lane.state(
                queued[lane], running[lane], plain[lane.record_port] + (plain[lane.port] if lane.port else 0)
            )
            for lane in lanes
        )


def _known(port: Port, payload: Payload) -> Event | Job:
    """The event or the job that is reported as abandoned."""
    return port.lane.job_of(payload, None) if isinstance(payload, tuple) else payload
