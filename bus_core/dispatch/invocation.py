"""One attempt: decode, filter, middleware, handler, within a time limit."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from bus_core.abc import Middleware
from bus_core.dispatch.handlers import HandlerShape
from bus_core.dispatch.middleware import compose
from bus_core.dispatch.units import Job
from bus_core.errors import HandlerTimeout, PermanentError
from bus_core.events.base import Event
from bus_core.events.messages import Delivery, Envelope
from bus_core.runtime.clock import Clock
from bus_core.runtime.threads import ThreadPool
from bus_core.runtime.timeouts import call_within, run_with_timeout

__all__ = ["Invocation", "InvocationHost"]


class InvocationHost(Protocol):
    """The engine as an invocation knows it."""

    clock: Clock
    threads: ThreadPool

    @property
    def abandoning(self) -> bool:
        """Whether the engine has given up on what it held."""
        ...

    @property
    def torn_down(self) -> bool:
        """Whether the event loop is being closed although the bus is open."""
        ...

    def decode(self, job: Job) -> Event:
        """The event of a job that arrived as a message; raises ``DeserializationError``."""
        ...


class Invocation:
    """Calls the handler of one subscription: composed once, run for each attempt.

    ``skipped`` counts the events that ``where`` has turned away.
    """

    __slots__ = ("_chain", "_handler", "_host", "_name", "_shape", "_timeout", "_where", "skipped")

    def __init__(
        self,
        host: InvocationHost,
        name: str,
        handler: Callable[..., Any],
        shape: HandlerShape,
        *,
        middleware: Sequence[Middleware],
        timeout: float | None,
        where: Callable[[Any], bool] | None,
    ) -> None:
        self._host = host
        self._name = name
        self._handler = handler
        self._shape = shape
        self._timeout = timeout
        self._where = where
        self._chain = compose(middleware, self._call)
        self.skipped = 0

    @property
    def in_thread(self) -> bool:
        """Whether the handler runs in a thread, so that it cannot be cancelled."""
        return not self._shape.is_async

    def instrument(self, middleware: Middleware) -> None:
        """Puts one more middleware around the others."""
        self._chain = middleware(self._chain)

    def _event_of(self, job: Job) -> Event:
        """What is to be handled; raises when it must not be, or cannot be decoded."""
        if job.doomed is not None:
            raise PermanentError(job.doomed)
        if job.event is None:
            job.event = self._host.decode(job)
        return job.event

    def run_plain(self, job: Job) -> Awaitable[Any]:
        """Like ``run``, where nobody asks for more than the event: a third of what an attempt costs."""
        awaitable: Awaitable[Any] = self._handler(self._event_of(job))
        return awaitable

    async def run(self, job: Job) -> None:
        """Makes one attempt; returns when the event is handled or skipped, raises when it failed."""
        event = self._event_of(job)
        if self._where is not None and not self._selects(event):
            self.skipped += 1
            return
        delivery = Delivery(
            topic=job.topic,
            subscription=self._name,
            message_id=str(event.event_id),
            attempt=job.attempt,
            redelivered=job.redelivered,
            published_at=job.accepted_at,
            headers=job.headers,
        )
        await self._chain(Envelope(job.topic, event, dict(job.headers), delivery))

    def _selects(self, event: Event) -> bool:
        assert self._where is not None, "there is a filter"
        selected: object = self._where(event)
        if inspect.isawaitable(selected):  # which is always true
            if inspect.iscoroutine(selected):
                selected.close()
            raise PermanentError("where= returned an awaitable: it has to be a plain function of the event")
        return bool(selected)

    async def _call(self, envelope: Envelope) -> None:
        arguments = (envelope.event, envelope.delivery) if self._shape.takes_delivery else (envelope.event,)
        if not self._shape.is_async:
            await self._call_in_thread(partial(self._handler, *arguments))
        elif self._timeout is None:
            await self._handler(*arguments)
        else:
            await run_with_timeout(
                self._host.clock, self._timeout, self._name, partial(self._handler, *arguments)
            )

    async def _call_in_thread(self, call: Callable[[], Any]) -> None:
        clock = self._host.clock
        began = clock.monotonic()
        future = self._host.threads.submit(call)
        cancellation: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as cancelled:
                if self._host.abandoning or self._host.torn_down:
                    raise
                cancellation = cancelled  # a thread cannot be cancelled: its worker is kept until it returns
        if cancellation is not None:
            raise cancellation
        result, error = future.result()
        if error is not None:
            raise error
        if inspect.isawaitable(result):  # a synchronous function that returned a coroutine
            if self._timeout is None:
                await result
            else:
                rest = max(0.0, self._timeout - (clock.monotonic() - began))
                await call_within(
                    clock, rest, partial(HandlerTimeout, self._name, self._timeout), lambda: result
                )
        if self._timeout is not None and clock.monotonic() - began > self._timeout:
            # The failure is recorded now that the thread has returned.
            raise HandlerTimeout(self._name, self._timeout)
