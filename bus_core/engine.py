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
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import coroutine
from typing import Literal, Protocol
from uuid import UUID

import attrs

from bus_core.abc import Adapter, EngineState
from bus_core.clock import Clock, TimerHandle
from bus_core.errors import BufferFull, BusClosed, SerializationError, WrongEventLoop
from bus_core.events import Event, FrozenMapping, uuid7
from bus_core.jobs import DrainMark, Job, Unit
from bus_core.lanes import Lane
from bus_core.messages import Attempt, DeadLetter, Message
from bus_core.outcomes import Decision, decide, describe_error
from bus_core.threads import ThreadPool

__all__ = ["Abandoned", "DrainReport", "Engine", "EventCodec", "current_engine"]

logger = logging.getLogger("promenade.bus")

SLICE = 0.002
"""Seconds that workers may run before the rest of the event loop gets its turn."""

_EVENTS_BETWEEN_TIME_CHECKS = 8

_UNWIND = 0.25
"""Seconds that cancelled handlers get to clean up when the shutdown timeout is over."""

_NO_HEADERS: FrozenMapping[str, str] = FrozenMapping()

_Entry = tuple[Lane, "Event | None", "Unit | None", "Job | None"]


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

    __slots__ = ("engine", "entry", "job", "since", "stopping", "task", "unit")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.entry: _Entry | None = None
        # What the entry belongs to. A drain, or an unsubscribe, may add these while the handler runs.
        self.unit: Unit | None = None
        self.job: Job | None = None
        self.since = 0.0
        self.stopping = False
        self.task: asyncio.Task[None] | None = None


_current_worker: ContextVar[_Worker] = ContextVar("promenade_bus_worker")


def current_engine() -> Engine | None:
    """The engine whose handler is running in this context; None outside of handlers."""
    worker = _current_worker.get(None)
    return None if worker is None else worker.engine


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
        self.asleep = False
        self.abandoning = False
        self.threads = ThreadPool(worker_pool_size, "promenade-handler")
        self._adapter = adapter
        self._codec = codec
        self._overflow_size = overflow_size
        self._worker_pool_size = worker_pool_size
        self._ready: deque[_Entry] = deque()
        self._workers: set[_Worker] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._publishers: deque[asyncio.Future[None]] = deque()
        self._waiting: dict[Job, TimerHandle] = {}
        self._marks: set[DrainMark] = set()
        self._turn = 0
        self._turn_began = 0.0
        self._next_turn_planned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False
        self._overflowed = 0
        self._lost = 0

    # --- accepting events ---------------------------------------------------------------------------------

    def offer_to(self, lanes: Sequence[Lane]) -> Callable[[Event], bool] | None:
        """A function that accepts an event for these lanes, or returns False when the buffer is full.

        None when a lane needs more than the event; then ``put`` has to be used.
        """
        if not lanes or any(lane.direct is None or lane.engine is not self for lane in lanes):
            return None
        append = self._ready.append
        size = self.buffer_size
        if len(lanes) == 1:
            (lane,) = lanes

            def offer_to_one(event: Event) -> bool:
                if self.unsettled >= size:
                    return False
                if self.asleep:
                    self.rouse()
                self.unsettled += 1
                append((lane, event, None, None))
                return True

            return offer_to_one
        count = len(lanes)
        extend = self._ready.extend

        def offer_to_all(event: Event) -> bool:
            if self.unsettled >= size:
                return False
            if self.asleep:
                self.rouse()
            self.unsettled += 1
            unit = Unit(count)
            extend([(lane, event, unit, None) for lane in lanes])
            return True

        return offer_to_all

    def put(
        self,
        topic: str,
        payload: Event | Message,
        lanes: Collection[Lane],
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        """Accepts an event for these lanes, whether there is room or not: ask ``has_room`` before."""
        unit: Unit | None = None
        if len(lanes) > 1 or self._marks:
            unit = Unit(len(lanes))
            causing = _current_worker.get(None)
            if causing is not None and causing.engine is self and causing.unit is not None:
                for mark in causing.unit.marks:
                    mark.add(unit)
        if self.unsettled >= self.buffer_size:
            self._overflowed += 1
        self.unsettled += 1
        event, message = (None, payload) if isinstance(payload, Message) else (payload, None)
        for lane in lanes:
            if lane.direct is not None and event is not None:
                self._ready.append((lane, event, unit, None))
                if self.asleep:
                    self.rouse()
                continue
            key = ""
            if lane.spec.ordered:
                key = message.key if message is not None else self._codec.key_of(topic, payload)  # type: ignore[arg-type]
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
        """Waits until there may be room; the caller asks ``has_room`` again. Raises ``BusClosed``."""
        if not self._open:
            raise BusClosed("publish")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._publishers.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._grant()  # the place that this caller was told of goes to the next one
            raise

    def _grant(self) -> None:
        while self._publishers:
            waiter = self._publishers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def push(self, job: Job) -> None:
        """Puts a job into the queue of the workers."""
        self._ready.append((job.lane, None, job.unit, job))
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
        kept: list[_Entry] = []
        for entry in self._ready:
            owner, event, unit, job = entry
            if owner is not lane:
                kept.append(entry)
                continue
            if job is None:
                job = self._as_job(lane, event, unit)
            jobs.append(job)
        self._ready.clear()
        self._ready.extend(kept)
        return jobs

    def adopt_running(self, lane: Lane) -> None:
        """Makes jobs of the entries of a lane that are running without one."""
        for worker in self._workers:
            if worker.entry is not None and worker.entry[0] is lane and worker.job is None:
                worker.job = self._as_job(lane, worker.entry[1], worker.unit)

    def _as_job(self, lane: Lane, event: Event | None, unit: Unit | None) -> Job:
        lane.adopted()
        return Job(lane, lane.spec.topic, unit, self.clock.now(), event=event, headers=_NO_HEADERS)

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
        self._workers.add(worker)
        worker.task = self._loop.create_task(
            self._work(worker, context.copy()), name="promenade-worker", context=context
        )
        worker.task.add_done_callback(partial(self._worker_ended, worker))

    def _worker_ended(self, worker: _Worker, task: asyncio.Task[None]) -> None:
        """Replaces a worker that fell to an error of the engine itself, so that the bus lives on."""
        if worker.stopping or task.cancelled() or task.exception() is None:
            return
        self._workers.discard(worker)
        self._lost += 1
        logger.critical("an error in the engine ended a worker and lost its event", exc_info=task.exception())
        self._start_worker()

    def rouse(self) -> None:
        """Wakes one worker, if one is idle. It wakes the next one when it is held up.

        Raises ``WrongEventLoop``: a worker cannot be woken from another thread.
        """
        if asyncio._get_running_loop() is not self._loop:
            raise WrongEventLoop("publish")
        self.asleep = False
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _work(self, worker: _Worker, base: Context) -> None:
        ready = self._ready
        popleft = ready.popleft
        publishers = self._publishers
        while not worker.stopping:
            if not ready:
                await self._rest(worker)
                continue
            turn = self._begin_burst(worker)
            countdown = _EVENTS_BETWEEN_TIME_CHECKS
            while ready:
                worker.entry = entry = popleft()
                lane, event, unit, job = entry
                worker.unit = unit
                worker.job = job
                try:
                    if job is None:
                        await lane.plain(event)  # type: ignore[misc,arg-type]  # a lane with such entries is plain
                    else:
                        await lane.run(job)
                except BaseException as error:
                    self._attempt_failed(worker, entry, error)
                else:
                    if job is None:
                        lane.handled += 1
                    if worker.job is None and worker.unit is None:
                        self.unsettled -= 1
                        if publishers:
                            self._grant()
                    else:
                        self._delivered(worker, lane)
                worker.entry = None
                try:
                    changed = copy_context() != base
                except BaseException:  # a value whose comparison raises is a changed one
                    changed = True
                if changed:
                    self._workers.discard(worker)
                    self._start_worker()
                    return
                if self._turn != turn:
                    break  # the handler was held up: a new burst begins
                countdown -= 1
                if not countdown:
                    countdown = _EVENTS_BETWEEN_TIME_CHECKS
                    worker.since = time.monotonic()
                    if worker.since - self._turn_began > SLICE:
                        await _give_way()
                        break

    def _begin_burst(self, worker: _Worker) -> int:
        worker.since = time.monotonic()
        if not self._next_turn_planned:
            assert self._loop is not None, "workers run on a loop"
            self._next_turn_planned = True
            self._turn_began = worker.since
            self._loop.call_soon(self._next_turn)
        return self._turn

    def _next_turn(self) -> None:
        """Runs when every worker has paused: if entries are left, the workers at work are held up."""
        self._next_turn_planned = False
        self._turn += 1
        if self._ready:
            self.rouse()
        else:
            self.asleep = True

    async def _rest(self, worker: _Worker) -> None:
        assert self._loop is not None, "workers run on a loop"
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(waiter)
        self.asleep = True
        try:
            await waiter
        except asyncio.CancelledError:
            if worker.stopping:
                raise
            _forget_cancellation(worker)  # a handler cancelled its own task after all was said

    # --- what follows an attempt --------------------------------------------------------------------------

    def _delivered(self, worker: _Worker, lane: Lane) -> None:
        if worker.job is not None:
            lane.step_done(worker.job, settled=True)
        self._delivery_settled(worker.unit)

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
            self._grant()

    def _attempt_failed(self, worker: _Worker, entry: _Entry, error: BaseException) -> None:
        if worker.stopping:
            raise asyncio.CancelledError from error  # already reported as abandoned
        if isinstance(error, GeneratorExit) and asyncio._get_running_loop() is None:
            raise error  # the coroutine is being thrown away together with its loop
        _forget_cancellation(worker)
        lane, event, _, _ = entry
        job = worker.job or self._as_job(lane, event, None)
        job.unit = worker.unit
        decision = decide(error, job.attempt, lane.policy_for(job.topic), lane.give_up_on)
        if decision.action != "postpone":
            lane.failed_attempts += 1
            job.history += (Attempt(job.attempt, self.clock.now(), describe_error(error)),)
        log = partial(_log_failure, job, type(error).__name__, decision)
        if decision.action == "dead_letter":
            log(logging.ERROR)
            self._bury(job, decision.reason)
            lane.step_done(job, settled=True)
            self._delivery_settled(job.unit)
            return
        log(logging.DEBUG if decision.action == "postpone" else logging.WARNING)
        lane.step_done(job, settled=False)
        lane.waiting += 1
        self._waiting[job] = self.clock.call_later(
            decision.delay, partial(self._retry_due, job, counted=decision.action == "retry")
        )

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
        body = b""
        if job.message is not None:
            body = job.message.body
        elif job.event is not None:
            try:
                body = self._codec.encode_named(job.topic, job.event).body
            except SerializationError as error:
                reason = f"{reason}; and it has no body, because the event cannot be encoded: {error}"
        letter = DeadLetter(
            id=str(uuid7()),
            topic=job.topic,
            subscription=lane.spec.name,
            event_id=_as_uuid(job.event_id),
            key=job.key or (job.message.key if job.message is not None else ""),
            reason=reason,
            attempts=job.history,
            body=body,
            headers=job.headers,
            dead_at=self.clock.now(),
        )
        try:
            self._adapter.bury(letter, job.payload, lane)
        except Exception:
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

    async def drain(self, lanes: Iterable[Lane]) -> None:
        """Waits until all that is accepted now, and what its handling causes, is settled."""
        mark = DrainMark(asyncio.get_running_loop().create_future())
        self._mark_accepted(mark, lanes)
        if not mark.remaining:
            return
        self._marks.add(mark)
        try:
            await mark.done
        finally:
            self._marks.discard(mark)

    def _mark_accepted(self, mark: DrainMark, lanes: Iterable[Lane]) -> None:
        marked: list[_Entry] = []
        for lane, event, unit, job in self._ready:
            unit = unit or Unit(1)
            mark.add(unit)
            if job is not None:
                job.unit = unit
            marked.append((lane, event, unit, job))
        self._ready.clear()
        self._ready.extend(marked)
        for worker in self._workers:
            if worker.entry is not None:
                worker.unit = worker.unit or Unit(1)
                mark.add(worker.unit)
        for job in [*self._waiting, *(job for lane in lanes for job in lane.held_jobs())]:
            job.unit = job.unit or Unit(1)
            mark.add(job.unit)

    async def stop(self, lanes: Sequence[Lane], timeout: float) -> DrainReport:
        """Drains within ``timeout`` seconds, then cancels what still runs, and reports what is left."""
        began = self.clock.monotonic()
        loop = asyncio.get_running_loop()
        expired: asyncio.Future[None] = loop.create_future()
        timer = self.clock.call_later(timeout, lambda: expired.done() or expired.set_result(None))
        drained = loop.create_task(self._drain_all(lanes), name="promenade-drain")
        try:
            await asyncio.wait((drained, expired), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            drained.cancel()
            self._open = False
            for waiter in (*self._publishers,):
                if not waiter.done():
                    waiter.set_exception(BusClosed("publish"))
            self._publishers.clear()
            abandoned = self._abandon(lanes)
        await self._end_workers()
        for mark in (*self._marks,):
            if not mark.done.done():
                mark.done.set_exception(BusClosed("drain"))
        self.threads.close()
        return DrainReport(not abandoned, abandoned, self.clock.monotonic() - began)

    async def _drain_all(self, lanes: Sequence[Lane]) -> None:
        while self.unsettled:
            await self.drain(lanes)

    def _abandon(self, lanes: Sequence[Lane]) -> tuple[Abandoned, ...]:
        """Takes everything out of the queue and the timers, and tells what it was."""
        self.abandoning = True
        left: list[Abandoned] = []

        def note(
            lane: Lane,
            event: Event | None,
            job: Job | None,
            state: Literal["queued", "running", "waiting for retry"],
        ) -> None:
            event_id = job.event_id if job is not None else str(event.event_id) if event is not None else ""
            left.append(Abandoned(job.topic if job else lane.spec.topic, lane.spec.name, event_id, state))

        for worker in self._workers:
            worker.stopping = True
            if worker.entry is not None:
                lane, event, _, job = worker.entry
                note(lane, event, job, "running")
        for lane, event, _, job in self._ready:
            note(lane, event, job, "queued")
        for lane in lanes:
            for job in lane.held_jobs():
                note(lane, None, job, "queued")
        for job, timer in self._waiting.items():
            timer.cancel()
            note(job.lane, None, job, "waiting for retry")
        self._waiting.clear()
        self._ready.clear()
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
        queued_per_lane = Counter(entry[0] for entry in self._ready)
        running_per_lane = Counter(worker.entry[0] for worker in running if worker.entry is not None)
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
                longest.entry[0].spec.name if longest is not None and longest.entry is not None else None
            ),
            published=published,
            unrouted=unrouted,
            lost=self._lost + self._adapter.lost,
            subscriptions=tuple(lane.state(queued_per_lane[lane], running_per_lane[lane]) for lane in lanes),
        )


def _forget_cancellation(worker: _Worker) -> None:
    """Undoes what a handler did to its worker by cancelling "its own" task."""
    task = worker.task
    while task is not None and task.cancelling():
        task.uncancel()


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
