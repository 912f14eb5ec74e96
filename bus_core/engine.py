"""The dispatch engine: a bounded queue, long-lived workers, isolation, retries, and drain.

How it stays fast: an event for a plain handler waits in the queue as it is, a worker awaits the handler
directly (no task per event), and nothing is computed per event that can be computed per subscription.

How it stays fair and isolated:

- A worker that has run for ``SLICE`` seconds without a pause gives way to the rest of the loop.
- Workers are woken one after the other, the next one only when the former is held up in a handler: fast
  handlers run in one worker, slow ones in all of them.
- A worker whose context variables changed in a handler is replaced by a fresh one.
- Whatever a handler raises is a failure of that handler. Only the engine's own shutdown ends a worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from functools import partial
from itertools import islice
from operator import length_hint
from types import coroutine
from typing import Literal, Protocol
from uuid import UUID

import attrs

from bus_core.abc import Adapter, EngineState
from bus_core.clock import Clock, TimerHandle, expiry
from bus_core.errors import BufferFull, BusClosed, WrongEventLoop
from bus_core.events import Event, FrozenMapping, uuid7
from bus_core.jobs import DrainMark, Job, Unit
from bus_core.lanes import Lane, Port
from bus_core.messages import Attempt, DeadLetter, Message
from bus_core.outcomes import Decision, decide, describe_error
from bus_core.threads import ThreadPool

__all__ = ["Abandoned", "DrainReport", "Engine", "EventCodec", "current_engine"]

logger = logging.getLogger("promenade.bus")

SLICE = 0.002
"""Seconds that workers may run before the rest of the event loop gets its turn."""

_EVENTS_BETWEEN_TIME_CHECKS = 32

_UNWIND = 0.25
"""Seconds that cancelled handlers get to clean up when the shutdown timeout is over."""

_NO_HEADERS: FrozenMapping[str, str] = FrozenMapping()

Entry = tuple[Port, "Event | Job", "Unit | Job | None"]
"""A place in the queue: a port, what it is called with, and who counts its deliveries.

An event for plain handlers stands there once. Nobody counts as long as one worker is enough for all of
them. A job stands there with its lane's port for jobs, and counts itself.
"""


class EventCodec(Protocol):
    """What the engine needs of ``bus_core.codec.Codec``."""

    def encode_named(self, topic: str, event: Event) -> Message:
        """The event as a message of the topic."""
        ...

    def decode(self, message: Message) -> Event:
        """The event of a message."""
        ...

    def key_of(self, topic: str, event: Event) -> str:
        """The ordering key of an event."""
        ...


@attrs.frozen
class Abandoned:
    """An event that was accepted but not settled when the bus was closed."""

    topic: str
    subscription: str
    event_id: str
    state: Literal["queued", "running", "waiting for retry"]


@attrs.frozen
class DrainReport:
    """What closing the bus came to. ``seconds`` is how long it took."""

    completed: bool
    abandoned: tuple[Abandoned, ...]
    seconds: float


class _Worker:
    """What one worker is doing. It is also the value of the context variable that its handlers see."""

    __slots__ = ("base", "engine", "entry", "port", "rest", "since", "stopping", "task")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # The entry that it works on. Where an event is for several handlers, ``port`` is the one that it
        # is at, and ``rest`` walks along those after it. While a handler is held up, all of this may be
        # changed by others: see Engine._single_out.
        self.entry: Entry | None = None
        self.port: Port | None = None
        self.rest: Iterable[Port] = ()
        self.base = Context()
        self.since = 0.0
        self.stopping = False
        self.task: _WorkerTask | None = None

    @property
    def cancelled(self) -> bool:
        """Whether somebody, such as a handler, has asked to cancel the worker's task."""
        return self.task is not None and self.task.cancelling() > 0

    @property
    def lane(self) -> Lane | None:
        """The lane whose handler is running; None when none is."""
        if self.entry is None:
            return None
        return (self.port or self.entry[0]).lane


class _WorkerTask(asyncio.Task[None]):
    """A task that tells the engine when it is cancelled: a handler may do that to its worker.

    It costs nothing per event, where asking ``cancelling()`` after each handler would.
    """

    worker: _Worker

    def cancel(self, msg: object = None) -> bool:
        if self.worker.entry is not None:
            self.worker.engine._single_out(self.worker)  # the worker will notice, and end after this delivery
        return super().cancel(msg)


_current_worker: ContextVar[_Worker] = ContextVar("promenade_bus_worker")


def current_engine() -> Engine | None:
    """The engine whose handler is running in this context; None outside of handlers."""
    worker = _current_worker.get(None)
    return None if worker is None or worker.entry is None else worker.engine


@coroutine
def _give_way() -> Generator[None, None, None]:
    yield


class Engine:
    """Runs the handlers of one bus. All methods are for the event loop of the bus only."""

    def __init__(
        self,
        *,
        adapter: Adapter,
        codec: EventCodec,
        clock: Clock,
        worker_pool_size: int,
        buffer_size: int,
        overflow_size: int,
    ) -> None:
        self.clock = clock
        self.buffer_size = buffer_size
        self.unsettled = 0
        self.asleep = True
        self.limit = 0  # the buffer size, but 0 while every worker is asleep: one comparison asks both
        self.abandoning = False
        self.threads = ThreadPool(worker_pool_size, "promenade-handler")
        self._adapter = adapter
        self._codec = codec
        self._overflow_size = overflow_size
        self._worker_pool_size = worker_pool_size
        # Two halves: ``publish`` appends to the list; all workers walk along the topmost of a stack of
        # iterators, over a former list, or over what a worker that is held up has left to the others.
        self.queue: list[Entry] = []
        self._batches: list[Iterator[Entry]] = []
        self._workers: set[_Worker] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._publishers: deque[asyncio.Future[None]] = deque()
        self._waiting: dict[Job, TimerHandle] = {}
        self._marks: set[DrainMark] = set()
        self._turn_began = 0.0
        self._next_turn_planned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False
        self._overflowed = 0
        self._lost = 0

    # --- accepting events ---------------------------------------------------------------------------------

    def port_for(self, ports: Sequence[Port]) -> Port:
        """One port for an event that goes to all of these."""
        return (
            ports[0]
            if len(ports) == 1
            else Port(ports[0].lane, partial(self._call_each, ports), tuple(ports))
        )

    def put(
        self,
        topic: str,
        payload: Event | Message,
        lanes: Collection[Lane],
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        """Accepts an event for these lanes, whether there is room or not: ask ``has_room`` before."""
        event, message = (None, payload) if isinstance(payload, Message) else (payload, None)
        as_it_is = event is not None and not headers
        plain = tuple(lane.direct for lane in lanes if lane.direct is not None) if as_it_is else ()
        others = [lane for lane in lanes if lane.direct is None or not as_it_is]
        # What may fail comes first: an event is accepted by all or by none.
        key = ""
        if message is not None:
            key = message.key
        elif event is not None and any(lane.spec.ordered for lane in others):
            key = self._codec.key_of(topic, event)
        if self.asleep:
            self.rouse()
        unit = Unit(len(lanes)) if others or self._marks else None
        causing = _current_worker.get(None)
        cause = causing.entry[2] if causing is not None and causing.entry is not None else None
        if unit is not None and cause is not None:
            for mark in _unit_of(cause).marks:
                mark.add(unit)
        if self.unsettled >= self.buffer_size:
            self._overflowed += 1
        self.unsettled += 1
        if plain and event is not None:
            self.queue.append((self.port_for(plain), event, unit))
        for lane in others:
            lane.accept(
                Job(
                    lane,
                    topic,
                    unit,
                    self.clock.now(),
                    event=event,
                    message=message,
                    headers=headers,
                    key=key,
                )
            )

    def has_room(self) -> bool:
        """Whether an event can be accepted now: always for a handler, until the overflow is used up.

        Raises ``BufferFull`` when a handler publishes and the overflow is used up, too. A handler cannot
        wait for room: it may hold the very worker that would make some.
        """
        if self.unsettled < self.buffer_size:
            return True
        if current_engine() is None:
            return False
        if self.unsettled >= self.buffer_size + self._overflow_size:
            raise BufferFull("overflow for events published by handlers", self._overflow_size)
        return True

    async def room(self) -> None:
        """Waits for room, in the order of the calls. Raises ``BusClosed``.

        The caller accepts an event then, or lets the next one have the place by ``pass_on``.
        """
        waiter = self._waiter(front=False)
        while True:
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self.pass_on()  # the place that this caller was told of goes to the next one
                raise
            if self.unsettled < self.buffer_size:
                return
            waiter = self._waiter(front=True)  # somebody was faster

    def _waiter(self, *, front: bool) -> asyncio.Future[None]:
        if not self._open:
            raise BusClosed("publish")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if front:
            self._publishers.appendleft(waiter)
        else:
            self._publishers.append(waiter)
        return waiter

    def pass_on(self) -> None:
        """Tells the first publisher that waits that there is room, if there is."""
        while self._publishers and self.unsettled < self.buffer_size:
            waiter = self._publishers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def push(self, job: Job) -> None:
        """Puts a job into the queue of the workers."""
        self.queue.append((job.lane.job_port, job, job))
        if self.asleep:
            self.rouse()

    def redeliver(self, lane: Lane, letter: DeadLetter, payload: Event | Message) -> None:
        """Accepts a dead letter for its own lane again."""
        event, message = (None, payload) if isinstance(payload, Message) else (payload, None)
        self.unsettled += 1
        lane.accept(
            Job(
                lane,
                letter.topic,
                None,
                self.clock.now(),
                event=event,
                message=message,
                headers=letter.headers,
                key=letter.key,
                history=letter.attempts,
                redelivered=True,
            )
        )

    def decode(self, job: Job) -> Event:
        """The event of a job that arrived as a message; raises ``DeserializationError``."""
        assert job.message is not None, "a job without an event has a message"
        return self._codec.decode(job.message)

    def take_back(self, lane: Lane) -> list[Job]:
        """Removes the entries of a lane from the queue, in order, and returns them as jobs."""
        jobs: list[Job] = []
        kept: list[Entry] = []
        for port, payload, counter in self._take_all():
            if isinstance(payload, Job):
                if payload.lane is lane:
                    jobs.append(payload)
                else:
                    kept.append((port, payload, counter))
            elif lane.port in port.ports:
                unit = _unit_of(counter) if counter is not None else Unit(len(port.ports))
                jobs.append(self._as_job(lane, payload, unit))
                rest = [other for other in port.ports if other is not lane.port]
                if rest:
                    kept.append((self.port_for(rest), payload, unit))
            else:
                kept.append((port, payload, counter))
        self.queue = kept
        return jobs

    def adopt_running(self, lane: Lane) -> None:
        """Makes jobs of the entries of a lane that are running without one."""
        for worker in self._workers:
            if worker.entry is not None and lane.port in (worker.port, worker.entry[0]):
                unit = self._single_out(worker)
                job = self._as_job(lane, worker.entry[1], unit)
                worker.entry = (worker.entry[0], job, job)

    def _as_job(self, lane: Lane, payload: Event | Job, unit: Unit) -> Job:
        assert not isinstance(payload, Job), "a job is a job already"
        lane.adopted()
        return Job(lane, lane.spec.topic, unit, self.clock.now(), event=payload, headers=_NO_HEADERS)

    def _single_out(self, worker: _Worker) -> Unit:
        """Leaves a worker with the delivery that it is at, and counts it; other workers get the rest."""
        assert worker.entry is not None, "the worker is at work"
        port, payload, counter = worker.entry
        if worker.port is not None:
            port, worker.port = worker.port, None
        rest = [*worker.rest]  # the worker walks along the same iterator, so that nothing is left to it
        unit = _unit_of(counter) if counter is not None else Unit(1 + len(rest))
        if rest:
            self._batches.append(iter(((self.port_for(rest), payload, unit),)))
        worker.entry = (port, payload, counter or unit)
        return unit

    # --- workers ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the workers on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._open = True
        for _ in range(self._worker_pool_size):
            self._start_worker()

    def _start_worker(self) -> None:
        assert self._loop is not None, "start() comes first"
        worker = _Worker(self)
        context = Context()  # an empty one: not the variables of whoever started the bus
        context.run(_current_worker.set, worker)
        worker.base = context.copy()
        self._workers.add(worker)
        worker.task = _WorkerTask(
            self._work(worker), loop=self._loop, name="promenade-worker", context=context
        )
        worker.task.worker = worker
        worker.task.add_done_callback(partial(self._worker_ended, worker))

    def _worker_ended(self, worker: _Worker, task: asyncio.Task[None]) -> None:
        """Sees to it that a worker's end never ends the bus: the next event starts a fresh one."""
        if worker.stopping or worker not in self._workers:
            return
        self._workers.discard(worker)
        if not task.cancelled() and task.exception() is not None:
            self._lost += 1
            logger.critical(
                "an error in the engine ended a worker and lost its event", exc_info=task.exception()
            )
        self._fall_asleep()

    def rouse(self) -> None:
        """Wakes or starts one worker, if one is idle or missing. It does the same when it is held up.

        Raises ``WrongEventLoop``: a worker cannot be woken from another thread.
        """
        if asyncio._get_running_loop() is not self._loop:
            raise WrongEventLoop("publish")
        self._stay_awake()
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._workers) < self._worker_pool_size and not self.abandoning:
            self._start_worker()

    def _fall_asleep(self) -> None:
        """The next event has to wake a worker: until then there is no room to publish into directly."""
        self.asleep = True
        self.limit = 0

    def _stay_awake(self) -> None:
        self.asleep = False
        self.limit = self.buffer_size

    def accept_direct(self) -> bool:
        """Wakes a worker if that is all that stands against accepting an event directly."""
        if self.asleep and self.unsettled < self.buffer_size:
            self.rouse()
            return True
        return False

    async def _work(self, worker: _Worker) -> None:
        publishers = self._publishers
        base = worker.base
        while not worker.stopping:
            if not self._begin_burst(worker):
                entry = port = payload = counter = call = None  # an idle worker keeps no event alive
                await self._rest(worker)
                continue
            for entry in islice(self._batches[-1], _EVENTS_BETWEEN_TIME_CHECKS):
                worker.entry = entry
                port, payload, counter = entry
                try:
                    call = port.call  # CPython 3.11 looks a slot up faster than it calls one
                    await call(payload)
                except BaseException as error:
                    self._attempt_failed(worker, error)
                else:
                    if counter is None and worker.entry is entry:
                        port.handled += 1
                        self.unsettled -= 1
                        if publishers:
                            self.pass_on()
                        try:
                            if copy_context() == base:
                                continue
                        except BaseException:  # a value whose comparison raises is a changed one
                            pass
                        return self._replace(worker)
                    self._attempt_succeeded(worker)
                if _differs(copy_context(), base):
                    return self._replace(worker)
                if worker.entry is not entry:
                    break  # the handler failed or was held up: a new burst begins
            worker.entry = None
            if worker.cancelled:
                return self._replace(worker)
            if time.monotonic() - self._turn_began > SLICE and self._has_entries():
                await _give_way()

    async def _call_each(self, ports: Sequence[Port], payload: Event | Job) -> None:
        """Hands one event to several handlers, one after the other as long as none is held up or fails."""
        worker = _current_worker.get()
        assert worker.entry is not None, "the worker is at work"
        whole = worker.entry
        counter = whole[2]
        base = worker.base
        worker.rest = rest = iter(ports)
        for port in rest:
            worker.port = port
            try:
                call = port.call
                await call(payload)
            except BaseException as error:
                self._attempt_failed(worker, error)
            else:
                if counter is None and worker.entry is whole:
                    port.handled += 1
                else:
                    self._attempt_succeeded(worker)
            if worker.entry is not whole:
                worker.entry = None  # counted here, and the rest stands in the queue
                return
            try:
                if copy_context() == base:
                    continue
            except BaseException:  # a value whose comparison raises is a changed one
                pass
            self._hand_over(worker)
            return
        worker.port = None
        if counter is not None:
            worker.entry = None  # each delivery was counted by itself

    def _hand_over(self, worker: _Worker) -> None:
        """A handler changed the context variables: the rest of the event goes to other workers."""
        assert worker.entry is not None, "the worker is at work"
        counted = worker.entry[2] is not None
        unit = self._single_out(worker)
        worker.entry = None  # counted here
        if not counted:
            self._delivery_settled(unit)

    def _replace(self, worker: _Worker) -> None:
        """A handler changed its worker's context variables, or cancelled its task: the worker ends."""
        worker.entry = None
        self._workers.discard(worker)
        if self._has_entries():
            self.rouse()
        else:
            self._fall_asleep()

    def _begin_burst(self, worker: _Worker) -> bool:
        """Sees to it that there are entries in the batch; False when there are none at all."""
        if not self._has_entries():
            return False
        if not self._batches:
            self._batches.append(iter(self.queue))
            self.queue = []
        worker.since = time.monotonic()
        if not self._next_turn_planned:
            assert self._loop is not None, "workers run on a loop"
            self._next_turn_planned = True
            self._turn_began = worker.since
            self._loop.call_soon(self._next_turn)
        return True

    def _has_entries(self) -> bool:
        while self._batches and not length_hint(self._batches[-1]):
            self._batches.pop()
        return bool(self._batches or self.queue)

    def _take_all(self) -> list[Entry]:
        """Empties the queue, the present batch included, and returns its entries in order."""
        entries = [entry for batch in reversed(self._batches) for entry in batch]
        entries += self.queue
        self._batches.clear()
        self.queue = []
        return entries

    def _next_turn(self) -> None:
        """Runs when every worker has paused: if entries are left, the workers at work are held up."""
        self._next_turn_planned = False
        for worker in self._workers:
            if worker.entry is not None and (worker.entry[2] is None or worker.port is not None):
                self._single_out(worker)  # its handler is held up: the next ones shall not wait for it
        if self._has_entries():
            self.rouse()
        else:
            self._fall_asleep()

    async def _rest(self, worker: _Worker) -> None:
        assert self._loop is not None, "workers run on a loop"
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(waiter)
        self._fall_asleep()
        await waiter

    # --- what follows an attempt --------------------------------------------------------------------------

    def _attempt_succeeded(self, worker: _Worker) -> None:
        """A counted delivery, or one that became counted while its handler ran, was handled."""
        if worker.entry is None:
            return  # an event for several handlers, of which each is counted already
        port, _, counter = worker.entry
        port = worker.port or port
        if isinstance(counter, Job):
            if port is counter.lane.port:
                port.handled += 1  # it became a job while it ran; other jobs are counted by their lane
            self._settle(counter)
        else:
            port.handled += 1
            self._delivery_settled(counter)

    def _delivery_settled(self, unit: Unit | None) -> None:
        """One delivery has come to its end, good or bad."""
        if unit is not None:
            unit.remaining -= 1
            if unit.remaining:
                return
            for mark in unit.marks:
                mark.settled()
        self.unsettled -= 1
        if self._publishers:
            self.pass_on()

    def _attempt_failed(self, worker: _Worker, error: BaseException) -> None:
        if worker.stopping:
            raise asyncio.CancelledError from error  # already reported as abandoned
        if isinstance(error, GeneratorExit) and asyncio._get_running_loop() is None:
            raise error  # the coroutine is being thrown away together with its loop
        assert worker.entry is not None, "the worker is at work"
        if isinstance(worker.entry[2], Job):
            job = worker.entry[2]
        else:
            unit = self._single_out(worker)
            job = self._as_job(worker.entry[0].lane, worker.entry[1], unit)
        try:
            self._follow_up(job, error)
        except BaseException:  # such as a log handler that raises: the account has to add up all the same
            self._lost += 1
            logger.critical(
                "lost an event: its failure could not be dealt with (topic=%s subscription=%s event_id=%s)",
                job.topic,
                job.lane.spec.name,
                job.event_id,
                exc_info=True,
            )
            self._settle(job)

    def _settle(self, job: Job) -> None:
        job.lane.step_done(job, settled=True)
        self._delivery_settled(job.unit)

    def _follow_up(self, job: Job, error: BaseException) -> None:
        lane = job.lane
        decision = decide(
            error,
            job.attempt,
            lane.policy_for(job.topic),
            lane.give_up_on,
            decoded=job.event is not None,
        )
        if decision.action != "postpone":
            lane.failed_attempts += 1
            job.history += (Attempt(job.attempt, self.clock.now(), describe_error(error)),)
        log = partial(_log_failure, job, type(error).__name__, decision)
        if decision.action == "dead_letter":
            log(logging.ERROR)
            self._bury(job, decision.reason)
            self._settle(job)
            return
        log(logging.DEBUG if decision.action == "postpone" else logging.WARNING)
        self._waiting[job] = self.clock.call_later(
            decision.delay, partial(self._retry_due, job, counted=decision.action == "retry")
        )
        lane.waiting += 1
        lane.step_done(job, settled=False)

    def _retry_due(self, job: Job, *, counted: bool) -> None:
        del self._waiting[job]
        job.lane.waiting -= 1
        job.redelivered = True
        if counted:
            job.attempt += 1
            job.lane.retried += 1
        job.lane.resume_job(job)

    def _bury(self, job: Job, reason: str) -> None:
        lane = job.lane
        lane.dead_lettered += 1
        message = job.message
        if message is None and job.event is not None:
            try:
                message = self._codec.encode_named(job.topic, job.event)
            except BaseException as error:  # a serializer is a plugin, and reads the user's values
                reason += (
                    f"; and it has no body, because the event cannot be encoded: {describe_error(error)}"
                )
        letter = DeadLetter(
            id=str(uuid7()),
            topic=job.topic,
            subscription=lane.spec.name,
            event_id=_as_uuid(job.event_id),
            key=message.key if message is not None else job.key,
            reason=reason,
            attempts=job.history,
            body=message.body if message is not None else b"",
            headers=job.headers,
            dead_at=self.clock.now(),
        )
        try:
            self._adapter.bury(letter, job.payload, lane)
        except BaseException:
            self._lost += 1
            logger.exception(
                "lost an event: the dead-letter store failed (topic=%s subscription=%s event_id=%s)",
                job.topic,
                lane.spec.name,
                job.event_id,
            )

    # --- drain and stop -----------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether a drain is under way, so that events have to be marked by what caused them."""
        return bool(self._marks)

    async def drain(self, lanes: Iterable[Lane]) -> bool:
        """Waits until all that is accepted now, and what its handling causes, is settled.

        False when there was nothing to wait for.
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
        marked: list[Entry] = []
        for port, payload, counter in self._take_all():
            counter = counter or Unit(len(port.ports))
            mark.add(_unit_of(counter))
            marked.append((port, payload, counter))
        self.queue = marked
        for worker in self._workers:
            if worker.entry is not None:
                mark.add(self._single_out(worker))
        for job in [*self._waiting, *(job for lane in lanes for job in lane.held_jobs())]:
            job.unit = job.unit or Unit(1)
            mark.add(job.unit)

    async def stop(
        self, lanes: Sequence[Lane], timeout: float, before_abandoning: Callable[[], None]
    ) -> DrainReport:
        """Drains within ``timeout`` seconds, then cancels what still runs, and reports what is left.

        ``before_abandoning`` makes sure that nobody hands over further events.
        """
        began = self.clock.monotonic()
        loop = asyncio.get_running_loop()
        for waiter in (*self._publishers,):
            if not waiter.done():
                waiter.set_exception(BusClosed("publish"))
        self._publishers.clear()
        self._open = False
        expired, timer = expiry(self.clock, timeout)
        drained = loop.create_task(self._drain_all(lanes), name="promenade-drain")
        try:
            await asyncio.wait((drained, expired), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            drained.cancel()
            before_abandoning()
            abandoned = self._abandon(lanes)
        await self._end_workers()
        for mark in (*self._marks,):
            if not mark.done.done():
                mark.done.set_exception(BusClosed("drain"))
        self.threads.close()
        return DrainReport(not abandoned, abandoned, self.clock.monotonic() - began)

    async def _drain_all(self, lanes: Sequence[Lane]) -> None:
        while self.unsettled:
            if not await self.drain(lanes):
                logger.critical("%d events are neither settled nor to be found", self.unsettled)
                return

    def _abandon(self, lanes: Sequence[Lane]) -> tuple[Abandoned, ...]:
        """Takes everything out of the queue and the timers, and tells what it was."""
        self.abandoning = True
        left: list[Abandoned] = []

        def note(
            lane: Lane, payload: Event | Job, state: Literal["queued", "running", "waiting for retry"]
        ) -> None:
            topic = payload.topic if isinstance(payload, Job) else lane.spec.topic
            left.append(Abandoned(topic, lane.spec.name, str(payload.event_id), state))

        for worker in self._workers:
            worker.stopping = True
            if worker.entry is not None:
                self._single_out(worker)
                note(worker.entry[0].lane, worker.entry[1], "running")
        for port, payload, _ in self._take_all():
            for each in port.ports:
                note(each.lane, payload, "queued")
        for lane in lanes:
            for job in lane.held_jobs():
                note(lane, job, "queued")
        for job, timer in self._waiting.items():
            timer.cancel()
            note(job.lane, job, "waiting for retry")
        self._waiting.clear()
        for lane in lanes:
            lane.clear()
        for item in left:
            logger.error(
                "abandoned at shutdown: topic=%s subscription=%s event_id=%s state=%s",
                item.topic,
                item.subscription,
                item.event_id,
                item.state,
            )
        return tuple(left)

    async def _end_workers(self) -> None:
        tasks = {worker.task for worker in self._workers if worker.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=_UNWIND)
            for task in stubborn:
                logger.error("a handler swallowed its cancellation and was left behind: %r", task.get_coro())
        self._workers.clear()

    # --- reports ------------------------------------------------------------------------------------------

    def state(self, lanes: Sequence[Lane], *, published: int, unrouted: int) -> EngineState:
        """A snapshot for probes and tools."""
        now = time.monotonic()
        running = [worker for worker in self._workers if worker.entry is not None]
        longest = min(running, key=lambda worker: worker.since, default=None)
        self.queue = self._take_all()
        queued_per_lane = Counter(each.lane for port, _, _ in self.queue for each in port.ports)
        running_per_lane = Counter(worker.lane for worker in running)
        return EngineState(
            running_handlers=len(running),
            worker_pool_size=self._worker_pool_size,
            unsettled=self.unsettled,
            buffer_size=self.buffer_size,
            overflow_size=self._overflow_size,
            overflowed=self._overflowed,
            waiting_publishers=sum(not waiter.done() for waiter in self._publishers),
            waiting_retries=len(self._waiting),
            longest_running=now - longest.since if longest is not None else 0.0,
            longest_running_subscription=(
                longest.lane.spec.name if longest is not None and longest.lane is not None else None
            ),
            published=published,
            unrouted=unrouted,
            lost=self._lost + self._adapter.lost,
            subscriptions=tuple(lane.state(queued_per_lane[lane], running_per_lane[lane]) for lane in lanes),
        )


def _differs(context: Context, base: Context) -> bool:
    try:
        return context != base
    except BaseException:  # a value whose comparison raises is a changed one
        return True


def _unit_of(counter: Unit | Job) -> Unit:
    """The unit that counts the deliveries of an entry."""
    if isinstance(counter, Unit):
        return counter
    counter.unit = counter.unit or Unit(1)
    return counter.unit


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _log_failure(job: Job, error: str, decision: Decision, level: int) -> None:
    """Logs ids and the class of the error: an error's text may hold personal data."""
    if decision.action == "dead_letter":
        consequence = f"dead-lettered: {decision.reason}"
    else:
        consequence = f"{decision.action} in {decision.delay:g} s"
    logger.log(
        level,
        "attempt %d failed with %s (topic=%s subscription=%s event_id=%s); %s",
        job.attempt,
        error,
        job.topic,
        job.lane.spec.name,
        job.event_id,
        consequence,
    )
