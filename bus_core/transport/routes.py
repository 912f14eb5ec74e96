"""Routes: where the events of a topic go, looked up once and reused until something changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, cast

from bus_core.abc import Handler, InProcessAdapter
from bus_core.dispatch.codec import key_of
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.jobs import Port
from bus_core.dispatch.lane import Lane
from bus_core.events.base import Event
from bus_core.events.messages import Message
from bus_core.events.topics import Topic

__all__ = ["Route", "Routes"]

Encode = Callable[[Topic[Any], Event, Mapping[str, str]], Message]
"""Makes the message of an event and its headers; raises ``SerializationError``."""

OUTDATED = -1
"""The generation of a route that has to ask the adapter again."""

MOST_UNDECLARED = 1000
"""The most undeclared topics whose routes are kept, because their names are unbounded."""


class Route:
    """The way of a topic's events from ``publish`` to the lanes of its subscriptions.

    ``record_port`` gets the records of events directly, if there is no publish middleware, no group to choose
    a member of, and no other bus; it is None otherwise. ``port`` gets the events themselves, if all handlers
    take nothing else. ``encode`` makes messages of them where the adapter wants that. ``chain`` is the
    publish middleware of this topic around accepting the event, composed once.
    """

    chain: Handler

    __slots__ = (
        "_engine",
        "_groups",
        "_turns",
        "chain",
        "counted",
        "encode",
        "engines",
        "event_class",
        "generation",
        "is_keyed",
        "kept",
        "name",
        "port",
        "record_port",
        "topic",
        "unrouted",
    )

    def __init__(self, topic: Topic[Any]) -> None:
        self.topic = topic
        self.name = topic.name
        self.event_class: type[Event] = topic.event_class
        self.is_keyed = topic.key is not None
        self.generation = OUTDATED
        self.kept = True  # the engine that announces changes
        self.port: Port | None = None
        self.record_port: Port | None = None
        self.encode: Encode | None = None
        self._engine: Engine | None = None  # the engine of the ports
        self.engines: tuple[Engine, ...] = ()
        self.counted = 0
        self.unrouted = 0
        self._groups: Sequence[Sequence[Lane]] = ()
        self._turns = count()

    def published(self, unsealed: Mapping[Port, int]) -> int:
        """The number of accepted events. The ports count those that went straight to them."""
        if self.port is None:
            return self.counted
        return self.counted + self.port.accepted - self.port.reported + unsealed.get(self.port, 0)

    def succeed(self, former: Route, unsealed: Mapping[Port, int]) -> None:
        """Continues the counters of the topic's earlier route, from before it was declared."""
        former.give_way()
        self.counted, self.unrouted = former.published(unsealed), former.unrouted

    def outdate(self) -> None:
        """Makes it ask the adapter again at its next use."""
        self.generation = OUTDATED

    def give_way(self) -> None:
        """Ends the announcements of changes. Events that still use it ask the adapter each time."""
        self.kept = False
        self.outdate()

    def refresh(
        self,
        adapter: InProcessAdapter,
        engine: Engine,
        generation: int,
        *,
        encode: Encode | None,
    ) -> None:
        """Asks the adapter again. ``encode`` makes messages of events where the adapter wants that."""
        self.generation = generation if self.kept else OUTDATED
        self._groups = cast("Sequence[Sequence[Lane]]", adapter.route(self.name))
        lanes = [lane for group in self._groups for lane in group]
        engines = dict.fromkeys(cast(Engine, lane.engine) for lane in lanes)
        # Other buses come first: an event that they refuse must not be accepted here already.
        self.engines = tuple(sorted(engines, key=lambda found: found is engine))
        self._take_count()  # before the port is replaced
        self._engine = engine
        self.encode = encode
        chosen = len(lanes) == len(self._groups)  # no other member competes
        straight = chosen and bool(lanes) and engines.keys() == {engine}
        if not straight or any(lane.paused for lane in lanes):
            self.port = self.record_port = None
            return
        self.record_port = engine.port_for([lane.record_port for lane in lanes])
        bare = [lane.port for lane in lanes if lane.port is not None]
        as_it_is = len(bare) == len(lanes) and encode is None and not self.is_keyed
        self.port = engine.port_for(bare) if as_it_is else None

    def _take_count(self) -> None:
        if self.port is not None and self._engine is not None:
            self._engine.buffer.seal()  # and counts the events that it accepts
            self.counted += self.port.accepted - self.port.reported
            self.port.reported = self.port.accepted

    def full_engine(self, leaving: Collection[Engine] = (), *, granted: bool = False) -> Engine | None:
        """An engine whose buffer has no room, if there is one. Raises ``BufferFull`` for a handler.

        Engines that are ``leaving`` are not waited for. ``granted`` is the engine that has granted its room
        to the caller. The caller takes room in the others, too; otherwise two callers might pass their turns
        to each other for ever.
        """
        for engine in self.engines:
            if engine not in leaving and not engine.has_room(granted=granted):
                return engine
        return None

    def deliver(self, payload: Event | Message, headers: Mapping[str, str]) -> None:
        """Hands an event to one lane of each group, in turn, even when the queue is full."""
        if not self._groups:
            self.counted += 1
            self.unrouted += 1
            return
        engine = self._engine
        if self.record_port is not None and engine is not None and engine.takes_at_once:
            key = None if isinstance(payload, Message) or not self.is_keyed else key_of(self.topic, payload)
            engine.buffer.payloads.append((payload, self.name, engine.timestamp(), headers, key))
            engine.buffer.ports.append(self.record_port)
            self.counted += 1
            return
        turn = next(self._turns)
        chosen = [_member_for(group, turn) for group in self._groups]
        for engine in self.engines:
            lanes = [lane for lane in chosen if lane.engine is engine]
            if lanes:
                engine.put(self.name, payload, lanes, headers)
        self.counted += 1


def _member_for(group: Sequence[Lane], turn: int) -> Lane:
    """The members of a group compete in turn.

    An ordered group has one active member, to keep the order of keys.
    """
    return group[0] if group[0].spec.ordered else group[turn % len(group)]


class Routes:
    """The routes of one bus. Those of undeclared topics are replaced by newer ones; totals stay right."""

    def __init__(self, unsealed: Callable[[], Mapping[Port, int]]) -> None:
        self._unsealed = unsealed
        self._declared: dict[str, Route] = {}
        self._undeclared: dict[str, Route] = {}
        self._gone_published = 0
        self._gone_unrouted = 0

    def get(self, name: str, *, declared: bool) -> Route | None:
        """The route of a topic, if there is one.

        A route from before the topic was declared does not count.
        """
        return (self._declared if declared else self._undeclared).get(name)

    def add(self, route: Route, *, declared: bool) -> None:
        """Adds the route of a topic."""
        name = route.topic.name
        if declared:
            former = self._undeclared.pop(name, None)
            if former is not None:
                route.succeed(former, self._unsealed())
            self._declared[name] = route
            return
        if len(self._undeclared) >= MOST_UNDECLARED:
            oldest = self._undeclared.pop(next(iter(self._undeclared)))
            oldest.give_way()
            self._gone_published += oldest.published(self._unsealed())
            self._gone_unrouted += oldest.unrouted
        self._undeclared[name] = route

    def outdate(self, name: str) -> Route | None:
        """Outdates the route of a topic, and returns it, if there is one."""
        route = self._declared.get(name) or self._undeclared.get(name)
        if route is not None:
            route.outdate()
        return route

    def __iter__(self) -> Iterator[Route]:
        routes = {**self._declared, **self._undeclared}
        return iter([routes[name] for name in sorted(routes)])

    @property
    def published(self) -> Mapping[str, int]:
        """The number of events accepted on each topic that still has a route, by name."""
        unsealed = self._unsealed()
        return {route.name: route.published(unsealed) for route in self}

    @property
    def total_published(self) -> int:
        """The number of events accepted on all topics."""
        return self._gone_published + sum(self.published.values())

    @property
    def unrouted(self) -> int:
        """The number of events without a subscriber."""
        return self._gone_unrouted + sum(route.unrouted for route in self)
