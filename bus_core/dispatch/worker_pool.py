"""The pool of workers: long-lived tasks that call handlers, wake each other, and isolate handlers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator, Sequence
from contextvars import Context
from functools import partial
from types import coroutine
from typing import Any, Final
from weakref import WeakKeyDictionary

from bus_core.dispatch.invocation import NOTHING
from bus_core.dispatch.jobs import (
    Deferred,
    DrainMark,
    Entry,
    Job,
    JobLane,
    Payload,
    PendingEvent,
    Port,
    pending_event_of,
)
from bus_core.dispatch.loop_watch import LoopWatch
from bus_core.dispatch.queue import Buffer
from bus_core.dispatch.worker import Worker, WorkerTask, current_worker
from bus_core.errors import WrongEventLoop
from bus_core.events.messages import EventRecord
from bus_core.runtime.clock import lease_clock
from bus_core.runtime.error_text import place_of
from bus_core.runtime.logs import plain_logger

__all__ = ["WorkerPool"]

logger = plain_logger("promenade.bus")

SLICE = 0.002
"""Seconds that workers may run before the rest of the event loop gets its turn."""

_LONGEST_WALK = 128
"""Events that a worker handles before it looks at the clock; fewer while handlers are slow."""

_PROCESS_PAUSE = 1.0
"""Seconds without any walk after which the process may have been paused, so that leases are checked."""

_CLEANUP_TIME = 0.25
"""Seconds of real time that cancelled handlers get to clean up when the shutdown timeout is over."""


_ALONE: Final[Iterator[Any]] = iter(())
"""In place of a walk: the worker was left with one entry at once."""

_NEXT_TURN: Final[Iterator[Any]] = iter(())
"""In place of a walk: in a later turn of the loop."""


@coroutine
def _yield_to_loop() -> Generator[None, None, None]:
    yield


class WorkerPool:
    """Runs the entries of a buffer in at most ``size`` workers.

    ``failed`` is called with each job whose attempt failed, and has to settle it. ``inside`` is the engine; a
    handler finds it as ``current_worker().pool.inside``. ``process_paused`` is called before an entry begins
    when none began for a while; it may take entries back.
    """

    def __init__(
        self,
        *,
        size: int,
        buffer: Buffer,
        inside: object,
        failed: Callable[[Job, BaseException], None],
        process_paused: Callable[[], None],
    ) -> None:
        self.inside = inside
        self._process_paused = process_paused
        self.stopping = False
        self.lost = 0
        self._size = size
        self._buffer = buffer
        self._failed = failed
        self._workers: set[Worker] = set()
        self._idle: deque[Worker] = deque()
        self._yielding = 0  # the number of workers that paused, and go on in this turn of the loop
        self._walking_worker: Worker | None = None  # the worker with the open walk
        self._settling: Worker | None = None  # the worker that settles a delivery now
        self._loop_watch = LoopWatch(unsettled=lambda: buffer.unsettled, resumed=self._wake_or_fall_asleep)
        self._most_plain = 4  # entries of one walk
        self._most_counted = 4
        # The ports of the events for several handlers that were handled in the walk, and their number.
        self._several: Sequence[Port] = ()
        self._times_several = 0
        self._handed_on = 0  # the number of jobs that a worker handed on to itself
        self._wave = 1  # the number of workers that are woken at once
        self._rested = False  # True when a worker had nothing to do in this turn of the loop
        self._turn_began = 0.0
        self._began_at = 0.0  # when the latest walk did
        self._next_turn_planned = False
        self.loop: asyncio.AbstractEventLoop | None = None
        # For each task with the context of a worker: the worker's delivery when the task was seen first.
        self._started: WeakKeyDictionary[asyncio.Task[Any], PendingEvent | None] = WeakKeyDictionary()

    def start(self) -> None:
        """Starts the workers on the running loop."""
        self.loop = asyncio.get_running_loop()
        self._loop_watch.start(self.loop)
        for _ in range(self._size):
            self._start_worker()

    @property
    def torn_down(self) -> bool:
        """True when the loop is being closed although the bus is open; see ``LoopWatch``."""
        return self._loop_watch.torn_down

    def _start_worker(self) -> None:
        assert self.loop is not None, "start() comes first"
        worker = Worker(self)
        self._workers.add(worker)
        worker.task = WorkerTask(
            self._work(worker), loop=self.loop, name="promenade-worker", context=worker.context
        )
        worker.task.worker = worker
        worker.task.add_done_callback(partial(self._worker_ended, worker))

    def _worker_ended(self, worker: Worker, task: asyncio.Task[None]) -> None:
        """Replaces a worker that ended: the next event starts a new one."""
        if worker.stopping or worker not in self._workers:
            return
        if worker.current is not None:
            self.single_out(worker)  # its lost delivery was not handled
        self._workers.discard(worker)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.lost += 1
            logger.critical(
                "an error in the engine ended a worker and lost its event: %s at %s",
                type(error).__name__,
                place_of(error),
            )
        self._wake_or_fall_asleep()

    def _wake_or_fall_asleep(self) -> None:
        if self._buffer.has_entries():
            self.rouse()
        else:
            self._buffer.fall_asleep()

    def rouse(self) -> None:
        """Makes sure that a worker looks at the queue soon, even if the one with the open walk is blocked.

        Raises ``WrongEventLoop``: a worker cannot be woken from another thread.
        """
        if asyncio._get_running_loop() is not self.loop:
            raise WrongEventLoop("publish")
        self._buffer.stay_awake()
        if self._walking_worker is not None:
            self._plan_next_turn()  # it finds out whether that worker is blocked
        else:
            self._wake(1)

    def _wake(self, number: int) -> None:
        """Wakes up to ``number`` idle workers; if they do not suffice, starts one, unless there are all."""
        while self._idle:
            worker = self._idle.popleft()
            if worker.waiter is not None and not worker.waiter.done():
                worker.waiter.set_result(None)
                worker.waiter = None
                number -= 1
                if not number:
                    return
        if len(self._workers) < self._size and not self.stopping and not self.torn_down:
            self._start_worker()

    def wake_for_room(self) -> bool:
        """True when there is room after all; wakes a worker if all are asleep."""
        if not self._buffer.has_room(for_handler=False):
            return False
        if self._buffer.asleep:
            self.rouse()
        return True

    # --- the walks ----------------------------------------------------------------------------------------

    async def _work(self, worker: Worker) -> None:
        buffer, context, base = self._buffer, worker.context, worker.base
        while not worker.stopping:
            walk: Any = self._begin(worker)
            if walk is None:
                await self._rest(worker)
                continue
            if walk is _NEXT_TURN:
                self._yielding += 1
                try:
                    await _yield_to_loop()
                finally:
                    self._yielding -= 1
                continue
            unchanged = True
            entry = worker.entry
            if entry is not None:
                port, payload = entry[:2]
                try:
                    await port.call(payload)
                except BaseException as error:
                    self._attempt_failed(worker, error)
                try:
                    unchanged = context == base
                except BaseException:
                    unchanged = False
                del port, payload
                entry = None
            elif not buffer.is_plain:
                unchanged = await self._handle_counted(worker, walk)
            else:
                # It ends early when the walk is closed: see ``close_walk``.
                for port, payload in walk:
                    try:
                        call = port.call  # CPython 3.11 looks a slot up faster than it calls one
                        await call(payload)
                    except BaseException as error:
                        self._attempt_failed(worker, error)
                    try:
                        if context == base:
                            continue
                    except BaseException:  # a value whose comparison raises is a changed one
                        pass
                    unchanged = False
                    break
                port = payload = call = None  # type: ignore[assignment]
            walk = None  # an idle worker keeps no event alive
            if self._walking_worker is worker:
                self._end_walk()
                if unchanged:
                    continue
            else:
                entry = worker.entry
                if entry is not None:
                    worker.entry = None
                    if entry[2] is None:
                        buffer.settled(1)
                    else:  # it has its own counter
                        entry[0].handled += 1
                        self._settling = worker
                        self._delivered(entry[2], 1)
                        self._settling = None
                    entry = None
                if unchanged and not (worker.was_cancelled and worker.cancelled):
                    continue
            return self._replace(worker)

    async def _handle_counted(self, worker: Worker, walk: Iterator[Entry]) -> bool:
        """Handles a walk along entries with counters; False when a handler changed the context variables."""
        for port, payload, counter in walk:
            try:
                await port.call(payload)
            except BaseException as error:
                self._attempt_failed(worker, error)
            else:
                if self._walking_worker is worker:
                    for each in port.ports:
                        each.handled += 1
                    self._delivered(counter, len(port.ports))
            if _differs(worker.context, worker.base):
                return False
        return True

    async def _call_each(
        self, ports: Sequence[Port], calls: Sequence[Callable[[Any], Awaitable[Any]]], payload: Payload
    ) -> None:
        """Hands one event to several handlers, one after the other until one blocks or fails.

        Then the walk along them ends, and other workers get the rest.
        """
        worker = current_worker.get()
        context, base = worker.context, worker.base
        worker.ports = ports
        worker.rest = rest = iter(calls)
        for call in rest:
            try:
                await call(payload)
            except BaseException as error:
                self._attempt_failed(worker, error)
                return
            try:
                if context == base:
                    continue
            except BaseException:  # a value whose comparison raises is a changed one
                pass
            self.close_walk_of(worker)
            return
        if worker.at_several:  # otherwise its deliveries were counted one by one
            worker.rest = None
            if self._buffer.is_plain:
                if self._several is not ports:
                    self._count_several()
                    self._several = ports
                self._times_several += 1

    def _count_several(self) -> None:
        """Counts the deliveries of events for several handlers that were handled in the walk."""
        if self._times_several:
            for port in self._several:
                port.handled += self._times_several
            self._several, self._times_several = (), 0

    def _end_walk(self) -> None:
        self._count_several()
        self._walking_worker = None
        self._buffer.end()

    def _replace(self, worker: Worker) -> None:
        """A handler changed its worker's context variables, or cancelled its task: the worker ends."""
        self._put_back(worker)
        self._workers.discard(worker)
        self._wake_or_fall_asleep()

    def _begin(self, worker: Worker) -> Iterator[tuple[Port, Payload]] | Iterator[Entry] | None:
        """Opens a walk for a worker, or gives it one entry; None when there is nothing to do.

        ``_NEXT_TURN`` when the workers' part of this turn of the loop is over.
        """
        now = lease_clock()
        since, self._began_at = self._began_at, now
        if now - since > _PROCESS_PAUSE:
            self.close_walk()
            self._put_back(worker)
            self._process_paused()
        if self._walking_worker is not None:
            self._held_up()  # another worker is blocked: its remaining entries come first
        buffer = self._buffer
        is_planned = self._next_turn_planned
        if not is_planned:
            self._turn_began = now
        else:
            if worker.since >= self._turn_began:
                self._adapt(now - worker.since)
            if now - self._turn_began > SLICE and (worker.entry is not None or buffer.has_entries()):
                self._put_back(worker)
                return _NEXT_TURN
        worker.since = now
        if worker.entry is not None:  # a job that was handed on, and the only entry
            self._handed_on += 1
            if not self._handed_on % _LONGEST_WALK:
                self._plan_next_turn()  # so that a chain of such jobs cannot keep the loop
            elif not is_planned and not buffer.asleep:
                buffer.fall_asleep()
            return _ALONE
        walk: Iterator[Any] | None = None
        # While handlers block, or events come one by one, a walk would end after its first entry.
        if self._most_plain == 1 or self._most_counted == 1 or buffer.has_one_event:
            entry = buffer.take_one()
            if entry is not None:
                if entry[0].admit is None:
                    worker.entry = entry
                    walk = _ALONE
                else:
                    walk = self._admit_one(worker, entry)
        if walk is None:
            walk = buffer.begin(self._most_plain, self._most_counted)
            if walk is None:
                return None
            self._walking_worker = worker
        elif walk is _NEXT_TURN:
            return walk
        if not is_planned:
            if buffer.has_others():
                self._plan_next_turn()
            else:
                buffer.fall_asleep()  # no worker needs to look until more events come
        return walk

    def push(self, job: Job) -> None:
        """Puts a job into the queue, or hands it on to the worker whose delivery has just unblocked it.

        It hands a job on only when the queue is empty, because all lanes have the same right to a worker.
        """
        buffer, worker = self._buffer, self._settling
        entry = job.lane.job_port, job, job
        if worker is not None and worker.entry is None and not buffer.has_entries():
            worker.entry = entry
            return
        buffer.append(entry)
        if buffer.asleep:
            self.rouse()

    def _put_back(self, worker: Worker) -> None:
        """Puts a job back that was handed on to a worker that does not begin it now."""
        if worker.entry is not None:
            self._buffer.put_first(worker.entry)
            worker.entry = None

    def _admit_one(self, worker: Worker, entry: Entry | None) -> Iterator[Any] | None:
        """Gives the worker the first entry from ``entry`` on that may run now; None when there is none.

        The lanes keep the entries before it, which wait for others. Returns ``_NEXT_TURN`` when these are
        so many that the workers' part of this turn of the loop is over.
        """
        take, since = self._buffer.take_one, worker.since
        while entry is not None:
            port, payload, counter = entry
            admit = port.admit
            if admit is None:
                worker.entry = entry
                return _ALONE
            assert isinstance(payload, tuple), "a lane without restrictions takes others"
            assert not isinstance(counter, Job), "a job has a port of its own"
            if counter is None:
                port.apart += 1
            job = admit(payload, counter)
            if job is not None:
                worker.entry = port.lane.job_port, job, job
                return _ALONE
            if lease_clock() - since > SLICE:
                self._plan_next_turn()
                return _NEXT_TURN
            entry = take()
        return None

    def _adapt(self, seconds: float) -> None:
        """Shortens walks when the events since the last look at the clock took long, or lengthens them."""
        is_plain = self._buffer.is_plain
        most = self._most_plain if is_plain else self._most_counted
        if seconds > SLICE / 2 and most > 1:
            most //= 2
        elif seconds < SLICE / 8 and most < _LONGEST_WALK:
            most *= 2
        else:
            return
        if is_plain:
            self._most_plain = most
        else:
            self._most_counted = most

    def _plan_next_turn(self) -> None:
        if not self._next_turn_planned:
            assert self.loop is not None, "workers run on a loop"
            self._next_turn_planned = True
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Runs when every worker has paused. If none of them goes on, wakes others for the entries left."""
        self._next_turn_planned = False
        if self._walking_worker is not None:
            self._held_up()
        if self._yielding:
            return
        left = self._buffer.waiting_entries
        if not left:
            self._buffer.fall_asleep()
            return
        self._buffer.stay_awake()
        # The more workers are blocked at once, the more are woken: long waits soon occupy all.
        self._wave = 1 if self._rested else self._wave * 2
        self._rested = False
        self._wake(min(left, self._wave))

    def _held_up(self) -> None:
        """Closes the open walk, whose worker is blocked in a handler, so that others can go on."""
        begun = self._buffer.begun  # while handlers block, longer walks only have to be taken back
        if self._buffer.is_plain:
            self._most_plain = begun
        else:
            self._most_counted = begun
        self.close_walk()

    async def _rest(self, worker: Worker) -> None:
        assert self.loop is not None, "workers run on a loop"
        worker.waiter = waiter = self.loop.create_future()
        self._idle.append(worker)
        self._rested = True
        self._buffer.fall_asleep()
        await waiter

    # --- what becomes of an entry -------------------------------------------------------------------------

    def port_for(self, ports: Sequence[Port]) -> Port:
        """One port for an event that goes to all of these."""
        return (
            ports[0]
            if len(ports) == 1
            else Port(
                ports[0].lane,
                partial(self._call_each, ports, tuple(port.call for port in ports)),
                tuple(ports),
            )
        )

    def is_walking(self, worker: Worker) -> bool:
        """True when the open walk is that worker's."""
        return self._walking_worker is worker

    def current_of(self, worker: Worker) -> Entry | None:
        """The entry of a worker whose walk is open."""
        return self._buffer.current if self._walking_worker is worker else None

    @property
    def marks_of_walk(self) -> tuple[DrainMark, ...]:
        """The drains that wait for the plain entries of the walk that is open."""
        return self._buffer.marks

    def close_walk_of(self, worker: Worker) -> None:
        """Leaves a worker with the delivery that it is at, if it is on a walk."""
        if self._walking_worker is worker:
            self.close_walk()

    def close_walk(self, *, adopting: bool = True) -> None:
        """Closes the open walk, if there is one. Its worker keeps the current delivery.

        Others of its lane may have to wait for that delivery from now on. So it becomes a job, unless
        ``adopting`` is false.
        """
        worker = self._walking_worker
        if worker is None:
            return
        if worker.entry is not None:  # the delivery has failed, and was set apart
            self._end_walk()
            return
        self._count_several()
        marks = self._buffer.marks
        entry = self._buffer.halt()
        port, payload, counter = entry
        if worker.rest is not None:
            entry = self._part_of(worker, entry, marks)
        elif counter is None and marks:
            entry = port, payload, port.take_apart(None, 1, marks)
        worker.entry = port, _, counter = entry
        self._walking_worker = None  # last: a handler's thread may ask whether its worker is at work
        if adopting and port.lane.restricted and not isinstance(counter, Job):
            self._as_job(worker)

    def _part_of(self, worker: Worker, entry: Entry, marks: tuple[DrainMark, ...]) -> Entry:
        """The current delivery of an event for several handlers; other workers get the later ones."""
        whole, payload, counter = entry
        assert worker.rest is not None, "there are several"
        left = len([*worker.rest])  # this exhausts the iterator that the worker walks along
        worker.rest = None
        done = len(worker.ports) - left - 1
        others = worker.ports[done + 1 :]
        for port in worker.ports[:done]:
            port.handled += 1
        pending = whole.take_apart(counter, 1 + len(others), marks)
        if counter is not None:
            pending.remaining -= done
        if others:
            self._buffer.put_first((self.port_for(others), payload, pending))
        return worker.ports[done], payload, pending

    def single_out(self, worker: Worker) -> PendingEvent:
        """Leaves a worker with its current delivery, and returns the counter of that event."""
        self.close_walk_of(worker)
        assert worker.entry is not None, "the worker is at work"
        port, payload, counter = worker.entry
        if counter is None:
            counter = port.take_apart(None)
            worker.entry = (port, payload, counter)
        return pending_event_of(counter)

    def adopt_running(self, lane: JobLane) -> None:
        """Makes jobs of the running deliveries of a lane."""
        for worker in self._workers:
            if worker.lane is lane:
                self.close_walk_of(worker)
                self._as_job(worker)

    def _as_job(self, worker: Worker) -> Job:
        """Makes a job of a worker's current delivery, unless it is one. The walk goes on without it."""
        if worker.entry is None:
            if worker.rest is not None:
                self.close_walk(adopting=False)
            else:
                worker.entry = self._buffer.set_apart()
        assert worker.entry is not None, "it is at work"
        port, payload, counter = worker.entry
        if isinstance(counter, Job):
            return counter
        assert not isinstance(payload, Job), "a job counts itself"
        if counter is None:
            port.apart += 1
        job = port.lane.job_of(payload, counter)
        port.lane.adopt(job)
        worker.entry = (port, job, job)
        return job

    def was_started_by(self, worker: Worker, task: asyncio.Task[Any]) -> bool:
        """True when the delivery that the worker is at has started a task, as far as one can see.

        A task is taken to be started by the delivery that its worker is at when it is seen first.
        """
        at_work = worker.current is not None
        if task in self._started:
            pending = self._started[task]
            return pending is not None and at_work and self.single_out(worker) is pending
        self._started[task] = self.single_out(worker) if at_work else None
        return at_work

    def _delivered(self, counter: PendingEvent | Job | None, number: int) -> None:
        """Deliveries with a counter have succeeded."""
        if isinstance(counter, Job):
            counter.lane.settler.acknowledge(counter)
        else:
            self._buffer.delivery_settled(counter, number)

    def _attempt_failed(self, worker: Worker, error: BaseException) -> None:
        if worker.stopping:
            raise asyncio.CancelledError from error  # already reported as abandoned
        if isinstance(error, GeneratorExit) and asyncio._get_running_loop() is None:
            raise error  # the coroutine is being thrown away together with its loop
        if isinstance(error, Deferred):
            self._back_into_lane(worker)
            return
        self._failed(self._as_job(worker), error)
        worker.entry = None  # the failure is decided
        if self._walking_worker is worker and lease_clock() - self._turn_began > SLICE:
            self._end_walk()

    def defer(self, lane: JobLane, record: EventRecord) -> Awaitable[Any]:
        """Takes the event that a worker is about to handle back into its lane, where it waits for others.

        Raises ``Deferred`` in all but the usual case; the worker then puts the event back.
        """
        worker, buffer = self._walking_worker, self._buffer
        if worker is None or worker.rest is not None or not buffer.is_plain:
            raise Deferred
        port, _, pending = buffer.set_apart()
        if pending is None:
            port.apart += 1
        assert not isinstance(pending, Job), "a job was let in before"
        lane.accept(lane.job_of(record, pending))
        return NOTHING

    def _back_into_lane(self, worker: Worker) -> None:
        """Puts a worker's current delivery back into its lane. The worker goes on with others."""
        if self._walking_worker is worker:
            self.close_walk(adopting=False)
        assert worker.entry is not None, "its walk is closed"
        port, payload, counter = worker.entry
        worker.entry = None
        assert not isinstance(payload, Job), "a job was let in before"
        assert not isinstance(counter, Job), "it was not adopted"
        if counter is None:
            port.apart += 1
        port.lane.accept(port.lane.job_of(payload, counter))

    @property
    def at_work(self) -> list[Worker]:
        """The workers that are running a handler."""
        return [worker for worker in self._workers if worker.current is not None]

    def finish(self, job: Job) -> None:
        """Ends a job that its settler has settled."""
        job.lane.attempt_done(job, settled=True)
        if job.pending is None:
            self._buffer.settled(1)
        else:
            self._buffer.delivery_settled(job.pending)

    # --- the end ------------------------------------------------------------------------------------------

    def abandon(self) -> list[tuple[Worker, Entry]]:
        """Makes every worker end; returns the busy ones with their entries."""
        self.stopping = True
        self._loop_watch.stop()
        left: list[tuple[Worker, Entry]] = []
        for worker in self._workers:
            worker.stopping = True
            if worker.current is not None:
                self.single_out(worker)
                assert worker.entry is not None, "it was singled out"
                left.append((worker, worker.entry))
        return left

    async def end(self) -> Collection[Worker]:
        """Cancels the workers. Returns those that did not end in time and are left behind."""
        tasks = {worker.task: worker for worker in self._workers if worker.task is not None}
        for task in tasks:
            task.cancel()
        unfinished: Collection[WorkerTask] = ()
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=_CLEANUP_TIME)
            for task in unfinished:
                logger.error("a handler swallowed its cancellation and was left behind: %r", task.get_coro())
        self._workers.clear()
        return [tasks[task] for task in unfinished]


def _differs(context: Context, base: Context) -> bool:
    """True when the context has changed. The loops above compare in place, which saves a call per event."""
    try:
        return context != base
    except BaseException:  # a value whose comparison raises is a changed one
        return True
