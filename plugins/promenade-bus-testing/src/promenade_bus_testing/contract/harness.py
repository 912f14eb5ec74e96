"""The harness of a contract test: buses on one transport, recording handlers, and a clock that advances."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar
from uuid import UUID

import attrs

from bus_core import (
    Bus,
    Clock,
    Delivery,
    DrainReport,
    EngineState,
    Features,
    Subscription,
    SyncBus,
    Topic,
    open_bus,
    open_sync_bus,
)
from promenade_bus_testing.contract.clock import ContractClock
from promenade_bus_testing.contract.events import THING, Happened, happened
from promenade_bus_testing.contract.places import Place

__all__ = ["Call", "Harness", "Listener", "Suite"]

R = TypeVar("R")

HORIZON = 120.0
"""Virtual seconds that pass automatically while a test waits; later timers never fire."""

FAR = 3600.0
"""Virtual seconds that never pass automatically, for time limits that must not be reached."""

_MOST_SHOWN = 10
"""The number of subscriptions of each bus that a failure shows."""

Act = Callable[["Call"], Awaitable[None] | None]
"""The function that a listener runs after it has recorded a call."""


class Suite(Protocol):
    """The contract of one adapter, as a test uses it; see ``AdapterContract``."""

    @property
    def features(self) -> Features: ...
    @property
    def plugins(self) -> Sequence[object]: ...
    @property
    def deadline(self) -> float: ...
    @property
    def longest_test(self) -> float: ...
    @property
    def patience_in_effect(self) -> float: ...

    def settings(self, place: Place, /) -> Mapping[str, Any]:
        """Returns keys of the section ``bus`` that select the adapter."""
        ...

    async def dispose(self, place: Place, /) -> None:
        """Removes data that a test left in the transport on purpose."""
        ...

    def left_behind(self, place: Place, /) -> Iterable[str]:
        """Names things that closed buses must not leave behind."""
        ...

    async def inject(self, place: Place, topic: str, body: bytes, /) -> None:
        """Stores raw bytes on a topic."""
        ...

    async def interrupt(self, place: Place, /) -> None:
        """Cuts every connection once."""
        ...

    def with_lease(self, settings: Mapping[str, Any], lease: float, /) -> Mapping[str, Any]:
        """The same settings with another lease."""
        ...

    def has_hook(self, name: str, /) -> bool:
        """Returns True if an optional hook is overridden."""
        ...


@attrs.frozen
class Call:
    """A call of a handler. ``delivery`` is None if the handler does not take it."""

    event: Happened
    delivery: Delivery | None
    at: float

    @property
    def number(self) -> int:
        """The number of the event."""
        return self.event.number

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1."""
        assert self.delivery is not None, "this handler does not take deliveries"
        return self.delivery.attempt


class Listener:
    """A handler that records every call, and then runs the function of the test."""

    def __init__(self, harness: Harness, act: Act | None) -> None:
        self._harness = harness
        self.act = act
        self.calls: list[Call] = []
        self.done: list[int] = []
        self.running = 0
        self.most_at_once = 0
        self.subscription: Subscription

    async def plain(self, event: Happened) -> None:
        """Takes only the event: the engine has a fast path for such handlers."""
        await self._take(Call(event, None, self._harness.clock.monotonic()))

    async def detailed(self, event: Happened, delivery: Delivery) -> None:
        """Takes the event and its delivery."""
        await self._take(Call(event, delivery, self._harness.clock.monotonic()))

    async def _take(self, call: Call) -> None:
        self._harness.progress += 1
        self.calls.append(call)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            if self.act is not None:
                acting = self.act(call)
                if acting is not None:
                    await acting
        finally:
            self.running -= 1
            self._harness.progress += 1
        self.done.append(call.number)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that it was called with, in order."""
        return [call.number for call in self.calls]

    def handled(self, number: int) -> bool:
        """Returns True if the event with that number was handled."""
        return number in self.done

    @property
    def attempts(self) -> list[tuple[int, int]]:
        """The event number and attempt of each call, in order."""
        return [(call.number, call.attempt) for call in self.calls]

    @property
    def events(self) -> list[Happened]:
        """The events that it was called with, in order."""
        return [call.event for call in self.calls]


class Harness:
    """The buses of one test, with a shared transport and a virtual clock. It closes them at the end."""

    def __init__(self, suite: Suite, place: Place) -> None:
        self.suite = suite
        self.place = place
        self.clock = ContractClock()
        self.progress = 0
        self._time_passes = True
        self.buses: list[Bus] = []
        self._settings = dict(suite.settings(place))
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    # --- buses --------------------------------------------------------------------------------------------

    def new_bus(self, *, service: str = "contract", clock: Clock | None = None, **settings: Any) -> Bus:
        """Makes a bus on the shared transport, not started. ``settings`` are keys of the section ``bus``."""
        return open_bus(self._config(service, settings), clock=clock or self.clock, **self._discovery())

    def new_sync_bus(self, *, service: str = "contract", **settings: Any) -> SyncBus:
        """Makes a bus for threads, on the system's clock."""
        return open_sync_bus(self._config(service, settings), **self._discovery())

    def shorten_leases(self, seconds: float) -> None:
        """Buses that are made from now on have leases of so many seconds of real time."""
        self._settings = dict(self.suite.with_lease(self._settings, seconds))

    def _config(self, service: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        defaults = {
            "shutdown_timeout": f"{FAR:g}s",
            "publish_timeout": f"{FAR:g}s",
            "strict_topics": False,
        }
        return {"app": {"name": service}, "bus": {**defaults, **self._settings, **settings}}

    def _discovery(self) -> dict[str, Any]:
        """Skips plugin discovery where possible, because it takes longer than most tests."""
        plugins = tuple(self.suite.plugins)
        return {"plugins": plugins, "installed": False} if plugins else {}

    async def bus(self, **settings: Any) -> Bus:
        """Makes and starts a bus, which is closed at the end of the test."""
        return await self.start(self.new_bus(**settings))

    async def start(self, bus: Bus) -> Bus:
        """Starts a bus, which is closed at the end of the test."""
        await self.finish(bus.start(), "a bus starts")
        self.buses.append(bus)
        self._exits.push_async_callback(self._close_now, bus)
        return bus

    async def _close_now(self, bus: Bus) -> None:
        # After one iteration of the loop the time limit of 0 s is set and only has to be reached.
        await self.finish(bus.close(0), "a bus closes at the end of the test")

    async def close(self, bus: Bus, timeout: float | None = None) -> DrainReport:
        """Closes a bus, and advances the clock meanwhile."""
        return await self.finish(bus.close(timeout), "a bus closes")

    async def drain(self, *buses: Bus) -> None:
        """Drains each bus, by default all of them, and advances the clock meanwhile."""
        for bus in buses or self.buses:
            if bus.status == "open":
                await self.finish(bus.drain(), "a bus drains")

    async def listen(
        self,
        bus: Bus,
        topic: Topic[Any] | str = THING,
        name: str = "listener",
        act: Act | None = None,
        *,
        plain: bool = False,
        mode: Literal["group", "broadcast"] | None = None,
        **options: Any,
    ) -> Listener:
        """Subscribes a listener; returns when the subscription is open, if the bus is."""
        listener = Listener(self, act)
        handler: Any = listener.plain if plain else listener.detailed
        listener.subscription = bus.subscribe(
            topic, handler, name=name, mode=mode or self.default_mode, **options
        )
        if bus.status == "open":
            await self.finish(listener.subscription.ready(), "a subscription opens")
        return listener

    @property
    def default_mode(self) -> Literal["group", "broadcast"]:
        """The mode of subscriptions in other tests: a group if the adapter has groups."""
        return "group" if self.suite.features.groups else "broadcast"

    # --- publishing ---------------------------------------------------------------------------------------

    async def publish(
        self,
        bus: Bus,
        *numbers: int,
        topic: Topic[Happened] = THING,
        key: UUID | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Happened]:
        """Publishes an event for each number, one after the other."""
        events = [happened(number, key) for number in numbers]

        async def publish_each() -> None:
            for each in events:
                await bus.publish(topic, each, headers=headers)
                self.progress += 1

        await self.finish(publish_each(), f"{len(events)} events are published")
        return events

    # --- time and conditions ------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """Returns the wall time of the buses."""
        return self.clock.now()

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Waits until the condition holds; ``what`` describes it in a failure.

        While nothing else happens, virtual time advances from timer to timer: at once for an in-process
        adapter, and after ``patience`` seconds without progress for others, because messages may be under
        way.
        """
        horizon = self.clock.monotonic() + HORIZON
        patience = self.suite.patience_in_effect
        seen, quiet_since = self.progress, time.monotonic()
        moved = quiet_since
        while not holds():
            busy = await _take_turn()
            moment = time.monotonic()
            if self.progress != seen:
                seen, quiet_since, moved = self.progress, moment, moment
            elif moment - moved > self.suite.deadline:
                raise AssertionError(self._stuck(what))
            elif busy and not patience:
                continue
            elif self._time_passes and moment - quiet_since >= patience and self.clock.jump(horizon):
                quiet_since = moment
            else:
                await asyncio.sleep(0.001)  # for work outside the loop

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stops the clock inside the block, for conditions that must hold before the next timer."""
        self._time_passes = False
        try:
            yield
        finally:
            self._time_passes = True

    def _stuck(self, what: str) -> str:
        states = "".join(f"\n  {bus!r}: {_busy_part(bus)}" for bus in self.buses if bus.status == "open")
        return (
            f"no progress for {self.suite.deadline:g} s, while waiting for: {what}\n"
            f"  timers due in {self.clock.timers} s{states}"
        )

    async def finish(self, call: Coroutine[Any, Any, R], what: str) -> R:
        """Returns the result of a call, and advances the clock meanwhile."""
        task = asyncio.ensure_future(call)
        try:
            await self.until(task.done, what)
        finally:
            task.cancel()
        return await task

    async def advance(self, seconds: float) -> None:
        """Advances the clock by exactly this time."""
        await self.clock.advance(seconds)

    def gate(self) -> asyncio.Event:
        """Makes an event for handlers to wait for; it is set at the end of the test at the latest."""
        gate = asyncio.Event()
        self._exits.callback(gate.set)
        return gate

    def scale(self, fast: int, stress: int) -> int:
        """Returns the number for a run of seconds, or the one for a stress run."""
        return stress if self.place.stress else fast


def _busy_part(bus: Bus) -> EngineState:
    """Returns the state of a bus without idle subscriptions, of which there may be a thousand."""
    state = bus.state()
    busy = (each for each in state.subscriptions if each.queued or each.running or each.waiting_retries)
    return attrs.evolve(state, subscriptions=tuple(islice(busy, _MOST_SHOWN)))


async def _take_turn() -> bool:
    """Runs one iteration of the loop; returns True if more is ready to run."""
    # CPython's event loops keep ready callbacks in a deque. It is empty when only this task is awake.
    ready = getattr(asyncio.get_running_loop(), "_ready", ())
    await asyncio.sleep(0)
    return bool(ready)
