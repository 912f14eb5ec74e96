"""The bus: publish, subscribe, and the order of starting and stopping."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from threading import get_ident
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

from bus_core.abc import (
    Adapter,
    AnyAdapter,
    AttemptFailure,
    CheckResult,
    EngineState,
    HealthStatus,
    Middleware,
    Observer,
    RetryPolicy,
    Seconds,
    SubscriptionBacklog,
    is_in_process,
)
from bus_core.bus.after_commit import HeldEvents
from bus_core.bus.arguments import as_seconds, check_topic_given
from bus_core.bus.dead_letters import DeadLetters
from bus_core.bus.fallback import start_one_of
from bus_core.bus.from_thread import FromThread
from bus_core.bus.health import HealthReport, run_probes
from bus_core.bus.lifecycle import Lifecycle, Stage
from bus_core.bus.parts import BusParts, Closing, close_each
from bus_core.bus.preparing import Preparation
from bus_core.bus.publishing import PublishPipeline
from bus_core.bus.subscribe_options import CheckedOptions, SubscribeDecorator, SubscribeOptions
from bus_core.bus.subscriptions import Subscription, SubscriptionRegistry
from bus_core.bus.watching import checks_of, counts_of
from bus_core.config.bus_config import BusConfig
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.reports import DrainReport
from bus_core.errors import BusClosed, BusStateError, CalledFromHandler, WrongEventLoop
from bus_core.events.base import Event
from bus_core.events.messages import Delivery, Message
from bus_core.events.topics import Topic
from bus_core.runtime.logs import counted
from bus_core.runtime.timeouts import call_within
from bus_core.transport.carrier import Carrier
from bus_core.transport.in_process import InProcessCarrier
from bus_core.transport.remote import RemoteCarrier

__all__ = ["NOTHING_TO_DRAIN", "Bus"]

E = TypeVar("E", bound=Event[Any])
R = TypeVar("R")

NOTHING_TO_DRAIN = DrainReport(True, (), 0.0)
"""The report of closing a bus that was never started."""


class Bus:
    """An event bus on one event loop. Make it with ``open_bus``, use it with ``async with``.

    Its methods may be called on the event loop that started it only, and raise ``WrongEventLoop``
    elsewhere; threads use ``open_sync_bus``. In a forked child they raise ``BusForked``, except ``close``
    and ``health``.

    Open, subscribe, publish::

        async with open_bus("config/app.yaml") as bus:
            bus.subscribe(USER_REGISTERED, send_welcome, name="welcome-mail")
            await bus.publish(USER_REGISTERED, UserRegistered(aggregate_id=user_id, email="a@b.c"))
    """

    def __init__(self, parts: BusParts) -> None:
        self._parts = parts
        self._config = parts.config
        self._adapter = parts.adapter
        self._degraded: str | None = None  # the health note about the adapter in use
        self._engine = Engine(
            codec=parts.codec,
            clock=parts.clock,
            worker_pool_size=parts.config.worker_pool_size,
            buffer_size=parts.config.buffer_size,
            overflow_size=parts.config.overflow_size,
            unknown_version_wait=parts.config.unknown_version_wait,
            tracebacks=parts.config.tracebacks,
        )
        self._buffer = self._engine.buffer
        self._lifecycle = Lifecycle(self._engine)
        self._pipeline = PublishPipeline(parts, self._engine, self._lifecycle, lambda: self._adapter)
        self._local_routes = self._pipeline.local_routes
        declared, deprecations = self._pipeline.declared, self._pipeline.deprecations
        self._preparation = Preparation(parts.codec, declared, self._pipeline.middleware_of, deprecations)
        self._subscriptions = SubscriptionRegistry(
            parts,
            self._engine,
            self._lifecycle,
            lambda: self._adapter,
            declared,
            deprecations.subscribed,
        )
        self._closing: asyncio.Future[DrainReport] | None = None
        self._thread = 0  # of the event loop, after the start
        self._dead_letters = DeadLetters(
            lambda: self._adapter, self._lifecycle.check_open, self._subscriptions.has
        )
        for observer in parts.observers.values():
            self._observe(observer)
        _every_bus.add(self)

    def __repr__(self) -> str:
        return f"<Bus {self.service!r} on {self._adapter.name!r}, {self.status}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def service(self) -> str:
        """The name of the service: the prefix of its groups and the source of its events."""
        return self._config.service

    @property
    def config(self) -> BusConfig:
        """The configuration that the bus was opened with."""
        return self._config

    @property
    def adapter(self) -> AnyAdapter:
        """The transport that carries the events. A fallback may replace it at start."""
        return self._adapter

    @property
    def parts(self) -> BusParts:
        """The parts of the bus, for tools that explain it."""
        return self._parts

    @property
    def topics(self) -> Mapping[str, Topic[Any]]:
        """Every known topic by name: those of installed catalogues, and those used so far."""
        return self._parts.registry.as_mapping()

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The subscriptions of this bus, in the order in which they were made."""
        return self._subscriptions.subscriptions

    @property
    def dead_letters(self) -> DeadLetters:
        """The messages that subscriptions gave up on."""
        return self._dead_letters

    @property
    def from_thread(self) -> FromThread:
        """Plain calls that publish on the running bus, from any thread except that of its event loop."""
        return FromThread(self, self._lifecycle)

    @property
    def status(self) -> str:
        """``not started``, ``starting``, ``open``, ``closing`` or ``closed``."""
        return self._lifecycle.stage.value

    @property
    def threads_at_work(self) -> int:
        """The number of handlers that run in threads."""
        return self._engine.threads.busy

    @property
    def in_handler(self) -> bool:
        """True when a handler of this bus calls, or a task that it started."""
        return self._lifecycle.in_handler

    @property
    def forked(self) -> bool:
        """True when this process inherited the bus by a fork, so that it cannot be used."""
        return self._lifecycle.forked

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the bus was started on; None before. Its methods belong to that loop."""
        return self._lifecycle.loop

    def state(self) -> EngineState:
        """A snapshot of queues and counters. Raises ``WrongEventLoop`` in another thread."""
        self._lifecycle.check_thread("read the state")
        routes = self._pipeline.routes
        return self._engine.state(
            self._subscriptions.lanes,
            published=routes.total_published,
            unrouted=routes.unrouted,
            lost=self._adapter.lost,
            middleware=counts_of(self._parts.watched),
        )

    def published(self) -> Mapping[str, int]:
        """The number of events that this bus has accepted so far, by topic.

        Of undeclared names (``strict_topics: false``), only the latest thousand are listed. Raises
        ``WrongEventLoop`` in another thread.
        """
        self._lifecycle.check_thread("read the counters")
        return self._pipeline.routes.published

    async def backlog(self) -> Sequence[SubscriptionBacklog]:
        """The number of unsettled events of each subscription, in all instances of the service together.

        An adapter outside the process is asked; its ``BusError`` is raised. In process, it is the number that
        the bus holds. Raises ``BusNotStarted`` and ``BusClosed``.
        """
        self._lifecycle.check_open("count the backlog")
        lanes = self._subscriptions.lanes
        counts = await self._pipeline.active_carrier.backlogs(lanes)
        return [
            SubscriptionBacklog(name=lane.spec.name, topic=lane.spec.topic, events=count)
            for lane, count in zip(lanes, counts, strict=True)
        ]

    def instrument(
        self,
        *,
        consume: Middleware | None = None,
        publish: Middleware | None = None,
        failure: Callable[[AttemptFailure], None] | None = None,
    ) -> None:
        """Adds an observing tool before the bus is started: a recorder, a tracer, a test.

        Both middlewares are next to the engine. ``consume`` wraps all others, so it sees the outcome of every
        attempt. ``publish`` is inside all others, so it sees the event as the adapter gets it. ``failure`` is
        called with every failed attempt and its consequence, even when no middleware sees it because the
        event could not be decoded. Its errors have no effect.

        Raises ``BusStateError`` once the bus was started, and ``BusForked``.
        """
        self._lifecycle.check_fork("instrument")
        if self._lifecycle.stage is not Stage.NEW:
            raise BusStateError(
                f"cannot instrument: the bus is {self.status}; do it before the bus is started"
            )
        self._observe(
            Observer(
                consume=None if consume is None else lambda _subscription: consume,
                publish=None if publish is None else lambda _topic: publish,
                failed=failure,
            )
        )

    def _observe(self, observer: Observer) -> None:
        self._subscriptions.observe(observer)
        self._pipeline.observe(observer)
        self._preparation.middleware_changed()
        self._engine.observe(observer)

    # --- start and stop -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the bus on the running event loop; no-op when it is open.

        Raises ``UnsupportedFeature`` with all features that the subscriptions need and the adapter lacks, the
        adapter's error when it cannot work, ``BusClosed``, and ``BusForked``.
        """
        lifecycle = self._lifecycle
        lifecycle.check_fork("start")
        if lifecycle.stage is Stage.OPEN:
            lifecycle.check_loop("start")
            return
        if lifecycle.stage is Stage.STARTING:
            raise BusStateError("cannot start: the bus is being started already")
        if lifecycle.stage is not Stage.NEW:
            raise BusClosed("start")
        if self._parts.fallback is None:
            self._subscriptions.check_features()  # before anything is opened
        lifecycle.stage = Stage.STARTING
        started: list[Closing] = []
        try:
            self._adapter, self._degraded = await start_one_of(self._parts.adapter, self._parts.fallback)
            started.append(self._adapter)
            for store in self._parts.stores:
                await store.start()
                started.append(store)
            for middleware in self._parts.watched.values():
                await middleware.start()
                started.append(middleware)
            for probe in self._parts.probes.values():
                await probe.start()
                started.append(probe)
            for observer in self._parts.observers.values():
                await observer.start(self)
                started.append(observer)
            self._subscriptions.check_features()  # again: a fallback may have replaced the adapter
        except BaseException:
            await close_each(reversed(started), self._config.shutdown_timeout)
            self._adapter, self._degraded = self._parts.adapter, None
            lifecycle.stage = Stage.NEW
            raise
        lifecycle.loop = asyncio.get_running_loop()
        lifecycle.thread = self._thread = get_ident()
        carrier = self._new_carrier()
        self._engine.start()
        lifecycle.stage = Stage.OPEN
        self._subscriptions.open(carrier)
        self._pipeline.open(carrier)

    def _new_carrier(self) -> Carrier:
        adapter, codec = self._adapter, self._parts.codec
        if is_in_process(adapter):
            return InProcessCarrier(
                adapter,
                self._engine,
                codec,
                changed=self._pipeline.routes_changed,
                check_accepting=self._lifecycle.check_accepting,
            )
        return RemoteCarrier(
            cast(Adapter, adapter),  # the other kind of two
            self._engine,
            codec,
            publish_timeout=self._config.publish_timeout,
            check_accepting=self._lifecycle.check_accepting,
        )

    async def close(self, timeout: Seconds | None = None) -> DrainReport:
        """Drains within ``timeout`` (by default ``shutdown_timeout``), stops, and reports abandoned events.

        Never raises for abandoned work. Later and concurrent calls return the same report. Raises
        ``CalledFromHandler`` inside a handler.
        """
        lifecycle = self._lifecycle
        if lifecycle.forked:
            lifecycle.stage = Stage.CLOSED
            return NOTHING_TO_DRAIN
        if lifecycle.in_handler:
            raise CalledFromHandler("close the bus")
        seconds = self._config.shutdown_timeout if timeout is None else as_seconds(timeout)
        loop = asyncio.get_running_loop()
        if self._closing is not None:
            if not self._closing.done() and self._closing.get_loop() is not loop:
                raise WrongEventLoop("close")
            return await asyncio.shield(self._closing)
        if lifecycle.stage is Stage.STARTING:
            raise BusStateError("cannot close: the bus is being started")
        if lifecycle.stage is Stage.NEW:
            lifecycle.stage = Stage.CLOSED
            self._closing = loop.create_future()
            self._closing.set_result(NOTHING_TO_DRAIN)
            return self._closing.result()
        lifecycle.check_loop("close")
        lifecycle.stage = Stage.CLOSING
        self._pipeline.disable_fast_path()
        # A separate task: if the caller is cancelled, closing goes on.
        self._closing = loop.create_task(self._close(seconds), name="promenade-close")
        return await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> DrainReport:
        report = await self._pipeline.active_carrier.stop(self._subscriptions.lanes, timeout)
        self._lifecycle.stage = Stage.CLOSED
        parts = self._parts
        closing: list[Closing] = [*parts.observers.values(), *parts.probes.values()]
        closing += [*parts.watched.values(), *parts.stores, self._adapter]
        await close_each(closing, timeout - report.seconds)
        return report

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def drain(self, timeout: Seconds | None = None) -> None:
        """Waits until all events accepted so far, and those that their handling causes, are settled.

        Waiting retries count. Events that are published meanwhile for other reasons do not. Raises
        ``TimeoutError`` after ``timeout``, ``CalledFromHandler``, ``BusNotStarted``, ``BusClosed``.
        """
        self._lifecycle.check_open("drain")
        if self.in_handler:
            raise CalledFromHandler("drain the bus")
        lanes = self._subscriptions.lanes
        seconds = None if timeout is None else as_seconds(timeout)
        with self._pipeline.fast_path_disabled():
            if seconds is None:
                await self._pipeline.active_carrier.drain(lanes)
            else:

                def late() -> TimeoutError:
                    return TimeoutError(f"the bus was not drained within {seconds:g} s: {self.state()}")

                await call_within(
                    self._parts.clock, seconds, late, self._pipeline.active_carrier.drain, lanes
                )

    # --- publish ------------------------------------------------------------------------------------------

    @overload
    async def publish(
        self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    @overload
    async def publish(
        self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    # Keyword-only for type checkers. CPython 3.11 looks up the default of a keyword-only parameter at each
    # call, which costs a tenth of what the bus spends on an event.
    async def publish(self, topic: Any, event: Any, headers: Mapping[str, str] | None = None) -> None:
        """Returns when the adapter has accepted the event. Waits for room where a queue is bounded.

        ``headers`` travel beside the event, and the handler gets them in its delivery. Raises ``BusClosed``,
        ``BusNotStarted``, ``UnknownTopic``, ``EventTypeMismatch``, ``SerializationError``, ``BufferFull`` (in
        a handler, when the overflow is used up), ``PublishFailed``, ``PublishUncertain``.
        """
        try:
            route = self._local_routes[topic]
        except (KeyError, TypeError):  # the full checks are needed
            pass
        else:
            # Another thread would corrupt the columns. Another loop of this thread is detected when workers
            # are asleep.
            if event.__class__ is route.event_class and get_ident() == self._thread:
                buffer = self._buffer
                ports = buffer.ports
                if len(ports) < buffer.limit or self._engine.wake_for_room():
                    if headers is None and route.port is not None:
                        ports.append(route.port)
                        buffer.payloads.append(event)
                    else:
                        self._pipeline.put(route, event, headers)
                    return
        await self._pipeline.publish(topic, event, headers)

    async def publish_many(self, items: Iterable[tuple[Topic[Any] | str, Event[Any]]]) -> None:
        """Publishes several events, on one topic or on several, in order. It is not atomic.

        Every event is tried. Raises ``PublishManyError`` with the result of each item when some failed. Type
        checkers cannot check pairs of different topics; the bus raises ``EventTypeMismatch``. With an adapter
        outside the process, many events are sent at the same time. One that the adapter refuses at first and
        accepts on a retry may come behind later ones.
        """
        await self._pipeline.publish_many(items, self.publish)

    @overload
    def publish_nowait(
        self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    @overload
    def publish_nowait(
        self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    def publish_nowait(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Publishes like ``publish``, but raises ``BufferFull`` instead of waiting for room.

        On adapters outside the process it raises ``UnsupportedFeature``. Inside ``after_commit`` the event is
        held like any other.
        """
        self._pipeline.publish_nowait(topic, event, headers, self.publish)

    @overload
    async def prepare(
        self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> Message | None: ...
    @overload
    async def prepare(
        self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None
    ) -> Message | None: ...
    async def prepare(
        self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None
    ) -> Message | None:
        """Encodes an event for ``publish_prepared``, here or in another process, now or later.

        It does everything that ``publish`` does before the adapter: the checks, the publish middleware, the
        serializer. The message, including its id, is final. The result is None when a publish middleware
        dropped the event. The bus need not be started. Raises ``UnknownTopic``, ``TopicConflict``,
        ``EventTypeMismatch``, ``SerializationError``, and the errors of middleware.
        """
        return await self._preparation.prepare(topic, event, headers)

    @overload
    def prepare_nowait(
        self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> Message | None: ...
    @overload
    def prepare_nowait(
        self, topic: str, event: Event[Any], *, headers: Mapping[str, str] | None = None
    ) -> Message | None: ...
    def prepare_nowait(
        self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None
    ) -> Message | None:
        """Prepares like ``prepare``, as a plain call from any thread.

        Raises ``PublishFailed`` if a middleware waits.
        """
        return self._preparation.prepare_nowait(topic, event, headers)

    def check_event(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Raises for an event that could not be published, while there is still something to undo.

        For integrations that publish later, such as after a commit. No publish middleware sees the event. The
        bus need not be started, and any thread may call it. Raises ``InvalidTopic``, ``UnknownTopic``,
        ``TopicConflict``, ``EventTypeMismatch``, ``SerializationError``, and ``TypeError`` for headers.
        """
        self._preparation.check(topic, event, headers)

    async def publish_prepared(self, messages: Iterable[Message]) -> None:
        """Publishes messages of ``prepare`` unchanged and in order, without middleware.

        This bus need not know their topics. Every message is tried. Raises ``PublishManyError`` with the
        result of each when some failed. A ``PublishFailed`` that is ``permanent``, an ``InvalidTopic`` or
        a ``SerializationError`` is final for its message; after any other error it may succeed later. Raises
        ``BusNotStarted`` and ``BusClosed``.

        Where the order of two messages matters, publish the second when the first is accepted: see
        ``publish_many``.
        """
        await self._pipeline.publish_prepared(messages)

    @asynccontextmanager
    async def after_commit(self) -> AsyncIterator[None]:
        """Holds the events of the block until it ends well, and drops them when it raises.

        Publish after the database commit, not before: open the transaction inside the block. Invalid topics
        and events raise at once. Blocks may be nested; events then leave with the outermost one. A task that
        is started inside the block takes part in it while it lasts. The held events are published like those
        of ``publish_many``, with the same errors.
        """
        await self.begin_block()
        with self.holding() as block:
            try:
                yield
            except BaseException:
                block.items.clear()
                raise
            finally:
                self._pipeline.enable_fast_path()
        await self._pipeline.release(block)

    async def begin_block(self) -> None:
        """The first part of ``after_commit``, for ``SyncBus``, which runs the others in another thread."""
        self._lifecycle.check_open("open after_commit")
        self._pipeline.disable_fast_path()

    def holding(self) -> AbstractContextManager[HeldEvents]:
        """Holds the events published in this context in a new block, until the block ends in any way."""
        return self._pipeline.holding()

    async def drop_block(self) -> None:
        """Ends an ``after_commit`` block that raised; see ``begin_block``."""
        self._pipeline.enable_fast_path()

    async def end_block(self, block: HeldEvents) -> None:
        """Ends an ``after_commit`` block that ended well; see ``begin_block``."""
        self._pipeline.enable_fast_path()
        await self._pipeline.release(block)

    # --- subscribe ----------------------------------------------------------------------------------------

    @overload
    def subscribe(
        self, topic: Topic[E], handler: None = None, **options: Unpack[SubscribeOptions[E]]
    ) -> SubscribeDecorator[E]: ...
    @overload
    def subscribe(
        self, topic: str, handler: None = None, **options: Unpack[SubscribeOptions[Any]]
    ) -> SubscribeDecorator[Any]: ...
    @overload
    def subscribe(
        self,
        topic: Topic[E],
        handler: Callable[[E], Any] | Callable[[E, Delivery], Any],
        **options: Unpack[SubscribeOptions[E]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        topic: str,
        handler: Callable[[Any], Any] | Callable[[Any, Delivery], Any],
        **options: Unpack[SubscribeOptions[Any]],
    ) -> Subscription: ...
    def subscribe(
        self,
        topic: Topic[Any] | str,
        handler: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        mode: Literal["group", "broadcast"] = "group",
        concurrency: int | None = None,
        ordered: bool = False,
        retry: RetryPolicy | None = None,
        give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
        timeout: Seconds | None = None,
        start: Literal["earliest", "latest"] | None = None,
        where: Callable[[Any], bool] | None = None,
    ) -> Any:
        """Binds a handler to a topic or a pattern, before or after start. It does no I/O.

        ``name`` names the subscription, and its group together with the service; in process it defaults
        to the handler's qualified name. ``mode`` is ``"group"`` (instances compete) or ``"broadcast"``
        (each gets all). ``concurrency`` bounds its handlers at once. ``ordered`` handles the events of
        one key one after the other. ``retry`` replaces the configured policy. ``give_up_on`` lists errors
        that are not retried. ``timeout`` bounds one attempt, in seconds. ``start`` is where a new group
        begins on an adapter that retains events, by default at the earliest one. ``where`` selects events.

        Without a handler it is a decorator, which returns the handler unchanged. Raises
        ``InvalidHandler``, ``InvalidTopic``, ``UnknownTopic``, ``TopicConflict``,
        ``DuplicateSubscription``, ``UnsupportedFeature``, ``BusClosed``.
        """
        options = CheckedOptions(
            name=name,
            mode=mode,
            concurrency=concurrency,
            ordered=ordered,
            retry=retry,
            give_up_on=give_up_on,
            timeout=timeout,
            start=start,
            where=where,
        )
        check_topic_given(topic)
        if handler is not None:
            return self._subscriptions.add(topic, handler, options)

        def decorate(decorated: Callable[..., R]) -> Callable[..., R]:
            self._subscriptions.add(topic, decorated, options)
            return decorated

        return decorate

    async def unsubscribe(self, topic: Topic[Any] | str, handler: Callable[..., Any]) -> None:
        """Removes the subscriptions of this handler to this topic or pattern, and no other.

        Returns when all their accepted events are settled; see ``Subscription.unsubscribe``. Raises
        ``UnknownSubscription`` when there is none.
        """
        await self._subscriptions.remove(topic, handler)

    # --- health -------------------------------------------------------------------------------------------

    async def health(self) -> HealthReport:
        """Runs the configured probes, asks the middleware, and checks the bus itself for losses.

        Never raises: a closed bus is an unhealthy report.
        """
        unusable = self.unusable_report()
        if unusable is not None:
            return unusable
        state = self.state()
        parts, timeout = self._parts, self._config.health.timeout
        probes = {**parts.store_checks, **parts.probes}
        found = await run_probes(probes, state, parts.clock, timeout)
        return HealthReport({"bus": self._own_check(state), **checks_of(parts.watched), **found})

    def unusable_report(self) -> HealthReport | None:
        """The report of a bus that is not open; None when it is. Any thread may call it."""
        if not self._lifecycle.forked and self._lifecycle.stage is Stage.OPEN:
            return None
        text = "inherited by a fork" if self._lifecycle.forked else self.status
        return HealthReport({"bus": CheckResult(HealthStatus.UNHEALTHY, f"the bus is {text}")})

    def _own_check(self, state: EngineState) -> CheckResult:
        figures = {
            "published": state.published,
            "unsettled": state.unsettled,
            "overflowed": state.overflowed,
            "unrouted": state.unrouted,
            "lost": state.lost,
        }
        causes = [] if (problem := self._pipeline.active_carrier.problem) is None else [problem]
        told = [text for text in (self._degraded, self._adapter.degraded) if text is not None]
        if state.lost:
            lost = counted(state.lost, "event or dead letter", "events or dead letters")
            told.append(f"lost {lost}; the log names them (look for 'lost')")
        causes += [(HealthStatus.DEGRADED, text) for text in told]
        if not causes:
            return CheckResult(HealthStatus.HEALTHY, f"open on {self._adapter.name!r}, nothing lost", figures)
        worst = max((status for status, _ in causes), key=lambda status: status.severity)
        return CheckResult(worst, ". ".join(text for _, text in causes), figures)

    def mark_forked(self) -> None:
        """Marks this process as a forked child: from now on calls raise ``BusForked``."""
        self._lifecycle.forked = True
        self._pipeline.disable_fast_path()


_every_bus: weakref.WeakSet[Bus] = weakref.WeakSet()


def _after_fork() -> None:
    for bus in [*_every_bus]:
        bus.mark_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
