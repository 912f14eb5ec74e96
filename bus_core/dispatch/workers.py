"""The workers: long-lived tasks that call handlers, wake each other, and keep handlers apart."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextvars import Context, ContextVar
from functools import partial
from types import coroutine
from typing import Any
from weakref import WeakKeyDictionary

from bus_core.dispatch.batches import Burst
from bus_core.dispatch.queue import Buffer
from bus_core.dispatch.units import Entry, Job, JobLane, Port, Unit
from bus_core.errors import WrongEventLoop
from bus_core.events.base import Event
from bus_core.events.messages import NO_HEADERS
from bus_core.runtime.clock import Clock, lease_clock
from bus_core.runtime.error_text import place_of
from bus_core.runtime.logs import plain_logger

__all__ = ["Worker", "WorkerPool", "current_worker", "running_worker"]

logger = plain_logger("promenade.bus")

SLICE = 0.002
"""Seconds that workers may run before the rest of the event loop gets its turn."""

_MOST_BETWEEN_TIME_CHECKS = 128
"""Events that a worker handles before it looks at the clock; fewer while handlers are slow."""

_STANDSTILL = 1.0
"""Seconds without any burst, after which one asks whether the process stood still."""

_REVIVAL = 0.1
"""Seconds after which a loop whose tasks were all cancelled is taken for one that is not being closed."""

_UNWIND = 0.25
"""Seconds of real time that cancelled handlers get to clean up when the shutdown timeout is over."""


class Worker:
    """What one worker is doing. It is also the value of the context variable that its handlers see."""

    __slots__ = (
        "base",
        "burst",
        "context",
        "entry",
        "pool",
        "port",
        "rest",
        "since",
        "stopping",
        "task",
        "waiter",
    )

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        # What it works on: the entries of a burst, until it is held up, and the one entry that is counted
        # by itself, if the current one is. Where an event is for several handlers, ``port`` is the one that
        # it is at, and ``rest`` walks along those after it. While a handler is held up, all of this may be
        # changed by others: see WorkerPool.single_out.
        self.burst: Burst | None = None
        self.entry: Entry | None = None
        self.port: Port | None = None
        self.rest: Iterable[Port] = ()
        # What its task runs in, and a copy from before the first handler. Comparing the two costs half of
        # what it takes to compare with ``copy_context()``.
        self.context = Context()  # an empty one: not the variables of whoever started the bus
        self.context.run(current_worker.set, self)
        self.base = self.context.copy()
        self.since = 0.0
        self.stopping = False
        self.task: WorkerTask | None = None
        self.waiter: asyncio.Future[None] | None = None  # what it rests on, until it is roused

    @property
    def held_up(self) -> bool:
        """Whether what it has not begun of its burst was handed to others, or would have been."""
        return self.burst is None

    @property
    def has_entry(self) -> bool:
        """Whether it is at an entry that is not settled elsewhere; a handler may have changed that."""
        return self.entry is not None

    @property
    def cancelled(self) -> bool:
        """Whether somebody, such as a handler, has asked to cancel the worker's task."""
        return self.task is not None and self.task.cancelling() > 0

    @property
    def current(self) -> Entry | None:
        """The entry whose handler is running; None when none is."""
        if self.entry is None and self.burst is not None:
            return self.burst.current
        return self.entry

    @property
    def lane(self) -> JobLane | None:
        """The lane whose handler is running; None when none is."""
        current = self.current
        return None if current is None else (self.port or current[0]).lane


class WorkerTask(asyncio.Task[None]):
    """A task that tells the engine when it is cancelled: a handler may do that to its worker.

    It costs nothing per event, where asking ``cancelling()`` after each handler would.
    """

    worker: Worker

    def cancel(self, msg: object = None) -> bool:
        if self.worker.current is not None:
            self.worker.pool.single_out(self.worker)  # the worker will notice, and end after this delivery
        return super().cancel(msg)


current_worker: ContextVar[Worker] = ContextVar("promenade_bus_worker")


def running_worker() -> Worker | None:
    """The worker whose handler is the caller, or is waiting for the caller; None outside of handlers.

    A handler may wait for tasks that it has started. Once it has returned, they are tasks like any other.
    """
    worker = current_worker.get(None)
    if worker is None:
        return None
    if asyncio._get_running_loop() is worker.pool.loop:
        task = asyncio.current_task()
        if task is not None and task is not worker.task:  # callbacks have no task, and are not told apart
            return worker if worker.pool.was_started_by(worker, task) else None
    return worker if worker.current is not None else None


@coroutine
def _give_way() -> Generator[None, None, None]:
    yield


class WorkerPool:
    """Runs what stands in a buffer in at most ``size`` workers.

    ``failed`` is called with each job whose attempt failed, and has to see it through. ``inside`` is what
    ``current_worker().pool.inside`` tells a handler: the engine that it runs in. ``stood_still`` is called
    before an entry is begun when none was for a while; it may take entries back.
    """

    def __init__(
        self,
        *,
        size: int,
        buffer: Buffer,
        clock: Clock,
        inside: object,
        failed: Callable[[Job, BaseException], None],
        stood_still: Callable[[], None],
    ) -> None:
        self.inside = inside
        self._stood_still = stood_still
        self.stopping = False
        self.lost = 0
        self._size = size
        self._buffer = buffer
        self._clock = clock
        self._failed = failed
        self._workers: set[Worker] = set()
        self._idle: deque[Worker] = deque()
        self._keeper: asyncio.Task[None] | None = None
        self._between_time_checks = 4
        self._turn_began = 0.0
        self._began_at = 0.0  # when the latest burst did
        self._next_turn_planned = False
        self.loop: asyncio.AbstractEventLoop | None = None
        # Of tasks with the context of a worker, the delivery that it was at when they were seen first.
        self._started: WeakKeyDictionary[asyncio.Task[Any], Unit | None] = WeakKeyDictionary()

    def start(self) -> None:
        """Starts the workers on the running loop."""
        self.loop = asyncio.get_running_loop()
        self._start_keeper(self.loop)
        for _ in range(self._size):
            self._start_worker()

    @property
    def torn_down(self) -> bool:
        """Whether the loop is being closed although the bus is open, as ``asyncio.run`` does at its end.

        Handlers may cancel their worker, which the bus survives. Only who cancels every task there is
        cancels the keeper, too.
        """
        return self._keeper is not None and self._keeper.cancelling() > 0 and not self.stopping

    def _start_keeper(self, loop: asyncio.AbstractEventLoop) -> None:
        self._keeper = loop.create_task(self._keep(loop), name="promenade-keeper", context=Context())
        self._keeper.add_done_callback(self._keeper_ended)

    @staticmethod
    async def _keep(loop: asyncio.AbstractEventLoop) -> None:
        await loop.create_future()

    def _keeper_ended(self, task: asyncio.Task[None]) -> None:
        """Also when it was cancelled before its first step."""
        if self.stopping:
            return
        if self._buffer.unsettled:
            logger.critical(
                "the event loop was closed, but the bus was not: %d events are lost; close the bus",
                self._buffer.unsettled,
            )
        loop = task.get_loop()
        loop.call_later(_REVIVAL, self._revive, loop)

    def _revive(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop goes on: a program cancelled every task, so as to shut down, but uses its bus still."""
        if self.stopping:
            return
        logger.warning("the event loop was not closed, only all of its tasks were cancelled: the bus goes on")
        self._start_keeper(loop)
        self._wake_or_fall_asleep()

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
        """Sees to it that a worker's end never ends the bus: the next event starts a fresh one."""
        if worker.stopping or worker not in self._workers:
            return
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
        """Wakes or starts one worker, if one is idle or missing. It does the same when it is held up.

        Raises ``WrongEventLoop``: a worker cannot be woken from another thread.
        """
        if asyncio._get_running_loop() is not self.loop:
            raise WrongEventLoop("publish")
        self._buffer.stay_awake()
        while self._idle:
            worker = self._idle.popleft()
            if worker.waiter is not None and not worker.waiter.done():
                worker.waiter.set_result(None)
                worker.waiter = None
                return
        if len(self._workers) < self._size and not self.stopping and not self.torn_down:
            self._start_worker()

    def wake_for_room(self) -> bool:
        """Whether there is room after all, when looked at closely; wakes a worker if all are asleep."""
        if not self._buffer.has_room(for_handler=False):
            return False
        if self._buffer.asleep:
            self.rouse()
        return True

    async def _work(self, worker: Worker) -> None:
        buffer = self._buffer
        while not worker.stopping:
            if not buffer.has_entries():
                await self._rest(worker)
                continue
            if not self._begin_burst(worker):
                await _give_way()
                continue
            worker.burst = burst = buffer.begin(self._between_time_checks)
            if burst.plain is not None:
                unchanged = await self._handle_plain(worker, burst.plain)
            else:
                unchanged = await self._handle_counted(worker, burst.entries)
            was_cancelled = worker.held_up and worker.cancelled
            worker.burst = None
            buffer.end(burst)
            del burst  # an idle worker keeps no event alive
            if not unchanged or was_cancelled:
                return self._replace(worker)

    async def _handle_plain(self, worker: Worker, entries: Iterator[tuple[Port, Event | Job]]) -> bool:
        """Handles a burst of plain entries; False when a handler changed the context variables.

        The walk ends early where a handler is held up: whoever notices has the rest of the burst taken back.
        """
        context, base = worker.context, worker.base
        unchanged = True
        for port, payload in entries:
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
        if worker.entry is not None:  # it was held up, and then succeeded
            self._settle(worker)
        return unchanged

    async def _handle_counted(self, worker: Worker, entries: Iterator[Entry]) -> bool:
        """Handles a burst of entries that have a counter; like ``_handle_plain``."""
        for entry in entries:
            worker.entry = entry
            port, payload, _ = entry
            try:
                await port.call(payload)
            except BaseException as error:
                self._attempt_failed(worker, error)
            else:
                if worker.has_entry:  # several handlers: each delivery was counted by itself
                    self._settle(worker)
            if _differs(worker.context, worker.base):
                return False
        return True

    async def _call_each(self, ports: Sequence[Port], payload: Event | Job) -> None:
        """Hands one event to several handlers, one after the other as long as none is held up or fails.

        Then the walk ends, because whoever notices hands the rest of it to others.
        """
        worker = current_worker.get()
        context, base = worker.context, worker.base
        worker.rest = rest = iter(ports)
        for port in rest:
            worker.port = port
            try:
                call = port.call
                await call(payload)
            except BaseException as error:
                self._attempt_failed(worker, error)
                return
            port.handled += 1
            if worker.entry is not None:
                self._delivered(worker.entry)
            try:
                if context == base:
                    continue
            except BaseException:  # a value whose comparison raises is a changed one
                pass
            self._hand_over(worker)
            return
        worker.port = None
        worker.entry = None  # where it was counted, each delivery was counted by itself

    def _hand_over(self, worker: Worker) -> None:
        """A handler changed the context variables: the rest of the event goes to other workers."""
        counted = worker.entry is not None
        unit = self.single_out(worker)
        worker.entry = None  # counted here
        if not counted:
            self._buffer.delivery_settled(unit)

    def _replace(self, worker: Worker) -> None:
        """A handler changed its worker's context variables, or cancelled its task: the worker ends."""
        self._workers.discard(worker)
        self._wake_or_fall_asleep()

    def _begin_burst(self, worker: Worker) -> bool:
        """Notes the time and plans the end of the turn.

        False when the workers' part of it is over, or nothing is left to begin.
        """
        now = lease_clock()
        since, self._began_at = self._began_at, now
        if now - since > _STANDSTILL:
            self._stood_still()
            if not self._buffer.has_entries():
                return False
        if not self._next_turn_planned:
            assert self.loop is not None, "workers run on a loop"
            self._next_turn_planned = True
            self._turn_began = now
            self.loop.call_soon(self._next_turn)
        else:
            if worker.since >= self._turn_began:
                self._adapt(now - worker.since)
            if now - self._turn_began > SLICE:
                return False
        worker.since = now
        return True

    def _adapt(self, seconds: float) -> None:
        """Looks at the clock more often when the events since the last look took long."""
        if seconds > SLICE / 2 and self._between_time_checks > 1:
            self._between_time_checks //= 2
        elif seconds < SLICE / 8 and self._between_time_checks < _MOST_BETWEEN_TIME_CHECKS:
            self._between_time_checks *= 2

    def _next_turn(self) -> None:
        """Runs when every worker has paused. If entries are left, it wakes a worker when all are held up."""
        self._next_turn_planned = False
        all_held_up = True
        for worker in self._workers:
            if worker.burst is not None:
                self.single_out(worker)  # its handler is held up: the next ones shall not wait for it
            elif worker.entry is None:
                all_held_up = all_held_up and worker.waiter is not None  # else it goes on in this turn
        if all_held_up or not self._buffer.has_entries():
            self._wake_or_fall_asleep()

    async def _rest(self, worker: Worker) -> None:
        assert self.loop is not None, "workers run on a loop"
        worker.waiter = waiter = self.loop.create_future()
        self._idle.append(worker)
        self._buffer.fall_asleep()
        await waiter

    # --- what becomes of an entry -------------------------------------------------------------------------

    def port_for(self, ports: Sequence[Port]) -> Port:
        """One port for an event that goes to all of these."""
        return (
            ports[0]
            if len(ports) == 1
            else Port(ports[0].lane, partial(self._call_each, ports), tuple(ports))
        )

    def adopt_running(self, lane: JobLane) -> None:
        """Makes jobs of the entries of a lane that are running without one."""
        if lane.port is None:
            return  # all of its entries are jobs
        for worker in self._workers:
            current = worker.current
            if current is not None and lane.port in (worker.port, current[0]):
                self._as_job(worker)

    def as_job(self, lane: JobLane, payload: Event | Job, unit: Unit) -> Job:
        assert not isinstance(payload, Job), "a job is a job already"
        lane.adopted()
        return Job(lane, lane.spec.topic, unit, self._clock.now(), event=payload, headers=NO_HEADERS)

    def _as_job(self, worker: Worker) -> Job:
        """Makes a job of the delivery that a worker is at, if it is none yet."""
        unit = self.single_out(worker)
        assert worker.entry is not None, "it was singled out"
        port, payload, counter = worker.entry
        if isinstance(counter, Job):
            return counter
        job = self.as_job(port.lane, payload, unit)
        worker.entry = (port, job, job)
        return job

    def single_out(self, worker: Worker) -> Unit:
        """Leaves a worker with the delivery that it is at, and counts it; other workers get the rest."""
        current = worker.current
        assert current is not None, "the worker is at work"
        port, payload, counter = current
        if worker.burst is not None:
            self._buffer.single_out(worker.burst)
            worker.burst = None
        if worker.port is not None:
            port, worker.port = worker.port, None
        rest = [*worker.rest]  # the worker walks along the same iterator, so that nothing is left to it
        unit = current[0].take_apart(counter, 1 + len(rest))
        if rest:
            self._buffer.put_first((self.port_for(rest), payload, unit))
        worker.entry = (port, payload, counter or unit)
        return unit

    def was_started_by(self, worker: Worker, task: asyncio.Task[Any]) -> bool:
        """Whether the delivery that the worker is at has started a task, for all that can be seen.

        A task is taken to be started by the delivery that its worker is at when it is seen first.
        """
        at_work = worker.current is not None
        if task in self._started:
            unit = self._started[task]
            return unit is not None and at_work and self.single_out(worker) is unit
        self._started[task] = self.single_out(worker) if at_work else None
        return at_work

    def _settle(self, worker: Worker) -> None:
        """Settles the delivery with a counter that a worker was at; it was handled."""
        assert worker.entry is not None, "it has a counter"
        worker.entry[0].handled += 1
        self._delivered(worker.entry)
        worker.entry = None

    def _delivered(self, entry: Entry) -> None:
        """A delivery with a counter has succeeded."""
        counter = entry[2]
        if isinstance(counter, Job):
            counter.lane.settler.acknowledge(counter)
        else:
            self._buffer.delivery_settled(counter)

    def _attempt_failed(self, worker: Worker, error: BaseException) -> None:
        if worker.stopping:
            raise asyncio.CancelledError from error  # already reported as abandoned
        if isinstance(error, GeneratorExit) and asyncio._get_running_loop() is None:
            raise error  # the coroutine is being thrown away together with its loop
        self._failed(self._as_job(worker), error)
        worker.entry = None  # what follows has been decided

    @property
    def at_work(self) -> list[Worker]:
        """The workers that are running a handler."""
        return [worker for worker in self._workers if worker.current is not None]

    def finish(self, job: Job) -> None:
        """A job has come to its end, good or bad, and its settler is through with it."""
        job.lane.step_done(job, settled=True)
        self._buffer.delivery_settled(job.unit)

    # --- the end ------------------------------------------------------------------------------------------

    def abandon(self) -> list[tuple[Worker, Entry]]:
        """Makes every worker end; returns those at work, and what they are at."""
        self.stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
        left: list[tuple[Worker, Entry]] = []
        for worker in self._workers:
            worker.stopping = True
            if worker.current is not None:
                self.single_out(worker)
                assert worker.entry is not None, "it was singled out"
                left.append((worker, worker.entry))
        return left

    async def end(self) -> Collection[Worker]:
        """Cancels the workers; returns those that did not end in time, which are left behind."""
        tasks = {worker.task: worker for worker in self._workers if worker.task is not None}
        for task in tasks:
            task.cancel()
        stubborn: Collection[WorkerTask] = ()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=_UNWIND)
            for task in stubborn:
                logger.error("a handler swallowed its cancellation and was left behind: %r", task.get_coro())
        self._workers.clear()
        return [tasks[task] for task in stubborn]


def _differs(context: Context, base: Context) -> bool:
    """What the loops spell out for the usual event: there a call of its own would be felt."""
    try:
        return context != base
    except BaseException:  # a value whose comparison raises is a changed one
        return True
