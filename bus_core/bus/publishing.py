"""Publishes: from a call of ``publish`` through checks, blocks, middleware and routes to the carrier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import Any, TypeVar

from bus_core.abc import AnyAdapter, Middleware, Observer, WatchedMiddleware
from bus_core.bus.after_commit import HeldEvent, HeldEvents, open_block
from bus_core.bus.arguments import checked_event, checked_headers, described
from bus_core.bus.deprecations import Deprecations
from bus_core.bus.lifecycle import Lifecycle, Stage
from bus_core.bus.parts import BusParts
from bus_core.bus.publish_many import Begin, EnvelopeTasks, publish_in_order, raise_failures
from bus_core.dispatch.codec import key_of
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.middleware import compose
from bus_core.dispatch.worker import running_worker
from bus_core.errors import BusStateError, InvalidTopic, PublishFailed, PublishUncertain, UnsupportedFeature
from bus_core.events.base import Event
from bus_core.events.messages import NO_HEADERS, Envelope, Message
from bus_core.events.topics import Topic, is_pattern
from bus_core.transport.carrier import Carrier
from bus_core.transport.in_process import may_wait
from bus_core.transport.routes import Route, Routes

__all__ = ["PublishPipeline"]

T = TypeVar("T")

Publish = Callable[..., Coroutine[Any, Any, None]]
"""``Bus.publish``: takes a topic, an event, and headers."""


class PublishPipeline:
    """Publishes for a bus.

    Three dictionaries have the routes of the fast path. ``local_routes`` lead to the queue of this process,
    ``remote_routes`` to an adapter outside it, and ``middleware_routes`` through publish middleware to
    either. A change of subscriptions, a drain, ``after_commit``, closing or a fork empties all of them. A
    publish then takes the slow path with all checks.
    """

    def __init__(
        self, parts: BusParts, engine: Engine, lifecycle: Lifecycle, adapter: Callable[[], AnyAdapter]
    ) -> None:
        self.local_routes: dict[Topic[Any] | str, Route] = {}
        self.remote_routes: dict[Topic[Any] | str, Route] = {}
        self.middleware_routes: dict[Topic[Any] | str, Route] = {}
        self.routes = Routes(engine.buffer.unsealed)
        self._middleware = parts.publish_middleware
        self._observing: list[Callable[[str], Middleware | None]] = []
        self._is_wrapped = bool(self._middleware)  # True when a publish may pass through a middleware
        self.deprecations = Deprecations(parts.registry)
        self._deprecated_fields = self.deprecations.fields
        self._registry = parts.registry
        self._codec = parts.codec
        self._buffer = engine.buffer
        self._wake_for_room = engine.wake_for_room
        self._rouse = engine.rouse
        self._timestamp = engine.timestamp
        self._lifecycle = lifecycle
        self._adapter = adapter
        self._carrier: Carrier | None = None
        self._fast_path_blocks = 0
        self._in_tasks = EnvelopeTasks(lifecycle.check_accepting)
        self._block: ContextVar[HeldEvents | None] = ContextVar("promenade_bus_block", default=None)

    def observe(self, observer: Observer) -> None:
        """Adds an observer inside all middleware. Call it before the bus is open."""
        if observer.publish is not None:
            self._observing.append(observer.publish)
            self._is_wrapped = True

    def middleware_of(self, topic: str) -> tuple[Middleware, ...]:
        """The middleware of a topic, then the observers; the outermost first."""
        observing = (observe(topic) for observe in self._observing)
        own = (
            middleware.of_topic(topic) if isinstance(middleware, WatchedMiddleware) else middleware
            for middleware in self._middleware
        )
        return (*filter(None, own), *filter(None, observing))

    def open(self, carrier: Carrier) -> None:
        """Opens the pipeline: events now have a carrier."""
        self._carrier = carrier
        self.routes_changed()

    @property
    def active_carrier(self) -> Carrier:
        """The carrier of a bus that was started."""
        assert self._carrier is not None, "the bus was started"
        return self._carrier

    # --- the longer and the shorter way -------------------------------------------------------------------

    def routes_changed(self, text: str = "#") -> None:
        """Outdates the routes of a topic, or of a pattern's topics."""
        if is_pattern(text):
            for known in (self.local_routes, self.remote_routes, self.middleware_routes):
                known.clear()
        elif (route := self.routes.outdate(text)) is not None:
            for known in (self.local_routes, self.remote_routes, self.middleware_routes):
                known.pop(route.topic, None)
                known.pop(text, None)

    def disable_fast_path(self) -> None:
        """Makes every publish take the slow path, with all checks, until ``enable_fast_path``."""
        self.routes_changed()
        self._fast_path_blocks += 1

    def enable_fast_path(self) -> None:
        """Undoes one ``disable_fast_path``."""
        self._fast_path_blocks -= 1

    @contextmanager
    def fast_path_disabled(self) -> Iterator[None]:
        """A block without the fast path."""
        self.disable_fast_path()
        try:
            yield
        finally:
            self.enable_fast_path()

    # --- one event ----------------------------------------------------------------------------------------

    def put(self, route: Route, event: Event, headers: Mapping[str, str] | None) -> None:
        """Puts the record of an event straight into the queue.

        Raises ``SerializationError``, and ``TypeError`` for headers.
        """
        sent = NO_HEADERS if headers is None else checked_headers(headers)
        key = key_of(route.topic, event) if route.is_keyed else None
        payload = event if route.encode is None else route.encode(route.topic, event, sent)
        self._buffer.payloads.append((payload, route.name, self._timestamp(), sent, key))
        self._buffer.ports.append(route.record_port)  # type: ignore[arg-type]  # it has one
        route.counted += 1

    async def _put_in_turn(
        self, topic: Topic[Any] | str, route: Route, event: Event, headers: Mapping[str, str]
    ) -> bool:
        """Waits for room, if only room was missing, and puts an event into the queue.

        Returns False when the slow path is needed, from the beginning or by now.
        """
        if not may_wait.get() or running_worker() is not None:
            return False
        buffer = self._buffer
        await buffer.room()
        try:
            if self.local_routes.get(topic) is not route:
                return False
            if buffer.asleep:
                self._rouse()
            if headers or route.port is None:
                self.put(route, event, headers)
            else:
                buffer.ports.append(route.port)
                buffer.payloads.append(event)
            return True
        finally:
            buffer.wake_publishers()  # the place was not needed, or there are more

    async def publish(self, topic: Any, event: Any, headers: Mapping[str, str] | None = None) -> None:
        """Publishes on the slow path, with all checks; see ``Bus.publish``."""
        try:
            route = self.middleware_routes.get(topic) or self.local_routes.get(topic)
        except TypeError:
            route = None
        if (
            route is not None
            and event.__class__ is route.event_class
            and get_ident() == self._lifecycle.thread
        ):
            self._lifecycle.check_loop("publish")
            sent = checked_headers(headers)
            if self._is_wrapped:
                await route.chain(Envelope(route.name, event, dict(sent)))
            elif route.encode is not None or not await self._put_in_turn(topic, route, event, sent):
                await self.active_carrier.accept(route, event, sent)
            return
        if headers is None and (sending := self._hand_over_unchecked(topic, event)) is not None:
            await sending
            return
        item = self._checked(topic, event, headers)
        if not self._hold(item):
            await self._publish_checked(item)

    def publish_nowait(
        self, topic: Any, event: Any, headers: Mapping[str, str] | None, publish: Publish
    ) -> None:
        """Publishes for ``Bus.publish_nowait``; the given ``publish`` must not have to wait."""
        adapter = self._adapter()
        if not adapter.features.in_process:
            raise UnsupportedFeature(
                adapter.name, ["publish_nowait needs an in-process adapter; await publish()"]
            )
        route: Route | None = None
        accepted_before = 0
        if self._is_wrapped:
            self._lifecycle.check_accepting()
            route = self._route(self.declared(topic))
            accepted_before = route.counted
        token = may_wait.set(False)
        sending = publish(topic, event, headers)
        try:
            sending.send(None)
        except StopIteration:
            return
        finally:
            may_wait.reset(token)
            sending.close()
        assert route is not None, "only middleware waits"
        if route.counted == accepted_before:
            raise PublishFailed(
                f"publish_nowait: a publish middleware waited on topic {route.name!r}; await publish()"
            )
        raise PublishUncertain(
            f"publish_nowait: a publish middleware waited on topic {route.name!r} after the event was "
            "accepted, and was stopped; await publish()"
        )

    def _checked(self, topic: object, event: object, headers: Mapping[str, str] | None = None) -> HeldEvent:
        """Makes all checks of a publish before anything is sent."""
        self._lifecycle.check_accepting()
        declared = self.declared(topic)
        checked = checked_event(declared, event)
        if self._deprecated_fields.get(declared.name) != ():
            self.deprecations.look(declared, checked)
        return HeldEvent(declared, checked, checked_headers(headers))

    def declared(self, topic: object) -> Topic[Any]:
        """The topic to publish on; raises ``InvalidTopic``, ``UnknownTopic``, ``TopicConflict``."""
        if isinstance(topic, Topic):
            return self._registry.declare(topic)
        if isinstance(topic, str):
            return self._registry.find(topic)
        raise InvalidTopic(f"a topic is a Topic or the name of one, got {described(topic)}")

    async def _send(self, item: HeldEvent) -> None:
        await self._publish_checked(item)

    def _publish_checked(self, item: HeldEvent) -> Awaitable[None]:
        """Publishes a checked event: through its middleware, if there is any, to the adapter."""
        route = self._route(item.topic)
        if self._is_wrapped:
            return route.chain(Envelope(item.topic.name, item.event, dict(item.headers)))
        return self.active_carrier.accept(route, item.event, item.headers)

    async def _accept(self, route: Route, envelope: Envelope) -> None:
        """Ends the publish middleware, which may have changed anything."""
        event: Any = envelope.event
        if route.record_port is not None and self.middleware_routes.get(route.name) is route:
            buffer = self._buffer
            if event.__class__ is route.event_class and (
                len(buffer.ports) < buffer.limit or self._wake_for_room()
            ):
                self.put(route, event, envelope.headers)
                return
        event = checked_event(route.topic, event)
        headers = checked_headers(envelope.headers)
        handing_over = self._in_tasks.handing_over(envelope)
        if handing_over is not None:
            sending = self.active_carrier.hand_over(route, event, headers)
            if sending is not None:
                handing_over.set_result(None)
                await sending
                return
        await self.active_carrier.accept(route, event, headers)

    def _route(self, topic: Topic[Any]) -> Route:
        declared = topic.name in self._registry
        route = self.routes.get(topic.name, declared=declared)
        if route is None:
            route = Route(topic)
            route.chain = compose(self.middleware_of(topic.name), partial(self._accept, route))
            self.routes.add(route, declared=declared)
        self.active_carrier.refresh(route)
        may_be_direct = self._lifecycle.stage is Stage.OPEN and not self._fast_path_blocks
        if may_be_direct and declared and self._deprecated_fields.get(topic.name) == ():
            is_remote = not self._adapter().features.in_process
            if is_remote or route.record_port is not None:
                ways = self.remote_routes if is_remote else self.local_routes
                if self._is_wrapped:
                    ways = self.middleware_routes
                ways[route.topic] = ways[route.name] = route
        return route

    # --- several ------------------------------------------------------------------------------------------

    async def publish_many(
        self, items: Iterable[tuple[Topic[Any] | str, Event[Any]]], publish: Publish
    ) -> None:
        """Publishes for ``Bus.publish_many``; ``publish`` is for events that have to wait."""
        if self._adapter().features.in_process:
            failures: dict[int, Exception] = {}
            index = -1
            for index, (topic, event) in enumerate(items):
                try:  # inlines result_of, which would be another coroutine per event
                    await publish(topic, event)
                except Exception as error:
                    failures[index] = error
            results: list[Exception | None] = []
            if failures:
                results = [failures.get(number) for number in range(index + 1)]
        else:
            begin: Begin[Any] = self._begin_one
            if self._is_wrapped and open_block(self._block.get()) is None:
                begin = self._begin_through_middleware(self._checked_pair)
            results = await publish_in_order(items, begin, lambda item: self.publish(*item))
        raise_failures(results)

    def _begin_through_middleware(self, checked: Callable[[T], HeldEvent]) -> Begin[T]:
        """Begins to publish outside the process, each event through its middleware in a task."""
        begin_to_call = self._in_tasks.beginning()

        def begin(item: T) -> asyncio.Future[None]:
            held = checked(item)
            self._lifecycle.check_loop("publish")
            envelope = Envelope(held.topic.name, held.event, dict(held.headers))
            return begin_to_call(self._route(held.topic).chain, envelope)

        return begin

    def _hand_over_unchecked(self, topic: Any, event: Any) -> asyncio.Future[None] | None:
        """Gives an event to an adapter outside the process on the fast path; None for the slow path."""
        try:
            route = self.remote_routes.get(topic)
        except TypeError:
            return None
        if route is None or event.__class__ is not route.event_class:
            return None
        self._lifecycle.check_loop("publish")
        return self.active_carrier.hand_over(route, event, NO_HEADERS)

    def _checked_pair(self, item: tuple[Any, Any]) -> HeldEvent:
        topic, event = item
        return self._checked(topic, event)

    def _begin_one(self, item: tuple[Any, Any]) -> asyncio.Future[None] | None:
        """Begins to publish one of many; None where it has to be published by itself."""
        topic, event = item
        sending = self._hand_over_unchecked(topic, event)
        if sending is not None or self._must_publish_alone:
            return sending
        return self._begin_to_send(self._checked(topic, event))

    @property
    def _must_publish_alone(self) -> bool:
        """True when each event is published by itself, through its middleware or into an open block."""
        return self._is_wrapped or open_block(self._block.get()) is not None

    def _begin_to_send(self, item: HeldEvent) -> asyncio.Future[None] | None:
        """Gives a checked event to the carrier; None where it has to be published by itself."""
        if self._must_publish_alone:
            return None
        return self.active_carrier.hand_over(self._route(item.topic), item.event, item.headers)

    # --- prepared messages --------------------------------------------------------------------------------

    async def publish_prepared(self, messages: Iterable[Message]) -> None:
        """See ``Bus.publish_prepared``."""
        self._lifecycle.check_accepting()
        raise_failures(await publish_in_order(messages, self._begin_to_forward, self._forward))

    def _begin_to_forward(self, message: Message) -> asyncio.Future[None] | None:
        return self.active_carrier.hand_on(self._route_of(message), message)

    async def _forward(self, message: Message) -> None:
        await self.active_carrier.forward(self._route_of(message), message)

    def _route_of(self, message: Message) -> Route:
        """The route of a message, whose topic may be known only where the message was prepared."""
        topic = self._registry.get(message.topic)
        return self._route(topic or Topic(message.topic, Event))

    # --- blocks of after_commit ---------------------------------------------------------------------------

    @contextmanager
    def holding(self) -> Iterator[HeldEvents]:
        """Holds the events published in this context in a new block, until the block ends in any way."""
        block = HeldEvents(self._block.get())
        token = self._block.set(block)
        try:
            yield block
        finally:
            block.over = True
            try:
                self._block.reset(token)
            except ValueError:
                raise BusStateError(
                    "after_commit was left in another context than it was entered in, so that what was "
                    "published in between was not held; open the block in the function that publishes"
                ) from None

    def _hold(self, item: HeldEvent) -> bool:
        """Holds an event until the end of the caller's block, if there is one."""
        block = open_block(self._block.get())
        if block is None:
            return False
        if self.active_carrier.encodes:
            # Encoded only to raise errors: before the commit they can still be undone.
            self._codec.encode(item.topic, item.event, item.headers)
        block.items.append(item)
        return True

    async def release(self, block: HeldEvents) -> None:
        """Publishes the events of a block, or moves them to the outer block."""
        outer = open_block(block)
        if outer is not None:
            outer.items += block.items
            return
        begin: Begin[HeldEvent] = self._begin_to_send
        if self._is_wrapped and not self._adapter().features.in_process:
            begin = self._begin_through_middleware(lambda item: item)
        raise_failures(await publish_in_order(block.items, begin, self._send))
