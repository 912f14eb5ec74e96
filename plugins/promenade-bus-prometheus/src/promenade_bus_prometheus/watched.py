"""One bus that is looked at: its last snapshot, its backlogs, and how long its handlers take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, get_ident
from typing import Final, cast

import attrs

from bus_core import EngineState, ObservedBus, SubscriptionSpec, SubscriptionState
from bus_core.abc import AdministeredAdapter
from promenade_bus_prometheus.config import PrometheusOptions
from promenade_bus_prometheus.durations import Durations
from promenade_bus_prometheus.metrics import (
    COUNTED,
    HANDLER_SECONDS,
    HELD,
    LAG,
    MIDDLEWARE,
    OLDEST,
    PUBLISHED,
    SNAPSHOT_AGE,
    TOTALS,
    Metric,
)
from promenade_bus_prometheus.tally import OTHER, Slots, Tally

__all__ = ["Sample", "WatchedBus"]

Name = tuple[str, str]
"""A subscription and its topic, or pattern."""

_ANSWERS_WITHIN: Final = 0.5
"""Seconds that the event loop of a bus gets to give a snapshot, before the last one has to do."""


@attrs.frozen
class Sample:
    """One value of a metric. ``labels`` are in the order of the metric's; durations are not cumulated yet."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Durations


@attrs.frozen
class _Snapshot:
    state: EngineState
    published: Mapping[str, int]
    taken: float


class WatchedBus:
    """The state of one bus. ``samples`` may be called by any thread."""

    def __init__(self, options: PrometheusOptions) -> None:
        self._options = options
        self._bus: ObservedBus | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._last: _Snapshot | None = None
        self._lag: Mapping[Name, int] = {}
        self._oldest: Mapping[Name, float] = {}
        self._asking: asyncio.Task[None] | None = None
        self._lock = Lock()  # one scrape at a time counts what has gone
        self._subscriptions: Slots[Name] = Slots(options.max_subscriptions, (OTHER, OTHER))
        topics: Slots[str] = Slots(options.max_topics, OTHER)
        self._counted: Tally[Name] = Tally(self._subscriptions)
        self._published: Tally[str] = Tally(topics)
        treated: Slots[tuple[str, str, str]] = Slots(options.max_subscriptions, (OTHER, OTHER, OTHER))
        self._treated: Tally[tuple[str, str, str]] = Tally(treated)
        self._durations: dict[Name, Durations] = {}

    # --- parts of the observer ------------------------------------------------------------------------------

    def slot_of(self, spec: SubscriptionSpec) -> Name:
        """The names under which a subscription is counted."""
        return self._subscriptions.of((spec.name, spec.topic))

    def timing(self, spec: SubscriptionSpec) -> Callable[[float, BaseException | None], None]:
        """Takes the durations of a subscription."""
        return self._durations.setdefault(self.slot_of(spec), Durations(self._options.buckets)).teller()

    async def start(self, bus: ObservedBus) -> None:
        """The bus is there to be asked."""
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._last = self._take(bus)
        if not bus.adapter.features.in_process:
            self._asking = self._loop.create_task(self._ask_again_and_again(bus), name="promenade-lag")

    async def close(self) -> None:
        """The figures stay as they are."""
        if self._bus is not None:
            self._last = self._take(self._bus)
        self._loop = None
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
            self._asking = None

    # --- what it knows --------------------------------------------------------------------------------------

    def samples(self) -> Iterator[Sample]:
        """Every value, as fresh as the event loop of the bus allows."""
        with self._lock:
            snapshot = self._snapshot()
            if self._bus is not None and snapshot is not None:
                yield from self._samples_of(self._bus.service, snapshot)

    def _samples_of(self, service: str, snapshot: _Snapshot) -> Iterator[Sample]:
        state = snapshot.state
        published = self._published.update((topic, (count,)) for topic, count in snapshot.published.items())
        for topic, (count,) in published.items():
            yield Sample(PUBLISHED, (service, topic), count)
        totals = self._counted.update(
            ((each.name, each.topic), tuple(getattr(each, field) for field in COUNTED))
            for each in state.subscriptions
        )
        for (name, topic), numbers in totals.items():
            for metric, number in zip(COUNTED.values(), numbers, strict=True):
                yield Sample(metric, (service, name, topic), number)
        for each in state.subscriptions:
            name, topic = self._subscriptions.of((each.name, each.topic))
            for metric, value_of in HELD:
                yield Sample(metric, (service, name, topic), value_of(each))
        for subscription, waiting in self._lags(state).items():
            yield Sample(LAG, (service, *self._subscriptions.of(subscription)), waiting)
        for subscription, age in self._ages(state).items():
            yield Sample(OLDEST, (service, *self._subscriptions.of(subscription)), age)
        for subscription, durations in [*self._durations.items()]:
            yield Sample(HANDLER_SECONDS, (service, *subscription), durations)
        treated = self._treated.update(
            ((each.middleware, each.subject, each.outcome), (each.events,)) for each in state.middleware
        )
        for names, (events,) in treated.items():
            yield Sample(MIDDLEWARE, (service, *names), events)
        for metric, value_of_bus in TOTALS:
            yield Sample(metric, (service,), value_of_bus(state))
        # A snapshot that has just been taken is as old as its way to this thread.
        age = time.monotonic() - snapshot.taken
        yield Sample(SNAPSHOT_AGE, (service,), age if age > _ANSWERS_WITHIN else 0.0)

    def _lags(self, state: EngineState) -> Mapping[Name, int]:
        if self._bus is None or not self._bus.adapter.features.in_process:
            return self._lag
        return {(each.name, each.topic): _held(each) for each in state.subscriptions}

    def _ages(self, state: EngineState) -> Mapping[Name, float]:
        """The ages of unread events. In process there are none: a subscription has received every event."""
        if self._bus is None or not self._bus.adapter.features.in_process:
            return self._oldest
        return {(each.name, each.topic): 0.0 for each in state.subscriptions}

    def _snapshot(self) -> _Snapshot | None:
        """A new one; the last one where the event loop of the bus does not answer, or the bus is closed."""
        bus, loop = self._bus, self._loop
        if bus is None or loop is None:
            return self._last
        if get_ident() == self._thread:
            self._last = self._take(bus)
            return self._last
        answer: Future[_Snapshot] = Future()

        def give() -> None:
            if answer.set_running_or_notify_cancel():
                answer.set_result(self._take(bus))

        with suppress(RuntimeError, TimeoutError):  # the loop is closed, or blocked
            loop.call_soon_threadsafe(give)
            self._last = answer.result(_ANSWERS_WITHIN)
        answer.cancel()
        return self._last

    @staticmethod
    def _take(bus: ObservedBus) -> _Snapshot:
        return _Snapshot(bus.state(), bus.published(), time.monotonic())

    async def _ask_again_and_again(self, bus: ObservedBus) -> None:
        while True:
            try:
                self._lag = {(each.name, each.topic): each.events for each in await bus.backlog()}
                self._oldest = await _ages(bus)
            except Exception:  # health tells what is wrong with the adapter; here the series end
                self._lag, self._oldest = {}, {}
            await asyncio.sleep(self._options.lag_interval)


async def _ages(bus: ObservedBus) -> Mapping[Name, float]:
    """The age of the oldest unread event of each group of the service, where the adapter can tell it."""
    adapter = bus.adapter
    if not adapter.features.admin:
        return {}
    groups = await cast(AdministeredAdapter, adapter).admin.groups()
    return {
        (each.subscription, each.topic): each.oldest or 0.0
        for each in groups
        if each.group == f"{bus.service}.{each.subscription}"
    }


def _held(state: SubscriptionState) -> int:
    return state.queued + state.running + state.waiting_retries
