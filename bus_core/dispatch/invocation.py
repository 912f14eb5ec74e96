"""One attempt: decode, filter, middleware, handler, within a time limit. Composed once per subscription."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, Final, Protocol, cast

from bus_core.abc import Handler, Middleware, Observer, SubscriptionSpec
from bus_core.dispatch.handlers import HandlerShape
from bus_core.dispatch.jobs import Job
from bus_core.dispatch.middleware import compose
from bus_core.dispatch.observing import timed
from bus_core.errors import HandlerTimeout, PermanentError
from bus_core.events.base import Event
from bus_core.events.messages import (
    DeliverySource,
    Envelope,
    EventRecord,
    Message,
    delivery_of,
    envelope_and_delivery_of,
    envelope_of,
)
from bus_core.runtime.clock import Clock
from bus_core.runtime.error_text import with_place
from bus_core.runtime.threads import ThreadPool
from bus_core.runtime.timeouts import Deadlines

__all__ = ["NOTHING", "Invocation", "InvocationHost"]


class InvocationHost(Protocol):
    """The engine as an invocation knows it."""

    clock: Clock
    deadlines: Deadlines
    threads: ThreadPool

    @property
    def abandoning(self) -> bool:
        """True when the engine has abandoned everything it held."""
        ...

    @property
    def torn_down(self) -> bool:
        """True when the event loop is being closed although the bus is open."""
        ...

    def decode(self, message: Message) -> Event:
        """Decodes a message; raises ``DeserializationError``."""
        ...


class _Nothing:
    """An awaitable that does nothing."""

    def __await__(self) -> Generator[Any, None, None]:
        return _EXHAUSTED


_EXHAUSTED: Final = cast("Generator[Any, None, None]", iter(()))

NOTHING: Final = _Nothing()


class Invocation:
    """Calls the handler of one subscription. It is composed once, without decisions per event.

    ``of_event`` takes the event alone; it is None where more is needed. ``of_record`` makes the first attempt
    of a record, ``of_job`` any attempt of a job. Await what they return: it ends when the event is handled or
    skipped, and raises when the attempt failed. The calls themselves may raise, too. ``skipped`` counts the
    events that ``where`` has rejected.
    """

    __slots__ = (
        "_handler",
        "_host",
        "_middleware",
        "_shape",
        "_spec",
        "_tells",
        "_timeout",
        "_where",
        "of_event",
        "of_job",
        "of_record",
        "skipped",
    )

    def __init__(
        self,
        host: InvocationHost,
        spec: SubscriptionSpec,
        handler: Callable[..., Any],
        shape: HandlerShape,
        *,
        middleware: Sequence[Middleware],
        timeout: float | None,
        where: Callable[[Any], bool] | None,
    ) -> None:
        self._host = host
        self._spec = spec
        self._handler = handler
        self._shape = shape
        self._middleware = tuple(middleware)
        self._tells: tuple[Callable[[float, BaseException | None], None], ...] = ()
        self._timeout = timeout
        self._where = where
        self.skipped = 0
        self._compose()

    @property
    def in_thread(self) -> bool:
        """True when the handler runs in a thread and so cannot be cancelled."""
        return not self._shape.is_async

    def observe(self, observer: Observer) -> None:
        """Adds an observer, whose middleware wraps all others."""
        if observer.consume is not None and (middleware := observer.consume(self._spec)) is not None:
            self._middleware = (middleware, *self._middleware)
        if observer.timing is not None and (tell := observer.timing(self._spec)) is not None:
            self._tells = (*self._tells, tell)
        self._compose()

    # --- composing ----------------------------------------------------------------------------------------

    def _compose(self) -> None:
        call = self._limited() if self._shape.is_async else self._in_thread()
        if self._tells:
            call = timed(call, self._tells, self._host.clock.monotonic)
        if self._middleware:
            self.of_record, self.of_job = self._with_chain(
                compose(self._middleware, self._end_of_chain(call)),
                envelope_and_delivery_of if self._shape.takes_delivery else envelope_of,
            )
        elif self._shape.takes_delivery:
            self.of_record, self.of_job = self._with_delivery(call)
        else:
            self.of_record, self.of_job = self._with_event(call)
        takes_event_only = (
            self._shape.is_async
            and not self._shape.takes_delivery
            and not self._middleware
            and self._timeout is None
            and self._where is None
        )
        self.of_event: Callable[[Any], Awaitable[Any]] | None = call if takes_event_only else None

    def _limited(self) -> Callable[..., Awaitable[Any]]:
        """Calls the handler within its time limit, if it has one."""
        handler, seconds = self._handler, self._timeout
        if seconds is None:
            return handler
        return self._host.deadlines.limit(seconds, lambda *_: self._too_long(seconds), handler)

    def _too_long(self, seconds: float) -> HandlerTimeout:
        """The error of a handler over its limit, which may have left no frame of its own."""
        return with_place(HandlerTimeout(self._spec.name, seconds), self._shape.place)

    def _in_thread(self) -> Callable[..., Awaitable[Any]]:
        handler, call_in_thread = self._handler, self._call_in_thread
        return lambda *arguments: call_in_thread(partial(handler, *arguments))

    def _end_of_chain(self, call: Callable[..., Awaitable[Any]]) -> Handler:
        if self._shape.takes_delivery:
            return lambda envelope: call(envelope.event, envelope.delivery)
        return lambda envelope: call(envelope.event)

    # The inner functions run for each event, so all decisions that can be made once are made outside them.

    def _with_chain(self, chain: Handler, envelope_of: Callable[[Event, DeliverySource], Envelope]) -> _Calls:
        where, decode, selects = self._where, self._host.decode, self._selects
        name, group = self._spec.name, self._spec.group
        event_of = self._event_of

        def of_record(record: EventRecord) -> Awaitable[Any]:
            event: Any = record[0]
            if event.__class__ is Message:
                event = decode(event)
            if where is not None and (found := where(event)) is not True and not selects(found):
                return NOTHING
            return chain(envelope_of(event, (record, name, 1, False, group, ())))

        def of_job(job: Job) -> Awaitable[Any]:
            event = job.event
            if event is None or job.state.reject_reason is not None:
                event = event_of(job)
            if where is not None and (found := where(event)) is not True and not selects(found):
                return NOTHING
            state = job.state
            source = job.record, name, state.attempt, state.redelivered, group, state.history
            return chain(envelope_of(event, source))

        return of_record, of_job

    def _with_delivery(self, call: Callable[..., Awaitable[Any]]) -> _Calls:
        where, decode, selects = self._where, self._host.decode, self._selects
        name, group = self._spec.name, self._spec.group
        event_of = self._event_of

        def of_record(record: EventRecord) -> Awaitable[Any]:
            event: Any = record[0]
            if event.__class__ is Message:
                event = decode(event)
            if where is not None and (found := where(event)) is not True and not selects(found):
                return NOTHING
            return call(event, delivery_of((record, name, 1, False, group, ())))

        def of_job(job: Job) -> Awaitable[Any]:
            event = job.event
            if event is None or job.state.reject_reason is not None:
                event = event_of(job)
            if where is not None and (found := where(event)) is not True and not selects(found):
                return NOTHING
            state = job.state
            source = job.record, name, state.attempt, state.redelivered, group, state.history
            return call(event, delivery_of(source))

        return of_record, of_job

    def _with_event(self, call: Callable[..., Awaitable[Any]]) -> _Calls:
        where, decode, selects, event_of = self._where, self._host.decode, self._selects, self._event_of

        def of_record(record: EventRecord) -> Awaitable[Any]:
            event: Any = record[0]
            if event.__class__ is Message:
                event = decode(event)
            if where is not None and (found := where(event)) is not True and not selects(found):
                return NOTHING
            return call(event)

        def of_job(job: Job) -> Awaitable[Any]:
            event = job.event
            if event is None or job.state.reject_reason is not None:
                event = event_of(job)
            if where is not None and (found := where(event)) is not True and not selects(found):
                return NOTHING
            return call(event)

        return of_record, of_job

    # --- one attempt --------------------------------------------------------------------------------------

    def _event_of(self, job: Job) -> Event:
        """The event of a job. Raises when the event must not be handled, or cannot be decoded."""
        if job.state.reject_reason is not None:
            raise PermanentError(job.state.reject_reason)
        payload = job.record[0]
        job.event = event = self._host.decode(payload) if isinstance(payload, Message) else payload
        return event

    def _selects(self, found: object) -> bool:
        """True when the result of ``where`` selects the event; counts it otherwise."""
        if inspect.isawaitable(found):  # an awaitable is always true
            if inspect.iscoroutine(found):
                found.close()
            raise PermanentError("where= returned an awaitable: it has to be a plain function of the event")
        if not found:
            self.skipped += 1
        return bool(found)

    async def _call_in_thread(self, call: Callable[[], Any]) -> None:
        clock = self._host.clock
        began = clock.monotonic()
        running = self._host.threads.submit(call)
        cancellation: asyncio.CancelledError | None = None
        while not running.over:
            try:
                await running.returned()
            except asyncio.CancelledError as cancelled:
                if self._host.abandoning or self._host.torn_down:
                    raise
                cancellation = cancelled  # a thread cannot be cancelled: its worker is kept until it returns
        if cancellation is not None:
            raise with_place(cancellation, self._shape.place)
        if running.error is not None:
            raise running.error
        result = running.result
        if inspect.isawaitable(result):  # a synchronous function returned a coroutine
            if self._timeout is None:
                await result
            else:
                rest = max(0.0, self._timeout - (clock.monotonic() - began))
                await self._host.deadlines.within(rest, partial(self._too_long, self._timeout), result)
        if self._timeout is not None and clock.monotonic() - began > self._timeout:
            # The thread has returned: now the failure is recorded.
            raise self._too_long(self._timeout)


_Calls = tuple[Callable[[EventRecord], Awaitable[Any]], Callable[[Job], Awaitable[Any]]]
