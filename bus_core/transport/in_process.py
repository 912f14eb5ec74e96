"""The carrier for an adapter in the process: it queues published events at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from bus_core.abc import InProcessAdapter
from bus_core.dispatch.codec import Codec
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.jobs import Job
from bus_core.dispatch.lane import Lane
from bus_core.dispatch.reports import DrainReport
from bus_core.errors import BufferFull, BusClosed
from bus_core.events.base import Event
from bus_core.events.messages import DeadLetter, Message
from bus_core.events.topics import is_pattern
from bus_core.transport.routes import Route

__all__ = ["InProcessCarrier", "LocalSettler", "may_wait"]


class LocalSettler:
    """Implements ``Settler`` for an adapter in the process: settling only updates counters.

    ``finish`` is called with each finished job.
    """

    releases = False
    settling: Sequence[Job] = ()

    def __init__(self, adapter: InProcessAdapter, finish: Callable[[Job], None]) -> None:
        self._adapter = adapter
        self.acknowledge = self._finish = finish

    def dead_letter(self, job: Job, letter: DeadLetter) -> None:
        self._adapter.bury(letter, job.payload, job.lane)
        self._finish(job)

    def holds_locally(self, job: Job, delay: float) -> bool:
        return True

    def begins(self, jobs: Iterable[Job]) -> None:
        return

    def returns_to_group(self, job: Job, delay: float) -> bool:
        return False

    def release(self, job: Job) -> bool:
        return False

    def drop(self, job: Job) -> bool:
        self._finish(job)
        return True


may_wait: ContextVar[bool] = ContextVar("promenade_bus_may_wait", default=True)
"""False when the current publish must not wait for room although a middleware chain calls it."""


class InProcessCarrier:
    """Implements ``Carrier`` for an adapter in the process: it queues published events at once.

    ``changed`` is called with a topic or pattern whose routes may have changed. ``check_accepting`` raises
    when the bus accepts no events any more; it is called again after a wait for room.
    """

    problem = None

    def __init__(
        self,
        adapter: InProcessAdapter,
        engine: Engine,
        codec: Codec,
        *,
        changed: Callable[[str], None],
        check_accepting: Callable[[], None],
    ) -> None:
        self.encodes = adapter.serialize
        self._adapter = adapter
        self._engine = engine
        self._codec = codec
        self._encode = codec.encode if adapter.serialize else None
        self._changed = changed
        self._check_accepting = check_accepting
        self._generation = 0
        self._settler = LocalSettler(adapter, engine.finish)
        adapter.watch(self._routes_changed)

    def _routes_changed(self, text: str) -> None:
        if is_pattern(text):
            self._generation += 1
        self._changed(text)

    def attach(self, lane: Lane) -> None:
        lane.settler = self._settler
        self._adapter.attach(lane)

    def detach(self, lane: Lane) -> None:
        self._adapter.detach(lane)

    async def opened(self, lane: Lane) -> None:
        """It is open as soon as it is attached."""

    async def left(self, lane: Lane) -> None:
        """Nothing is held outside the process."""

    def refresh(self, route: Route) -> None:
        """Asks the adapter again if a subscription has changed since."""
        if route.generation != self._generation:
            route.refresh(self._adapter, self._engine, self._generation, encode=self._encode)

    def pause_changed(self, lane: Lane) -> None:
        """Lets events go straight to the lanes that are not paused."""
        self._routes_changed(lane.spec.topic)

    def accept(self, route: Route, event: Event, headers: Mapping[str, str]) -> Coroutine[Any, Any, None]:
        payload = self._codec.encode(route.topic, event, headers) if self.encodes else event
        return self._deliver(route, payload, headers)

    def forward(self, route: Route, message: Message) -> Coroutine[Any, Any, None]:
        """The handler's lane decodes the message, as it does where events are serialized."""
        return self._deliver(route, message, message.headers)

    async def _deliver(self, route: Route, payload: Event | Message, headers: Mapping[str, str]) -> None:
        """Waits for room in every engine that gets the event, then queues it in all of them or in none."""
        granted: Engine | None = None  # the engine with a reserved place for this event
        leaving: set[Engine] = set()
        try:
            while (full := self._full_engine(route, leaving, granted)) is not None:
                if not may_wait.get():
                    raise BufferFull("buffer", self._engine.buffer.size)
                if granted is not None:
                    granted.buffer.wake_publishers()  # another engine is full: give the place to others
                    granted = None
                try:
                    await full.buffer.room()
                except BusClosed:
                    if full is self._engine:
                        raise
                    # Another bus is closing. Until it has left the group, it handles events routed to it,
                    # beyond its bound.
                    leaving.add(full)
                    await asyncio.sleep(0)
                else:
                    granted = full
            self._check_accepting()  # check again: the bus may have closed while the event was held or waited
            route.deliver(payload, headers)
        finally:
            if granted is not None:
                granted.buffer.wake_publishers()  # it may not have been needed, or there may be more

    def hand_over(
        self, route: Route, event: Event, headers: Mapping[str, str]
    ) -> asyncio.Future[None] | None:
        """Cannot tell in advance: there may be no room."""
        return None

    def hand_on(self, route: Route, message: Message) -> asyncio.Future[None] | None:
        """Cannot tell in advance: there may be no room."""
        return None

    def _full_engine(
        self, route: Route, leaving: Collection[Engine], granted: Engine | None
    ) -> Engine | None:
        self.refresh(route)
        return route.full_engine(leaving, granted=granted is not None)

    async def backlogs(self, lanes: Sequence[Lane]) -> Sequence[int]:
        states = self._engine.states_of(lanes)
        return [state.queued + state.running + state.waiting_retries for state in states]

    async def drain(self, lanes: Sequence[Lane]) -> None:
        await self._engine.drain(lanes)

    async def stop(self, lanes: Sequence[Lane], timeout: float) -> DrainReport:
        def detach_all() -> None:
            for lane in lanes:
                self._adapter.detach(lane)

        return await self._engine.stop(lanes, timeout, detach_all)
