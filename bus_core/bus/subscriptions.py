"""The subscriptions of one bus: joining, pausing and leaving, and the features that they need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal, TypeVar

from bus_core.abc import (
    AnyAdapter,
    Features,
    Middleware,
    Observer,
    RetryPolicy,
    SubscriptionSpec,
    SubscriptionState,
    WatchedMiddleware,
)
from bus_core.bus.lifecycle import Lifecycle, Stage
from bus_core.bus.parts import BusParts
from bus_core.bus.subscribe_options import CheckedOptions, default_name
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.handlers import event_class_of, inspect_handler
from bus_core.dispatch.lane import Lane
from bus_core.errors import (
    DuplicateSubscription,
    InvalidHandler,
    UnknownSubscription,
    UnsupportedFeature,
)
from bus_core.events.base import Event
from bus_core.events.topic_index import TopicIndex
from bus_core.events.topics import Topic, TopicPattern, is_pattern
from bus_core.transport.carrier import Carrier

__all__ = ["Subscription", "SubscriptionRegistry"]

K = TypeVar("K")


class Subscription:
    """A handler bound to a topic or a pattern under a name.

    Pause it during a deployment::

        subscription = bus.subscribe("identity.*.created", audit, name="audit")
        subscription.pause()
        ...
        subscription.resume()
    """

    __slots__ = ("_lane", "_registry")

    def __init__(self, registry: SubscriptionRegistry, lane: Lane) -> None:
        self._registry = registry
        self._lane = lane

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} to {self.topic!r}>"

    @property
    def name(self) -> str:
        """The name, unique among the subscriptions of overlapping topics."""
        return self._lane.spec.name

    @property
    def topic(self) -> str:
        """The topic's name, or the pattern."""
        return self._lane.spec.topic

    @property
    def group(self) -> str:
        """The name that its instances share, prefixed by the service."""
        return self._lane.spec.group

    @property
    def mode(self) -> Literal["group", "broadcast"]:
        """``group``: instances compete for events. ``broadcast``: each gets all."""
        return self._lane.spec.mode

    @property
    def ordered(self) -> bool:
        """True when the events of one key are handled one after the other."""
        return self._lane.spec.ordered

    @property
    def start(self) -> Literal["earliest", "latest"] | None:
        """The position where it begins on an adapter that retains events."""
        return self._lane.spec.start

    @property
    def concurrency(self) -> int | None:
        """The most handlers that may run at once; None when only the workers bound them."""
        return self._lane.concurrency

    @property
    def timeout(self) -> float | None:
        """Seconds that one attempt may take; None without a bound."""
        return self._lane.timeout

    @property
    def give_up_on(self) -> tuple[type[BaseException], ...]:
        """The errors that are not retried."""
        return self._lane.give_up_on

    def retry_for(self, topic: str) -> RetryPolicy:
        """The retry policy for events of a topic."""
        return self._lane.policy_for(topic)

    @property
    def handler(self) -> Callable[..., Any]:
        """The topic or pattern that was subscribed."""
        return self._lane.handler

    @property
    def state(self) -> SubscriptionState:
        """A snapshot of its counters; after ``unsubscribe``, or the end of the bus, the last ones.

        Raises ``WrongEventLoop`` in another thread.
        """
        return self._registry.state_of(self._lane)

    async def ready(self) -> None:
        """Returns when the subscription is open on the adapter. Raises ``BusNotStarted`` or ``BusClosed``."""
        await self._registry.ready(self._lane)

    def pause(self) -> None:
        """Starts no further handler until ``resume``; the bus still accepts and holds events.

        Raises ``UnknownSubscription`` after ``unsubscribe``.
        """
        self._registry.set_paused(self._lane, paused=True)

    def resume(self) -> None:
        """Undoes ``pause``; no-op when the subscription is not paused."""
        self._registry.set_paused(self._lane, paused=False)

    async def unsubscribe(self) -> None:
        """Accepts no further event, and returns when the accepted ones are settled.

        Inside a handler it returns at once, because it would wait for itself. A paused subscription is
        resumed until it holds nothing. On a durable adapter the group stays. Repeated calls are harmless.
        """
        await self._registry.leave(self._lane)


class SubscriptionRegistry:
    """All subscriptions of one bus; implements the calls of a ``Subscription``.

    Before the bus is open, lanes wait here; ``open`` attaches them to the carrier.
    """

    def __init__(
        self,
        parts: BusParts,
        engine: Engine,
        lifecycle: Lifecycle,
        adapter: Callable[[], AnyAdapter],
        declared: Callable[[object], Topic[Any]],
        warn_of: Callable[[Topic[Any]], None],
    ) -> None:
        self._parts = parts
        self._warn_of = warn_of
        self._engine = engine
        self._lifecycle = lifecycle
        self._declared = declared
        self._adapter = adapter
        self._carrier: Carrier | None = None
        self._observers: list[Observer] = []
        self._lanes: dict[Lane, None] = {}  # in the order of their creation
        self._by_topic: TopicIndex[Lane] = TopicIndex()
        self._by_name: dict[str, TopicIndex[Lane]] = {}
        self._by_handler: dict[Callable[..., Any], TopicIndex[Lane]] = {}
        self._last_number: dict[str, int] = {}  # derived names by handlers' names
        self._leaving: dict[Lane, asyncio.Future[None]] = {}

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The subscriptions that did not leave, in the order of their creation."""
        return tuple(Subscription(self, lane) for lane in self._lanes)

    @property
    def lanes(self) -> list[Lane]:
        """All lanes that may hold events, including those that are leaving."""
        return [*self._lanes, *self._leaving]

    def has(self, name: str) -> bool:
        """True when there is a subscription of that name."""
        return name in self._by_name

    def observe(self, observer: Observer) -> None:
        """Adds an observer of all subscriptions, including later ones."""
        self._observers.append(observer)
        for lane in self._lanes:
            lane.observe(observer)

    def check_features(self) -> None:
        """Raises ``UnsupportedFeature`` with all that the adapter cannot do for the subscriptions."""
        self._check_features([lane.spec for lane in self._lanes])

    def _check_features(self, specs: Iterable[SubscriptionSpec]) -> None:
        adapter = self._adapter()
        mismatches = [fault for spec in specs for fault in _mismatches_of(spec, adapter.features)]
        if mismatches:
            raise UnsupportedFeature(adapter.name, mismatches, adapter.features.remedy)

    def open(self, carrier: Carrier) -> None:
        """Opens the registry: from now on a new subscription is attached at once."""
        self._carrier = carrier
        for lane in self._lanes:
            carrier.attach(lane)

    # --- join ---------------------------------------------------------------------------------------------

    def add(
        self, topic: Topic[Any] | str, handler: Callable[..., Any], options: CheckedOptions
    ) -> Subscription:
        """Subscribes a handler; see ``Bus.subscribe``."""
        self._lifecycle.check_usable("subscribe")
        text = self._subscribed_text(topic)
        shape = inspect_handler(handler)
        self._check_event_class(handler, topic, shape.qualified_name)
        name = self._free_name(options.name, handler, shape.qualified_name, text)
        spec = SubscriptionSpec(
            name=name,
            group=_group_of(self._parts.config.service, name),
            topic=text,
            mode=options.mode,
            ordered=options.ordered,
            start=options.start,
        )
        if self._lifecycle.stage is not Stage.NEW:  # the start compares all earlier ones together
            self._check_features([spec])
        if not is_pattern(text):
            self._warn_of(self._declared(topic))
        retry = options.retry
        lane = Lane(
            self._engine,
            spec,
            handler,
            shape,
            policy_for=self._parts.policy_for if retry is None else lambda _topic: retry,
            middleware=[*self._middleware_of(spec)],
            give_up_on=options.give_up_on,
            timeout=options.timeout,
            concurrency=options.concurrency,
            where=options.where,
        )
        for observer in self._observers:
            lane.observe(observer)
        self._lanes[lane] = None
        self._by_topic.add(text, lane)
        _add(self._by_name, name, lane)
        with suppress(TypeError):  # a handler that cannot be hashed
            _add(self._by_handler, handler, lane)
        if self._lifecycle.stage is Stage.OPEN:
            self._carried.attach(lane)
        return Subscription(self, lane)

    def _middleware_of(self, spec: SubscriptionSpec) -> Iterator[Middleware]:
        for middleware in self._parts.consume_middleware:
            own: Middleware | None = middleware
            if isinstance(middleware, WatchedMiddleware):
                own = middleware.of_subscription(spec)
            if own is not None:
                yield own

    def _subscribed_text(self, topic: object) -> str:
        if isinstance(topic, str) and (is_pattern(topic) or not topic):
            return TopicPattern(topic).text
        return self._declared(topic).name

    def _check_event_class(self, handler: Callable[..., Any], topic: object, name: str) -> None:
        """Refuses a handler whose annotation excludes the topic's events."""
        if isinstance(topic, str) and (is_pattern(topic) or not topic):
            return
        carried, taken = self._declared(topic).event_class, event_class_of(handler)
        if carried is Event or taken is None or not issubclass(taken, Event):
            return
        if not issubclass(carried, taken) and not issubclass(taken, carried):
            raise InvalidHandler(
                f"the handler {name} takes {taken.__name__}, and the topic {self._declared(topic).name!r} "
                f"carries {carried.__name__}; subscribe it to another topic, or correct its annotation"
            )

    def _free_name(
        self, given: str | None, handler: Callable[..., Any], qualified_name: str, topic: str
    ) -> str:
        """The name of a new subscription; raises ``DuplicateSubscription``."""
        if given is None:
            adapter = self._adapter()
            if adapter.features.durable:
                raise InvalidHandler(
                    f"the subscription to {topic!r} needs a name=: on the durable adapter "
                    f"{adapter.name!r} it names the group that outlives this process"
                )
            for lane in self._others_of(handler, topic):
                raise DuplicateSubscription(lane.spec.name, topic, lane.spec.topic, same_handler=True)
            return self._default_name(qualified_name, topic)
        other = self._clash(given, topic)
        if other is not None:
            raise DuplicateSubscription(given, topic, other)
        return given

    def _others_of(self, handler: Callable[..., Any], topic: str) -> Iterator[Lane]:
        """The subscriptions of a handler to other, overlapping topics."""
        try:
            lanes = self._by_handler.get(handler)
        except TypeError:  # an object that cannot be hashed
            lanes = self._by_topic
        if lanes is None:
            return
        for text in lanes.overlapping(topic):
            if text != topic:
                yield from (lane for lane in lanes.at(text) if lane.handler == handler)

    def _default_name(self, qualified_name: str, topic: str) -> str:
        """A name derived from a handler's qualified name, with a number where it is taken."""
        base = default_name(qualified_name)
        if self._clash(base, topic) is None:
            return base
        number = self._last_number.get(base, 1) + 1
        while self._clash(f"{base}-{number}", topic) is not None:
            number += 1
        self._last_number[base] = number
        return f"{base}-{number}"

    def _clash(self, name: str, topic: str) -> str | None:
        """The topic of a subscription with that name, if it overlaps the given one."""
        lanes = self._by_name.get(name)
        return None if lanes is None else next(lanes.overlapping(topic), None)

    # --- for a subscription -------------------------------------------------------------------------------

    def state_of(self, lane: Lane) -> SubscriptionState:
        """See ``Subscription.state``."""
        self._lifecycle.check_thread("read the state")
        return self._engine.states_of([lane])[0]

    async def ready(self, lane: Lane) -> None:
        """See ``Subscription.ready``."""
        self._lifecycle.check_open("wait for a subscription")
        self._check_member(lane)
        await self._carried.opened(lane)

    def set_paused(self, lane: Lane, *, paused: bool) -> None:
        """See ``Subscription.pause`` and ``Subscription.resume``."""
        self._lifecycle.check_usable("pause a subscription" if paused else "resume a subscription")
        self._check_member(lane)
        if lane.paused is paused:
            return
        if paused:
            lane.pause()
        else:
            lane.resume()
        if self._carrier is not None:
            self._carrier.pause_changed(lane)

    def _check_member(self, lane: Lane) -> None:
        if lane not in self._lanes:
            raise UnknownSubscription(f"the subscription {lane.spec.name!r} was unsubscribed")

    # --- leave --------------------------------------------------------------------------------------------

    async def remove(self, topic: Topic[Any] | str, handler: Callable[..., Any]) -> None:
        """See ``Bus.unsubscribe``."""
        self._lifecycle.check_usable("unsubscribe")
        text = topic.name if isinstance(topic, Topic) else topic
        lanes = [lane for lane in self._by_topic.at(text) if lane.handler == handler]
        if not lanes:
            raise UnknownSubscription(f"no subscription of {handler!r} to {text!r} on this bus")
        leaving = [(lane, self._begin_to_leave(lane)) for lane in lanes]
        for lane, left in leaving:
            await self._until_left(lane, left)

    async def leave(self, lane: Lane) -> None:
        """See ``Subscription.unsubscribe``."""
        if self._lifecycle.stage is not Stage.CLOSED or self._lifecycle.forked:
            self._lifecycle.check_usable("unsubscribe")
            await self._until_left(lane, self._begin_to_leave(lane))

    def _begin_to_leave(self, lane: Lane) -> asyncio.Future[None] | None:
        """Removes a lane from routing; None when there is nothing to wait for."""
        if lane not in self._lanes:
            return self._leaving.get(lane)
        del self._lanes[lane]
        self._by_topic.discard(lane.spec.topic, lane)
        _drop(self._by_name, lane.spec.name, lane)
        with suppress(TypeError, KeyError):  # it cannot be hashed, or not as before
            _drop(self._by_handler, lane.handler, lane)
        if self._lifecycle.stage is not Stage.OPEN:
            return None
        self._carried.detach(lane)
        left = self._leaving[lane] = lane.leave()
        left.add_done_callback(lambda _: self._leaving.pop(lane))
        return left

    async def _until_left(self, lane: Lane, left: asyncio.Future[None] | None) -> None:
        if left is not None and not self._lifecycle.in_handler:
            await asyncio.shield(left)
            await self._carried.left(lane)

    @property
    def _carried(self) -> Carrier:
        assert self._carrier is not None, "the bus was started"
        return self._carrier


def _add(indexes: dict[K, TopicIndex[Lane]], key: K, lane: Lane) -> None:
    """Puts a lane into the index of a key."""
    index = indexes.get(key)
    if index is None:
        index = indexes[key] = TopicIndex()
    index.add(lane.spec.topic, lane)


def _drop(indexes: dict[K, TopicIndex[Lane]], key: K, lane: Lane) -> None:
    """Removes a lane from the index of a key, and the key with its last lane."""
    index = indexes[key]
    index.discard(lane.spec.topic, lane)
    if not index:
        del indexes[key]


def _group_of(service: str, name: str) -> str:
    """The group of a subscription.

    Two services never share a group: only the first dot can be the one between service and name.
    """
    return f"{service.replace('%', '%25').replace('.', '%2E')}.{name}"


def _mismatches_of(spec: SubscriptionSpec, features: Features) -> list[str]:
    """The needs of a subscription that an adapter cannot meet, in words."""
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
