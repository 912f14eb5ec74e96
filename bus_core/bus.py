"""The bus: publish, subscribe, and the order in which things start and stop."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, cast, overload

import attrs

from bus_core.abc import (
    Adapter,
    CheckResult,
    EngineState,
    Handler,
    HealthProbe,
    HealthStatus,
    Middleware,
    RetryPolicy,
    Seconds,
    SubscriptionSpec,
)
from bus_core.clock import Clock
from bus_core.config import BusConfig
from bus_core.dead_letters import DeadLetters
from bus_core.engine import DrainReport, Engine, EventCodec, current_engine
from bus_core.errors import (
    BufferFull,
    BusClosed,
    BusError,
    BusForked,
    BusNotStarted,
    BusStateError,
    CalledFromHandler,
    DuplicateSubscription,
    EventTypeMismatch,
    InvalidHandler,
    PublishManyError,
    UnknownSubscription,
    UnsupportedFeature,
    WrongEventLoop,
)
from bus_core.events import Event, FrozenMapping
from bus_core.handlers import inspect_handler
from bus_core.health import HealthReport, run_probes
from bus_core.lanes import Lane
from bus_core.messages import Delivery, Envelope, Message
from bus_core.pipeline import compose
from bus_core.plugins import Plugins
from bus_core.routes import Route
from bus_core.subscriptions import (
    SubscribeDecorator,
    Subscription,
    check_concurrency,
    check_error_types,
    check_name,
    check_seconds,
    default_name,
)
from bus_core.timeouts import call_within
from bus_core.topics import Topic, TopicPattern, TopicRegistry, is_pattern, patterns_overlap

__all__ = ["Bus", "BusParts"]

E = TypeVar("E", bound=Event)
R = TypeVar("R")

_NO_HEADERS: FrozenMapping[str, str] = FrozenMapping()


class _State(Enum):
    """The life of a bus. Steps go downwards only, except that a start that failed goes back to NEW."""

    NEW = "not started"
    STARTING = "starting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Codec(EventCodec, Protocol):
    """What the bus needs of ``bus_core.codec.Codec``."""

    def encode(self, topic: Topic[Any], event: Event, headers: Mapping[str, str]) -> Message:
        """The event as a message."""
        ...


@attrs.frozen(kw_only=True)
class BusParts:
    """What a bus is assembled from; see ``bus_core.bootstrap.open_bus``."""

    config: BusConfig
    plugins: Plugins
    adapter: Adapter
    codec: Codec
    registry: TopicRegistry
    clock: Clock
    policy_for: Callable[[str], RetryPolicy]
    consume_middleware: tuple[Middleware, ...] = ()
    publish_middleware: tuple[Middleware, ...] = ()
    probes: Mapping[str, HealthProbe] = attrs.field(factory=FrozenMapping)


@attrs.frozen
class _Held:
    """An event that waits for the end of an ``after_commit`` block."""

    topic: Topic[Any]
    event: Event
    headers: Mapping[str, str]


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
        self._engine = Engine(
            adapter=parts.adapter,
            codec=parts.codec,
            clock=parts.clock,
            worker_pool_size=parts.config.worker_pool_size,
            buffer_size=parts.config.buffer_size,
            overflow_size=parts.config.overflow_size,
        )
        self._state = _State.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: list[Lane] = []
        self._leaving: list[Lane] = []
        self._handlers: dict[Lane, Callable[..., Any]] = {}
        # Only routes that ``publish`` may use without a further look. Whatever makes a further look
        # necessary (a change of subscriptions, a drain, after_commit, closing, a fork) empties it.
        self._direct: dict[Topic[Any] | str, Route] = {}
        self._indirections = 0
        self._routes: dict[str, Route] = {}
        self._chains: dict[str, Handler] = {}
        self._held: ContextVar[list[_Held] | None] = ContextVar("promenade_bus_held", default=None)
        self._closing: asyncio.Future[DrainReport] | None = None
        self._forked = False
        self._dead_letters = DeadLetters(parts.adapter.dead_letters, self._check_open)
        parts.adapter.watch(self._routes_changed)
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
    def adapter(self) -> Adapter:
        """The transport that carries the events."""
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
        return tuple(Subscription(self, lane, self._handlers[lane]) for lane in self._lanes)

    @property
    def dead_letters(self) -> DeadLetters:
        """What subscriptions gave up on."""
        return self._dead_letters

    @property
    def status(self) -> str:
        """``not started``, ``starting``, ``open``, ``closing`` or ``closed``."""
        return self._state.value

    @property
    def forked(self) -> bool:
        """Whether this process inherited the bus by a fork, so that it cannot be used."""
        return self._forked

    def state(self) -> EngineState:
        """A snapshot of queues and counters."""
        routes = self._routes.values()
        return self._engine.state(
            [*self._lanes, *self._leaving],
            published=sum(route.published for route in routes),
            unrouted=sum(route.unrouted for route in routes),
        )

    def published(self) -> Mapping[str, int]:
        """How many events of each topic this bus has accepted so far."""
        return {name: route.published for name, route in sorted(self._routes.items())}

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
        mismatches = [fault for lane in self._lanes for fault in self._mismatches(lane.spec)]
        if mismatches:
            raise UnsupportedFeature(self._adapter.name, mismatches)
        self._state = _State.STARTING
        started: list[HealthProbe] = []
        try:
            await self._adapter.start()
            for probe in self._parts.probes.values():
                await probe.start()
                started.append(probe)
        except BaseException:
            self._state = _State.NEW
            for probe in started:
                await probe.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._engine.start()
        self._state = _State.OPEN
        for lane in self._lanes:
            self._adapter.attach(lane)
        self._routes_changed()

    async def close(self, timeout: Seconds | None = None) -> DrainReport:
        """Drains within ``timeout`` (by default ``shutdown_timeout``), stops, and reports what it abandoned.

        Never raises for abandoned work. Calling it again, also at the same time, gives the same report.
        Raises ``CalledFromHandler`` from inside a handler.
        """
        if self._forked:
            self._state = _State.CLOSED
            return DrainReport(True, (), 0.0)
        if current_engine() is self._engine:
            raise CalledFromHandler("close the bus")
        if self._closing is not None:
            return await asyncio.shield(self._closing)
        if self._state is _State.STARTING:
            raise BusStateError("cannot close: the bus is being started")
        seconds = self._config.shutdown_timeout if timeout is None else _seconds(timeout)
        loop = asyncio.get_running_loop()
        if self._state is _State.NEW:
            self._state = _State.CLOSED
            self._closing = loop.create_future()
            self._closing.set_result(DrainReport(True, (), 0.0))
            return self._closing.result()
        self._check_loop("close")
        # A task of its own: whoever waits for it may be cancelled, closing goes on.
        self._closing = loop.create_task(self._close(seconds), name="promenade-close")
        return await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> DrainReport:
        self._state = _State.CLOSING
        self._look_closer()
        report = await self._engine.stop([*self._lanes, *self._leaving], timeout, self._detach_all)
        self._state = _State.CLOSED
        for probe in self._parts.probes.values():
            await probe.close()
        await self._adapter.close()
        return report

    def _detach_all(self) -> None:
        for lane in self._lanes:
            self._adapter.detach(lane)

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
        if current_engine() is self._engine:
            raise CalledFromHandler("drain the bus")
        lanes = [*self._lanes, *self._leaving]
        with _Indirection(self):
            if timeout is None:
                await self._engine.drain(lanes)
            else:
                seconds = _seconds(timeout)
                late = partial(TimeoutError, f"the bus was not drained within {seconds:g} s: {self.state()}")
                await call_within(self._parts.clock, seconds, late, self._engine.drain, lanes)

    # --- publish ------------------------------------------------------------------------------------------

    @overload
    async def publish(
        self, topic: Topic[E], event: E, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    @overload
    async def publish(
        self, topic: str, event: Event, *, headers: Mapping[str, str] | None = None
    ) -> None: ...
    async def publish(self, topic: Any, event: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Returns when the adapter has accepted the event; waits for room where a queue is bounded.

        ``headers`` travel beside the event and reach the handler in its delivery. Raises ``BusClosed``,
        ``BusNotStarted``, ``UnknownTopic``, ``EventTypeMismatch``, ``SerializationError``,
        ``BufferFull`` (from a handler, when the overflow is used up), ``PublishFailed``,
        ``PublishUncertain``.
        """
        try:
            route = self._direct[topic]
        except (KeyError, TypeError):
            pass
        else:
            if headers is None and event.__class__ is route.event_class:
                engine = self._engine
                unsettled = engine.unsettled
                if unsettled < engine.limit or engine.accept_direct():
                    # Engine.put for the plain case, without the price of a call.
                    engine.unsettled = unsettled + 1
                    route.published += 1
                    engine.queue.append((route.port, event, None))  # type: ignore[arg-type]  # it has one
                    return
        item = self._checked(topic, event, headers)
        held = self._held.get()
        if held is not None:
            held.append(item)
            return
        await self._send(item)

    async def publish_many(self, items: Iterable[tuple[Topic[E], E] | tuple[str, Event]]) -> None:
        """Publishes several events, in order. It is not atomic.

        Every event is tried. Raises ``PublishManyError`` with the result of each item when some failed.
        """
        results: list[BusError | None] = []
        for topic, event in items:
            try:
                await self.publish(topic, event)  # type: ignore[arg-type,misc]  # pairs that fit by themselves
            except BusError as error:
                results.append(error)
            else:
                results.append(None)
        if any(results):
            raise PublishManyError(results)

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
        if not self._adapter.features.in_process:
            raise UnsupportedFeature(
                self._adapter.name, ["publish_nowait needs an in-process adapter; await publish()"]
            )
        item = self._checked(topic, event, headers)
        held = self._held.get()
        if held is not None:
            held.append(item)
            return
        sending = self._send(item, wait=False)
        try:
            sending.send(None)
        except StopIteration:
            return
        finally:
            sending.close()
        raise BusError(
            f"publish_nowait: a publish middleware waited on topic {item.topic.name!r}; await publish()"
        )

    @asynccontextmanager
    async def after_commit(self) -> AsyncIterator[None]:
        """Holds what is published inside of the block until it ends well, and drops it when it raises.

        Publish after the database commit, not before: open the transaction inside of the block. Bad
        topics and events are reported at once. In nested blocks events leave with the outermost. The
        events that were held are published like by ``publish_many``, and errors are raised like by it.
        """
        self._check_open("open after_commit")
        outer = self._held.get()
        held: list[_Held] = []
        token = self._held.set(held)
        with _Indirection(self):
            try:
                yield
            finally:
                self._held.reset(token)
        if outer is not None:
            outer.extend(held)
            return
        results: list[BusError | None] = []
        for item in held:
            try:
                await self._send(item)
            except BusError as error:
                results.append(error)
            else:
                results.append(None)
        if any(results):
            raise PublishManyError(results)

    async def check(self, topic: object, event: object, headers: Mapping[str, str] | None = None) -> None:
        """Raises what ``publish`` would raise at once for these arguments; publishes nothing."""
        self._checked(topic, event, headers)

    def _checked(self, topic: object, event: object, headers: Mapping[str, str] | None) -> _Held:
        """Everything that can be wrong with a publish before it is sent."""
        if not (self._state is _State.CLOSING and current_engine() is self._engine):
            self._check_open("publish")
        declared = self._declared(topic)
        if not isinstance(event, declared.event_class):
            raise EventTypeMismatch(declared.name, _name_of(declared.event_class), _name_of(type(event)))
        return _Held(
            declared, cast(Event, event), _NO_HEADERS if headers is None else _checked_headers(headers)
        )

    def _declared(self, topic: object) -> Topic[Any]:
        if isinstance(topic, Topic):
            return self._registry.declare(topic)
        if isinstance(topic, str):
            return self._registry.find(topic)
        raise EventTypeMismatch(
            "?", "a Topic or the name of one as its first argument", _name_of(type(topic))
        )

    async def _send(self, item: _Held, *, wait: bool = True) -> None:
        route = self._route(item.topic)
        if self._parts.publish_middleware:
            chain = compose(self._parts.publish_middleware, partial(self._accept, route, wait=wait))
            await chain(Envelope(item.topic.name, item.event, dict(item.headers)))
        else:
            await self._accept(route, Envelope(item.topic.name, item.event, dict(item.headers)), wait=wait)

    async def _accept(self, route: Route, envelope: Envelope, *, wait: bool) -> None:
        event = envelope.event
        if not isinstance(event, route.event_class):
            raise EventTypeMismatch(route.topic.name, _name_of(route.event_class), _name_of(type(event)))
        headers = FrozenMapping(envelope.headers)
        payload: Event | Message = event
        if self._adapter.serialize:
            payload = self._parts.codec.encode(route.topic, event, headers)
        granted: Engine | None = None
        while (full := route.full_engine()) is not None:
            if not wait:
                raise BufferFull("buffer", self._config.buffer_size)
            if granted is not None:
                granted.pass_on()  # another engine is full: somebody else may have the place
            await full.room()
            granted = full
        route.deliver(payload, headers)

    def _route(self, topic: Topic[Any]) -> Route:
        route = self._routes.get(topic.name)
        if route is None:
            route = Route(topic)
            if topic.name not in self._registry:
                # Not strict: names may be without number, so that nothing is kept for them.
                route.renew(self._adapter, self._engine, direct=False)
                return route
            self._routes[topic.name] = route
            route.renew(self._adapter, self._engine, direct=not self._parts.publish_middleware)
        may_be_direct = self._state is _State.OPEN and not self._indirections and not self._adapter.serialize
        if may_be_direct and route.port is not None:
            self._direct[route.topic] = self._direct[route.topic.name] = route
        return route

    # --- subscribe ----------------------------------------------------------------------------------------

    @overload
    def subscribe(
        self,
        topic: Topic[E],
        handler: None = None,
        *,
        name: str | None = None,
        mode: Literal["group", "broadcast"] = "group",
        concurrency: int | None = None,
        ordered: bool = False,
        retry: RetryPolicy | None = None,
        give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
        timeout: Seconds | None = None,
        start: Literal["earliest", "latest"] | None = None,
        where: Callable[[E], bool] | None = None,
    ) -> SubscribeDecorator[E]: ...
    @overload
    def subscribe(
        self,
        topic: str,
        handler: None = None,
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
    ) -> SubscribeDecorator[Any]: ...
    @overload
    def subscribe(
        self,
        topic: Topic[E],
        handler: Callable[[E], Any] | Callable[[E, Delivery], Any],
        *,
        name: str | None = None,
        mode: Literal["group", "broadcast"] = "group",
        concurrency: int | None = None,
        ordered: bool = False,
        retry: RetryPolicy | None = None,
        give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
        timeout: Seconds | None = None,
        start: Literal["earliest", "latest"] | None = None,
        where: Callable[[E], bool] | None = None,
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        topic: str,
        handler: Callable[[Any], Any] | Callable[[Any, Delivery], Any],
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
        options: dict[str, Any] = {
            "name": name,
            "mode": mode,
            "concurrency": check_concurrency(concurrency),
            "ordered": ordered,
            "retry": retry,
            "give_up_on": check_error_types(give_up_on),
            "timeout": check_seconds("timeout", timeout),
            "start": start,
            "where": where,
        }
        if handler is not None:
            return self._subscribe(topic, handler, **options)

        def decorate(decorated: Callable[..., R]) -> Callable[..., R]:
            self._subscribe(topic, decorated, **options)
            return decorated

        return decorate

    def _subscribe(
        self,
        topic: Topic[Any] | str,
        handler: Callable[..., Any],
        *,
        name: str | None,
        mode: Literal["group", "broadcast"],
        concurrency: int | None,
        ordered: bool,
        retry: RetryPolicy | None,
        give_up_on: tuple[type[BaseException], ...],
        timeout: float | None,
        start: Literal["earliest", "latest"] | None,
        where: Callable[[Any], bool] | None,
    ) -> Subscription:
        self._check_fork("subscribe")
        if self._state in (_State.CLOSING, _State.CLOSED):
            raise BusClosed("subscribe")
        if self._state is _State.OPEN:
            self._check_loop("subscribe")
        text = self._subscribed_text(topic)
        shape = inspect_handler(handler)
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise InvalidHandler(f"retry takes a retry policy such as ExponentialRetry(...), got {retry!r}")
        if where is not None and not callable(where):
            raise InvalidHandler(f"where takes a function of the event, got {where!r}")
        if name is None and self._adapter.features.durable:
            raise InvalidHandler(
                f"the subscription to {text!r} needs a name=: on the durable adapter {self._adapter.name!r} "
                "it names the group that outlives this process"
            )
        clash = partial(self._clash, topic=text)
        chosen = (
            default_name(shape.qualified_name, lambda n: clash(n) is not None)
            if name is None
            else check_name(name)
        )
        other = clash(chosen)
        if other is not None:
            raise DuplicateSubscription(chosen, text, other)
        try:
            spec = SubscriptionSpec(
                name=chosen,
                group=f"{self.service}.{chosen}",
                topic=text,
                mode=mode,
                ordered=ordered,
                start=start,
            )
        except ValueError as error:
            raise InvalidHandler(str(error)) from error
        mismatches = self._mismatches(spec) if self._state is _State.OPEN else []
        if mismatches:
            raise UnsupportedFeature(self._adapter.name, mismatches)
        policy_for: Callable[[str], RetryPolicy] = (
            self._parts.policy_for if retry is None else lambda _topic: retry
        )
        lane = Lane(
            self._engine,
            spec,
            handler,
            shape,
            policy_for=policy_for,
            middleware=self._parts.consume_middleware,
            give_up_on=give_up_on,
            timeout=timeout,
            concurrency=concurrency,
            where=where,
        )
        self._lanes.append(lane)
        self._handlers[lane] = handler
        if self._state is _State.OPEN:
            self._adapter.attach(lane)
        return Subscription(self, lane, handler)

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
        text = topic.name if isinstance(topic, Topic) else topic
        lanes = [lane for lane in self._lanes if lane.spec.topic == text and self._handlers[lane] == handler]
        if not lanes:
            raise UnknownSubscription(f"no subscription of {handler!r} to {text!r} on this bus")
        for lane in lanes:
            await self.leave(lane)

    async def subscription_ready(self, lane: Lane) -> None:
        """See ``Subscription.ready``."""
        self._check_open("wait for a subscription")
        if lane not in self._handlers:
            raise UnknownSubscription(f"the subscription {lane.spec.name!r} was unsubscribed")

    def set_paused(self, lane: Lane, *, paused: bool) -> None:
        """See ``Subscription.pause`` and ``Subscription.resume``."""
        if lane.paused is paused:
            return
        if paused:
            lane.pause()
        else:
            lane.resume()
        self._routes_changed()

    async def leave(self, lane: Lane) -> None:
        """See ``Subscription.unsubscribe``."""
        if lane not in self._lanes:
            return
        self._lanes.remove(lane)
        self._handlers.pop(lane)
        if self._state is not _State.OPEN:
            return
        self._adapter.detach(lane)
        self._leaving.append(lane)
        left = lane.leave()
        left.add_done_callback(lambda _: self._leaving.remove(lane))
        if current_engine() is not self._engine:
            await asyncio.shield(left)

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
        figures = {"published": state.published, "unsettled": state.unsettled, "lost": state.lost}
        if state.lost:
            return CheckResult(
                HealthStatus.DEGRADED,
                f"{state.lost} events or dead letters were lost; the log names them (look for 'lost')",
                figures,
            )
        return CheckResult(HealthStatus.HEALTHY, f"open on {self._adapter.name!r}, nothing lost", figures)

    # --- checks -------------------------------------------------------------------------------------------

    def _check_fork(self, doing: str) -> None:
        if self._forked:
            raise BusForked(doing)

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
        """Every route has to ask the adapter again."""
        self._direct = {}
        for route in self._routes.values():
            route.renew(self._adapter, self._engine, direct=not self._parts.publish_middleware)

    def _look_closer(self) -> None:
        """From now on every publish takes the longer way, with all checks."""
        self._direct = {}
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


def _seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _name_of(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in headers.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"headers map str to str, got {key!r}: a {type(value).__name__}")
    return FrozenMapping(headers)
