"""The bus: publish, subscribe, and the order in which things start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import attrs

from bus_core.abc import (
    Adapter,
    AnyAdapter,
    CheckResult,
    EngineState,
    HealthProbe,
    HealthStatus,
    Middleware,
    RetryPolicy,
    Seconds,
    SubscriptionSpec,
    SubscriptionState,
    is_in_process,
)
from bus_core.arguments import as_seconds, checked_event, checked_headers, described
from bus_core.carriers import Carrier, Codec, InProcessCarrier, may_wait
from bus_core.clock import Clock
from bus_core.config import BusConfig
from bus_core.dead_letters import DeadLetters
from bus_core.engine import DrainReport, Engine, current_engine
from bus_core.errors import (
    BusClosed,
    BusForked,
    BusNotStarted,
    BusStateError,
    CalledFromHandler,
    DuplicateSubscription,
    InvalidHandler,
    InvalidTopic,
    PublishFailed,
    PublishUncertain,
    UnknownSubscription,
    UnsupportedFeature,
    WrongEventLoop,
)
from bus_core.events import Event
from bus_core.fallback import start_one_of
from bus_core.handlers import inspect_handler
from bus_core.health import HealthReport, run_probes
from bus_core.holding import (
    HeldEvent,
    HeldEvents,
    open_block,
    publish_in_order,
    raise_failures,
    result_of,
)
from bus_core.lanes import Lane
from bus_core.messages import NO_HEADERS, Delivery, Envelope
from bus_core.outcomes import AttemptFailure
from bus_core.pipeline import compose
from bus_core.plugins import Plugins
from bus_core.primitives import FrozenMapping
from bus_core.remote import RemoteCarrier
from bus_core.routes import Route, Routes
from bus_core.subscriptions import (
    CheckedOptions,
    SubscribeDecorator,
    SubscribeOptions,
    Subscription,
    default_name,
)
from bus_core.timeouts import call_within
from bus_core.topics import Topic, TopicPattern, TopicRegistry, is_pattern, patterns_overlap

__all__ = ["NOTHING_TO_DRAIN", "Bus", "BusParts"]

E = TypeVar("E", bound=Event)
R = TypeVar("R")

logger = logging.getLogger("promenade.bus")

_UNWIND = 0.1
"""Seconds of real time that a part gets at least to close, when the shutdown timeout is over."""

NOTHING_TO_DRAIN = DrainReport(True, (), 0.0)
"""What closing a bus comes to that was never started."""


class _State(Enum):
    """The life of a bus. Steps go downwards only, except that a start that failed goes back to NEW."""

    NEW = "not started"
    STARTING = "starting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@attrs.frozen(kw_only=True)
class BusParts:
    """What a bus is assembled from; see ``bus_core.bootstrap.open_bus``."""

    config: BusConfig
    plugins: Plugins
    adapter: AnyAdapter
    codec: Codec
    registry: TopicRegistry
    clock: Clock
    policy_for: Callable[[str], RetryPolicy]
    consume_middleware: tuple[Middleware, ...] = ()
    publish_middleware: tuple[Middleware, ...] = ()
    probes: Mapping[str, HealthProbe] = attrs.field(factory=FrozenMapping)
    fallback: AnyAdapter | None = None


class Bus:
    """An event bus on one event loop. Make it with ``open_bus``, use it with ``async with``.

    Its methods may be called on the event loop that started it only, and raise ``WrongEventLoop``
    elsewhere; threads use ``open_sync_bus``. In a forked child they raise ``BusForked``.
    """

    def __init__(self, parts: BusParts) -> None:
        self._parts = parts
        self._config = parts.config
        self._registry = parts.registry
        self._adapter = parts.adapter
        self._consume_middleware = parts.consume_middleware
        self._publish_middleware = parts.publish_middleware
        self._degraded: str | None = None  # what health has to say of the adapter that is used
        self._carrier: Carrier | None = None  # from start on
        self._engine = Engine(
            codec=parts.codec,
            clock=parts.clock,
            worker_pool_size=parts.config.worker_pool_size,
            buffer_size=parts.config.buffer_size,
            overflow_size=parts.config.overflow_size,
        )
        self._buffer = self._engine.buffer
        self._state = _State.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: list[Lane] = []
        self._leaving: dict[Lane, asyncio.Future[None]] = {}
        # Only routes that ``publish`` may use without a further look. Whatever makes a further look
        # necessary (a change of subscriptions, a drain, after_commit, closing, a fork) empties it.
        self._direct: dict[Topic[Any] | str, Route] = {}
        self._onward: dict[Topic[Any] | str, Route] = {}  # the same, to an adapter outside of the process
        self._indirections = 0
        self._routes = Routes()
        self._block: ContextVar[HeldEvents | None] = ContextVar("promenade_bus_block", default=None)
        self._closing: asyncio.Future[DrainReport] | None = None
        self._forked = False
        self._dead_letters = DeadLetters(lambda: self._adapter, self._check_open, self._has_subscription)
        _every_bus.add(self)

    def __repr__(self) -> str:
        return f"<Bus {self.service!r} on {self._adapter.name!r}, {self._state.value}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def service(self) -> str:
        """The name of the service: the prefix of its groups and the source of its events."""
        return self._config.service

    @property
    def config(self) -> BusConfig:
        """What the bus was opened with."""
        return self._config

    @property
    def adapter(self) -> AnyAdapter:
        """The transport that carries the events. A fallback may take its place at start."""
        return self._adapter

    @property
    def parts(self) -> BusParts:
        """What the bus was assembled from, for tools that explain it."""
        return self._parts

    @property
    def topics(self) -> Mapping[str, Topic[Any]]:
        """Every known topic by name: of installed catalogues, and those used so far."""
        return self._registry.as_mapping()

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The subscriptions of this bus, in the order in which they were made."""
        return tuple(Subscription(self, lane) for lane in self._lanes)

    @property
    def dead_letters(self) -> DeadLetters:
        """What subscriptions gave up on."""
        return self._dead_letters

    @property
    def status(self) -> str:
        """``not started``, ``starting``, ``open``, ``closing`` or ``closed``."""
        return self._state.value

    @property
    def threads_at_work(self) -> int:
        """How many handlers run in threads, where the event loop does not see them."""
        return self._engine.threads.busy

    @property
    def in_handler(self) -> bool:
        """Whether the caller is a handler of this bus, or was started by one."""
        return current_engine() is self._engine

    @property
    def forked(self) -> bool:
        """Whether this process inherited the bus by a fork, so that it cannot be used."""
        return self._forked

    def state(self) -> EngineState:
        """A snapshot of queues and counters."""
        return self._state_of([*self._lanes, *self._leaving])

    def _state_of(self, lanes: Sequence[Lane]) -> EngineState:
        routes = self._routes
        return self._engine.state(
            lanes, published=routes.published, unrouted=routes.unrouted, lost=self._adapter.lost
        )

    def published(self) -> Mapping[str, int]:
        """How many events of each topic this bus has accepted so far.

        Of names that nobody declared (``strict_topics: false``) only the latest thousand are listed.
        """
        return {route.topic.name: route.published for route in self._routes}

    def instrument(
        self,
        *,
        consume: Middleware | None = None,
        publish: Middleware | None = None,
        failure: Callable[[AttemptFailure], None] | None = None,
    ) -> None:
        """Lets a tool look on, before the bus is started: a recorder, a tracer, a test.

        Both middlewares come next to the engine: ``consume`` around all others, so that it sees the outcome
        of every attempt, ``publish`` inside of all others, so that it sees what the adapter is given.
        ``failure`` is called with every failed attempt and what follows from it, those included that no
        middleware sees, because the event could not be decoded. Nothing that it raises has an effect.

        Raises ``BusStateError`` once the bus was started, and ``BusForked``.
        """
        self._check_fork("instrument")
        if self._state is not _State.NEW:
            raise BusStateError(
                f"cannot instrument: the bus is {self._state.value}; do it before the bus is started"
            )
        if consume is not None:
            self._consume_middleware = (consume, *self._consume_middleware)
            for lane in self._lanes:
                lane.instrument(consume)
        if publish is not None:
            self._publish_middleware = (*self._publish_middleware, publish)
        if failure is not None:
            self._engine.observe_failures(failure)

    # --- start and stop -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the bus on the running event loop; harmless when it is open.

        Raises ``UnsupportedFeature`` with everything that the adapter cannot do for the subscriptions,
        whatever the adapter raises when it cannot work, ``BusClosed``, and ``BusForked``.
        """
        self._check_fork("start")
        if self._state is _State.OPEN:
            self._check_loop("start")
            return
        if self._state is _State.STARTING:
            raise BusStateError("cannot start: the bus is being started already")
        if self._state is not _State.NEW:
            raise BusClosed("start")
        if self._parts.fallback is None:
            self._check_features()  # before anything is opened
        self._state = _State.STARTING
        started: list[HealthProbe | AnyAdapter] = []
        try:
            self._adapter, self._degraded = await start_one_of(self._parts.adapter, self._parts.fallback)
            started.append(self._adapter)
            for probe in self._parts.probes.values():
                await probe.start()
                started.append(probe)
            self._check_features()  # again: a fallback may have taken the adapter's place
        except BaseException:
            await _close_each(reversed(started), self._config.shutdown_timeout)
            self._adapter, self._degraded = self._parts.adapter, None
            self._state = _State.NEW
            raise
        self._loop = asyncio.get_running_loop()
        self._carrier = self._new_carrier()
        self._engine.start()
        self._state = _State.OPEN
        for lane in self._lanes:
            self._carrier.attach(lane)
        self._routes_changed()

    def _new_carrier(self) -> Carrier:
        adapter, codec = self._adapter, self._parts.codec
        if is_in_process(adapter):
            return InProcessCarrier(
                adapter,
                self._engine,
                codec,
                direct=not self._publish_middleware,
                changed=self._routes_changed,
                check_accepting=self._check_accepting,
            )
        return RemoteCarrier(
            cast(Adapter, adapter),  # the other kind of two
            self._engine,
            codec,
            publish_timeout=self._config.publish_timeout,
            check_accepting=self._check_accepting,
        )

    @property
    def _carried(self) -> Carrier:
        assert self._carrier is not None, "the bus was started"
        return self._carrier

    def _has_subscription(self, name: str) -> bool:
        return any(lane.spec.name == name for lane in self._lanes)

    def _check_features(self) -> None:
        mismatches = [fault for lane in self._lanes for fault in self._mismatches(lane.spec)]
        if mismatches:
            raise UnsupportedFeature(self._adapter.name, mismatches, self._adapter.features.remedy)

    async def close(self, timeout: Seconds | None = None) -> DrainReport:
        """Drains within ``timeout`` (by default ``shutdown_timeout``), stops, and reports what it abandoned.

        Never raises for abandoned work. Calling it again, also at the same time, gives the same report.
        Raises ``CalledFromHandler`` from inside a handler.
        """
        if self._forked:
            self._state = _State.CLOSED
            return NOTHING_TO_DRAIN
        if self.in_handler:
            raise CalledFromHandler("close the bus")
        seconds = self._config.shutdown_timeout if timeout is None else as_seconds(timeout)
        loop = asyncio.get_running_loop()
        if self._closing is not None:
            if not self._closing.done() and self._closing.get_loop() is not loop:
                raise WrongEventLoop("close")
            return await asyncio.shield(self._closing)
        if self._state is _State.STARTING:
            raise BusStateError("cannot close: the bus is being started")
        if self._state is _State.NEW:
            self._state = _State.CLOSED
            self._closing = loop.create_future()
            self._closing.set_result(NOTHING_TO_DRAIN)
            return self._closing.result()
        self._check_loop("close")
        self._state = _State.CLOSING
        self._look_closer()
        # A task of its own: whoever waits for it may be cancelled, closing goes on.
        self._closing = loop.create_task(self._close(seconds), name="promenade-close")
        return await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> DrainReport:
        report = await self._carried.stop([*self._lanes, *self._leaving], timeout)
        self._state = _State.CLOSED
        await _close_each([*self._parts.probes.values(), self._adapter], timeout - report.seconds)
        return report

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def drain(self, timeout: Seconds | None = None) -> None:
        """Waits until what was accepted so far, and what its handling causes, is settled.

        Retries that wait for their time count. Events published meanwhile for other reasons do not.
        Raises ``TimeoutError`` after ``timeout``, ``CalledFromHandler``, ``BusNotStarted``, ``BusClosed``.
        """
        self._check_open("drain")
        if self.in_handler:
            raise CalledFromHandler("drain the bus")
        lanes = [*self._lanes, *self._leaving]
        seconds = None if timeout is None else as_seconds(timeout)
        with _Indirection(self):
            if seconds is None:
                await self._carried.drain(lanes)
            else:

                def late() -> TimeoutError:
                    return TimeoutError(f"the bus was not drained within {seconds:g} s: {self.state()}")

                await call_within(self._parts.clock, seconds, late, self._carried.drain, lanes)

    # --- publish ------------------------------------------------------------------------------------------

    @overload
    async def publish(
        self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    @overload
    async def publish(
        self, topic: str, event: Event, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    # Keyword-only for type checkers. CPython 3.11 looks up the default of a keyword-only parameter at each
    # call, which costs a tenth of what the bus spends on an event.
    async def publish(self, topic: Any, event: Any, headers: Mapping[str, str] | None = None) -> None:
        """Returns when the adapter has accepted the event; waits for room where a queue is bounded.

        ``headers`` travel beside the event and reach the handler in its delivery. Raises ``BusClosed``,
        ``BusNotStarted``, ``UnknownTopic``, ``EventTypeMismatch``, ``SerializationError``,
        ``BufferFull`` (from a handler, when the overflow is used up), ``PublishFailed``,
        ``PublishUncertain``.
        """
        try:
            route = self._direct[topic]
        except KeyError:
            onward = self._onward.get(topic)
        except TypeError:
            onward = None
        else:
            if headers is None and event.__class__ is route.event_class:
                buffer = self._buffer
                ports = buffer.ports
                if len(ports) < buffer.limit or self._engine.wake_for_room():
                    # Engine.put for the plain case, without the price of a call.
                    ports.append(route.port)  # type: ignore[arg-type]  # it has one
                    buffer.payloads.append(event)
                    return
            onward = None
        if onward is not None and headers is None and event.__class__ is onward.event_class:
            self._check_loop("publish")
            await self._carried.accept(onward, event, NO_HEADERS)
            return
        item = self._checked(topic, event, headers)
        if not self._hold(item):
            await self._way_of(item)

    async def publish_many(self, items: Iterable[tuple[Topic[Any] | str, Event]]) -> None:
        """Publishes several events, on one topic or on several, in order. It is not atomic.

        Every event is tried. Raises ``PublishManyError`` with the result of each item when some failed. No
        type checker can tell whether the pairs fit when topics differ: an ``EventTypeMismatch`` tells.

        Where the adapter is outside of the process many are under way at the same time: what it refuses for
        a while, and takes when it is asked again, may come behind later ones.
        """
        if self._adapter.features.in_process:
            results = [
                None if self._accepted_at_once(topic, event) else await result_of(self.publish(topic, event))
                for topic, event in items
            ]
        else:
            results = await publish_in_order(items, self._handed_over, self._publish_item)
        raise_failures(results)

    async def _publish_item(self, item: tuple[Any, Event]) -> None:
        topic, event = item
        await self.publish(topic, event)

    def _handed_over(self, item: tuple[Topic[Any] | str, Event]) -> asyncio.Future[None] | None:
        """What ``publish`` does for an adapter outside of the process, where nothing has to be waited for."""
        topic, event = item
        try:
            onward = self._onward.get(topic)
        except TypeError:
            return None
        if onward is None or event.__class__ is not onward.event_class:
            return None
        self._check_loop("publish")
        return self._carried.hand_over(onward, event, NO_HEADERS)

    def _accepted_at_once(self, topic: Any, event: Any) -> bool:
        """What ``publish`` does first. There it is spelt out: a call would be felt."""
        try:
            route = self._direct[topic]
        except (KeyError, TypeError):
            return False
        buffer = self._buffer
        ports = buffer.ports
        if event.__class__ is not route.event_class or len(ports) >= buffer.limit:
            return False
        ports.append(route.port)  # type: ignore[arg-type]  # it has one
        buffer.payloads.append(event)
        return True

    @overload
    def publish_nowait(
        self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    @overload
    def publish_nowait(
        self, topic: str, event: Event, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    def publish_nowait(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Like ``publish``, but raises ``BufferFull`` instead of waiting for room.

        Exists on in-process adapters only, elsewhere it raises ``UnsupportedFeature``. Inside of
        ``after_commit`` the event is held like any other.
        """
        if headers is None and self._accepted_at_once(topic, event):
            return
        if not self._adapter.features.in_process:
            raise UnsupportedFeature(
                self._adapter.name, ["publish_nowait needs an in-process adapter; await publish()"]
            )
        item = self._checked(topic, event, headers)
        if self._hold(item):
            return
        route = self._route(item.topic)
        accepted_before = route.published
        sending = self._send(item)
        token = may_wait.set(False)
        try:
            sending.send(None)
        except StopIteration:
            return
        finally:
            may_wait.reset(token)
            sending.close()
        if route.published == accepted_before:
            raise PublishFailed(
                f"publish_nowait: a publish middleware waited on topic {item.topic.name!r}; await publish()"
            )
        raise PublishUncertain(
            f"publish_nowait: a publish middleware waited on topic {item.topic.name!r} after the event was "
            "accepted, and was stopped; await publish()"
        )

    @asynccontextmanager
    async def after_commit(self) -> AsyncIterator[None]:
        """Holds what is published inside of the block until it ends well, and drops it when it raises.

        Publish after the database commit, not before: open the transaction inside of the block. Bad
        topics and events, such that cannot be encoded included, are reported at once. Blocks may be
        nested: events then leave with the outermost. A task that is started inside of the block takes
        part in it while it lasts. The events that were held are published like by ``publish_many``, and
        errors are raised like by it.
        """
        await self.begin_block()
        with self.holding() as block:
            try:
                yield
            except BaseException:
                block.items.clear()
                raise
            finally:
                self._look_less_closely()
        await self.release(block)

    async def begin_block(self) -> None:
        """The first part of ``after_commit``; for ``SyncBus``, of which the others run in another thread."""
        self._check_open("open after_commit")
        self._look_closer()

    @contextmanager
    def holding(self) -> Iterator[HeldEvents]:
        """Holds in a new block what is published in this context, until the block ends, well or not."""
        block = HeldEvents(self._block.get())
        token = self._block.set(block)
        try:
            yield block
        finally:
            block.over = True
            self._block.reset(token)

    async def end_block(self, block: HeldEvents) -> None:
        """The last part of ``after_commit``; see ``begin_block``."""
        self._look_less_closely()
        await self.release(block)

    async def release(self, block: HeldEvents) -> None:
        """Publishes what a block held, or hands it to the block around it."""
        outer = open_block(block)
        if outer is not None:
            outer.items += block.items
            return

        def hand_over(item: HeldEvent) -> asyncio.Future[None] | None:
            if self._publish_middleware:  # it may wait, and then others would come first
                return None
            return self._carried.hand_over(self._route(item.topic), item.event, item.headers)

        raise_failures(await publish_in_order(block.items, hand_over, self._send))

    def _hold(self, item: HeldEvent) -> bool:
        """Keeps an event for the end of the block that the caller is in, if it is in one."""
        block = open_block(self._block.get())
        if block is None:
            return False
        if self._carried.encodes:
            # Encoded for the error only: before the commit there is still something that can be undone.
            self._parts.codec.encode(item.topic, item.event, item.headers)
        block.items.append(item)
        return True

    def _checked(self, topic: object, event: object, headers: Mapping[str, str] | None) -> HeldEvent:
        """Everything that can be wrong with a publish before it is sent."""
        self._check_accepting()
        declared = self._declared(topic)
        checked = checked_event(declared, event)
        return HeldEvent(declared, checked, NO_HEADERS if headers is None else checked_headers(headers))

    def _declared(self, topic: object) -> Topic[Any]:
        if isinstance(topic, Topic):
            return self._registry.declare(topic)
        if isinstance(topic, str):
            return self._registry.find(topic)
        raise InvalidTopic(f"a topic is a Topic or the name of one, got {described(topic)}")

    async def _send(self, item: HeldEvent) -> None:
        await self._way_of(item)

    def _way_of(self, item: HeldEvent) -> Awaitable[None]:
        """What is left to do for a checked event: its middleware, if there is any, and the adapter."""
        route = self._route(item.topic)
        if self._publish_middleware:
            return route.chain(Envelope(item.topic.name, item.event, dict(item.headers)))
        return self._carried.accept(route, item.event, item.headers)

    async def _accept(self, route: Route, envelope: Envelope) -> None:
        event = checked_event(route.topic, envelope.event)
        await self._carried.accept(route, event, checked_headers(envelope.headers))

    def _route(self, topic: Topic[Any]) -> Route:
        declared = topic.name in self._registry
        route = self._routes.get(topic.name, declared=declared)
        if route is None:
            route = Route(topic)
            route.chain = compose(self._publish_middleware, partial(self._accept, route))
            self._routes.add(route, declared=declared)
        self._carried.renew(route)
        may_be_direct = self._state is _State.OPEN and not self._indirections
        if may_be_direct and declared:
            if route.port is not None:
                self._direct[route.topic] = self._direct[route.topic.name] = route
            elif not (self._publish_middleware or self._adapter.features.in_process):
                self._onward[route.topic] = self._onward[route.topic.name] = route
        return route

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
        that are not retried. ``timeout`` bounds one attempt, in seconds. ``where`` selects events.

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
        if handler is not None:
            return self._subscribe(topic, handler, options)

        def decorate(decorated: Callable[..., R]) -> Callable[..., R]:
            self._subscribe(topic, decorated, options)
            return decorated

        return decorate

    def _subscribe(
        self, topic: Topic[Any] | str, handler: Callable[..., Any], options: CheckedOptions
    ) -> Subscription:
        self._check_usable("subscribe")
        text = self._subscribed_text(topic)
        shape = inspect_handler(handler)
        spec = SubscriptionSpec(
            name=(name := self._free_name(options.name, shape.qualified_name, text)),
            group=f"{self.service}.{name}",
            topic=text,
            mode=options.mode,
            ordered=options.ordered,
            start=options.start,
        )
        # Those that were made before start are compared with the adapter all together, at start.
        mismatches = self._mismatches(spec) if self._state is not _State.NEW else []
        if mismatches:
            raise UnsupportedFeature(self._adapter.name, mismatches, self._adapter.features.remedy)
        retry = options.retry
        lane = Lane(
            self._engine,
            spec,
            handler,
            shape,
            policy_for=self._parts.policy_for if retry is None else lambda _topic: retry,
            middleware=self._consume_middleware,
            give_up_on=options.give_up_on,
            timeout=options.timeout,
            concurrency=options.concurrency,
            where=options.where,
        )
        self._lanes.append(lane)
        if self._state is _State.OPEN:
            self._carried.attach(lane)
        return Subscription(self, lane)

    def _free_name(self, given: str | None, qualified_name: str, topic: str) -> str:
        """The name of a new subscription; raises ``DuplicateSubscription``."""
        if given is None:
            if self._adapter.features.durable:
                raise InvalidHandler(
                    f"the subscription to {topic!r} needs a name=: on the durable adapter "
                    f"{self._adapter.name!r} it names the group that outlives this process"
                )
            return default_name(qualified_name, lambda name: self._clash(name, topic) is not None)
        other = self._clash(given, topic)
        if other is not None:
            raise DuplicateSubscription(given, topic, other)
        return given

    def _subscribed_text(self, topic: object) -> str:
        if isinstance(topic, str) and (is_pattern(topic) or not topic):
            return TopicPattern(topic).text
        return self._declared(topic).name

    def _clash(self, name: str, topic: str) -> str | None:
        """What a subscription of that name listens to already, if it overlaps the topic."""
        for lane in self._lanes:
            if lane.spec.name == name and patterns_overlap(lane.spec.topic, topic):
                return lane.spec.topic
        return None

    def _mismatches(self, spec: SubscriptionSpec) -> list[str]:
        features = self._adapter.features
        needs = [
            ("ordered", spec.ordered, "needs ordered=True"),
            ("broadcast", spec.mode == "broadcast", "needs mode='broadcast'"),
            ("groups", spec.mode == "group", "needs mode='group'"),
            ("replay", spec.start == "earliest", "needs start='earliest', and nothing is retained to replay"),
        ]
        return [
            f"subscription {spec.name!r} to {spec.topic!r} {words}"
            for feature, needed, words in needs
            if needed and not getattr(features, feature)
        ]

    async def unsubscribe(self, topic: Topic[Any] | str, handler: Callable[..., Any]) -> None:
        """Removes the subscriptions of this handler to this topic or pattern, and no other.

        Returns when what they accepted is settled; see ``Subscription.unsubscribe``. Raises
        ``UnknownSubscription`` when there is none.
        """
        self._check_usable("unsubscribe")
        text = topic.name if isinstance(topic, Topic) else topic
        lanes = [lane for lane in self._lanes if lane.spec.topic == text and lane.handler == handler]
        if not lanes:
            raise UnknownSubscription(f"no subscription of {handler!r} to {text!r} on this bus")
        leaving = [(lane, self._begin_to_leave(lane)) for lane in lanes]
        for lane, left in leaving:
            await self._until_left(lane, left)

    async def subscription_ready(self, lane: Lane) -> None:
        """See ``Subscription.ready``."""
        self._check_open("wait for a subscription")
        self._check_subscribed(lane)
        await self._carried.opened(lane)

    def _check_subscribed(self, lane: Lane) -> None:
        if lane not in self._lanes:
            raise UnknownSubscription(f"the subscription {lane.spec.name!r} was unsubscribed")

    def subscription_state(self, lane: Lane) -> SubscriptionState:
        """See ``Subscription.state``."""
        return self._state_of([lane]).subscriptions[0]

    def set_paused(self, lane: Lane, *, paused: bool) -> None:
        """See ``Subscription.pause`` and ``Subscription.resume``."""
        self._check_usable("pause a subscription" if paused else "resume a subscription")
        self._check_subscribed(lane)
        if lane.paused is paused:
            return
        if paused:
            lane.pause()
        else:
            lane.resume()
        if self._carrier is not None:
            self._carrier.pause_changed(lane)

    async def leave(self, lane: Lane) -> None:
        """See ``Subscription.unsubscribe``."""
        if self._state is not _State.CLOSED or self._forked:
            self._check_usable("unsubscribe")
            await self._until_left(lane, self._begin_to_leave(lane))

    def _begin_to_leave(self, lane: Lane) -> asyncio.Future[None] | None:
        """Takes a lane out of routing; None when there is nothing to wait for."""
        if lane not in self._lanes:
            return self._leaving.get(lane)
        self._lanes.remove(lane)
        if self._state is not _State.OPEN:
            return None
        self._carried.detach(lane)
        left = self._leaving[lane] = lane.leave()
        left.add_done_callback(lambda _: self._leaving.pop(lane))
        return left

    async def _until_left(self, lane: Lane, left: asyncio.Future[None] | None) -> None:
        if left is not None and not self.in_handler:
            await asyncio.shield(left)
            await self._carried.left(lane)

    # --- health -------------------------------------------------------------------------------------------

    async def health(self) -> HealthReport:
        """Runs the configured probes, and says whether the bus is open and has lost anything.

        Never raises: a closed bus is an unhealthy report.
        """
        unusable = self.unusable_report()
        if unusable is not None:
            return unusable
        state = self.state()
        found = await run_probes(self._parts.probes, state, self._parts.clock, self._config.health.timeout)
        return HealthReport({"bus": self._own_check(state), **found})

    def unusable_report(self) -> HealthReport | None:
        """The report of a bus that is not open; None when it is. Safe from any thread."""
        if not self._forked and self._state is _State.OPEN:
            return None
        text = "inherited by a fork" if self._forked else self._state.value
        return HealthReport({"bus": CheckResult(HealthStatus.UNHEALTHY, f"the bus is {text}")})

    def _own_check(self, state: EngineState) -> CheckResult:
        figures = {
            "published": state.published,
            "unsettled": state.unsettled,
            "overflowed": state.overflowed,
            "unrouted": state.unrouted,
            "lost": state.lost,
        }
        if state.lost:
            return CheckResult(
                HealthStatus.DEGRADED,
                f"{state.lost} events or dead letters were lost; the log names them (look for 'lost')",
                figures,
            )
        problem = None if self._carrier is None else self._carrier.problem
        if problem is not None:
            return CheckResult(*problem, figures)
        degraded = self._degraded or self._adapter.degraded
        if degraded is not None:
            return CheckResult(HealthStatus.DEGRADED, degraded, figures)
        return CheckResult(HealthStatus.HEALTHY, f"open on {self._adapter.name!r}, nothing lost", figures)

    # --- checks -------------------------------------------------------------------------------------------

    def _check_fork(self, doing: str) -> None:
        if self._forked:
            raise BusForked(doing)

    def _check_usable(self, doing: str) -> None:
        """For what may be done before start as well."""
        self._check_fork(doing)
        if self._state in (_State.CLOSING, _State.CLOSED):
            raise BusClosed(doing)
        if self._state is _State.OPEN:
            self._check_loop(doing)

    def _check_accepting(self) -> None:
        """While the bus is closing it takes events of its own handlers only, and handles them still."""
        if self._state is _State.CLOSING and self.in_handler and not self._engine.abandoning:
            return
        self._check_open("publish")

    def _check_loop(self, doing: str) -> None:
        if asyncio._get_running_loop() is not self._loop:
            raise WrongEventLoop(doing)

    def _check_open(self, doing: str) -> None:
        self._check_fork(doing)
        if self._state in (_State.CLOSING, _State.CLOSED):
            raise BusClosed(doing)
        if self._state is not _State.OPEN:
            raise BusNotStarted(doing)
        self._check_loop(doing)

    def _routes_changed(self) -> None:
        """Every route has to ask the adapter again, when it is used next."""
        self._direct = {}
        self._onward = {}

    def _look_closer(self) -> None:
        """From now on every publish takes the longer way, with all checks."""
        self._direct = {}
        self._onward = {}
        self._indirections += 1

    def _look_less_closely(self) -> None:
        self._indirections -= 1

    def mark_forked(self) -> None:
        """This process is a forked child: from now on every call raises ``BusForked``."""
        self._forked = True
        self._look_closer()


class _Indirection:
    """A block in which no publish may take the direct way."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __enter__(self) -> None:
        self._bus._look_closer()

    def __exit__(self, *_: object) -> None:
        self._bus._look_less_closely()


_every_bus: weakref.WeakSet[Bus] = weakref.WeakSet()


def _after_fork() -> None:
    for bus in [*_every_bus]:
        bus.mark_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


async def _close_each(parts: Iterable[HealthProbe | AnyAdapter], seconds: float) -> None:
    """Closes all of them, whatever one of them raises: nobody is left who could do anything about it.

    What takes longer than ``seconds`` of real time, all in all, is cancelled and left behind.
    """
    over_at = time.monotonic() + max(_UNWIND, seconds)
    for part in parts:
        closing = asyncio.ensure_future(_close_one(part))
        await asyncio.wait((closing,), timeout=max(_UNWIND, over_at - time.monotonic()))
        if not closing.done():
            closing.cancel()
            logger.error("closing %s did not end in time: it was left behind", type(part).__name__)


async def _close_one(part: HealthProbe | AnyAdapter) -> None:
    try:
        await part.close()
    except Exception:
        logger.exception("closing %r failed", part)
