"""A worker: its task, its context, and the delivery that it is at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import Context, ContextVar
from operator import length_hint
from typing import Any, Protocol

from bus_core.dispatch.jobs import DrainMark, Entry, JobLane, Port, pending_event_of

__all__ = ["Pool", "Worker", "WorkerTask", "current_worker", "running_worker"]


class Pool(Protocol):
    """The pool as its workers know it: ``bus_core.dispatch.worker_pool.WorkerPool``."""

    inside: object
    loop: asyncio.AbstractEventLoop | None

    def is_walking(self, worker: Worker) -> bool:
        """True when the open walk is that worker's."""
        ...

    def current_of(self, worker: Worker) -> Entry | None:
        """The entry of a worker whose walk is open."""
        ...

    @property
    def marks_of_walk(self) -> tuple[DrainMark, ...]:
        """The drains that wait for the plain entries of the open walk."""
        ...

    def close_walk_of(self, worker: Worker) -> None:
        """Leaves a worker with its current delivery, if it is on a walk."""
        ...

    def was_started_by(self, worker: Worker, task: asyncio.Task[Any]) -> bool:
        """True when the current delivery of the worker has started a task, as far as one can see."""
        ...


class Worker:
    """The state of one worker. It is also the value of the context variable that its handlers see."""

    __slots__ = (
        "base",
        "context",
        "entry",
        "pool",
        "ports",
        "rest",
        "since",
        "stopping",
        "task",
        "waiter",
        "was_cancelled",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        # While the worker walks along entries of the queue, the queue knows the current one. When a handler
        # blocks, the walk is closed, and the worker keeps that entry. An event for several handlers has
        # several ``ports``, and ``rest`` iterates over the calls of the ports after the current one. While a
        # handler is blocked, others may change all of this: see ``WorkerPool.close_walk``.
        self.entry: Entry | None = None
        self.ports: Sequence[Port] = ()
        self.rest: Iterator[Callable[[Any], Awaitable[Any]]] | None = None
        # The context of its task, and a copy from before the first handler. Comparing the two costs half as
        # much as comparing with ``copy_context()``.
        self.context = Context()  # an empty one, without the variables of the code that started the bus
        self.context.run(current_worker.set, self)
        self.base = self.context.copy()
        self.since = 0.0
        self.stopping = False
        self.was_cancelled = False
        self.task: WorkerTask | None = None
        self.waiter: asyncio.Future[None] | None = None  # it waits for this while it is idle

    @property
    def cancelled(self) -> bool:
        """True when somebody, such as a handler, has asked to cancel the worker's task."""
        return self.task is not None and self.task.cancelling() > 0

    @property
    def is_at_work(self) -> bool:
        """True while its handler is running. Threads may ask, too."""
        return self.entry is not None or self.pool.is_walking(self)

    @property
    def at_several(self) -> bool:
        """True while it handles an event for several handlers whose deliveries are not counted one by one."""
        return self.rest is not None

    @property
    def current(self) -> Entry | None:
        """The entry whose handler is running; None when none is."""
        return self.entry if self.entry is not None else self.pool.current_of(self)

    @property
    def lane(self) -> JobLane | None:
        """The lane whose handler is running; None when none is."""
        if self.rest is not None:
            return self.ports[len(self.ports) - length_hint(self.rest) - 1].lane
        current = self.current
        return None if current is None else current[0].lane

    @property
    def marks(self) -> tuple[DrainMark, ...]:
        """The drains that wait for its delivery, and for the consequences."""
        current = self.current
        if current is None:
            return ()
        counter = current[2]
        if counter is not None:
            return pending_event_of(counter).marks
        return self.pool.marks_of_walk if self.entry is None else ()


class WorkerTask(asyncio.Task[None]):
    """A task that tells the engine when it is cancelled: a handler may do that to its worker.

    It costs nothing per event, where asking ``cancelling()`` after each handler would.
    """

    worker: Worker

    def cancel(self, msg: object = None) -> bool:
        self.worker.was_cancelled = True
        self.worker.pool.close_walk_of(self.worker)  # so that it will notice, and end after this delivery
        return super().cancel(msg)


current_worker: ContextVar[Worker] = ContextVar("promenade_bus_worker")


def running_worker() -> Worker | None:
    """The worker whose handler is the caller, or waits for the caller; None outside of handlers.

    A handler may wait for tasks that it has started. Once it has returned, they are tasks like any other.
    """
    worker = current_worker.get(None)
    if worker is None:
        return None
    if asyncio._get_running_loop() is worker.pool.loop:
        task = asyncio.current_task()
        if task is not None and task is not worker.task:  # callbacks have no task, and are not told apart
            return worker if worker.pool.was_started_by(worker, task) else None
    return worker if worker.is_at_work else None
