"""Every metric by name: its kind, what it says, and its labels. All of them have the label ``service``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import attrs

from bus_core import EngineState, SubscriptionState

__all__ = [
    "COUNTED",
    "HANDLER_SECONDS",
    "HELD",
    "LAG",
    "METRICS",
    "MIDDLEWARE",
    "OLDEST",
    "PUBLISHED",
    "SNAPSHOT_AGE",
    "TOTALS",
    "Metric",
]

PREFIX: Final = "promenade_bus_"


@attrs.frozen
class Metric:
    """One metric. ``across`` says how the values of several processes become one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ("service",)
    across: Literal["livesum", "livemax"] = "livesum"


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "counter", help, ("service", *labels))


def _gauge(name: str, help: str, *labels: str, across: Literal["livesum", "livemax"] = "livesum") -> Metric:
    return Metric(PREFIX + name, "gauge", help, ("service", *labels), across)


_OF_SUBSCRIPTION: Final = ("subscription", "topic")

PUBLISHED: Final = _counter("published", "Events that the adapter has accepted.", "topic")

COUNTED: Final[dict[str, Metric]] = {
    name: _counter(name, text, *_OF_SUBSCRIPTION)
    for name, text in {
        "handled": "Events that a handler has finished with.",
        "skipped": "Events that where= has turned away.",
        "failed_attempts": "Attempts that failed.",
        "retried": "Attempts that were begun again after a failure.",
        "dead_lettered": "Events that the subscription gave up on.",
        "redriven": "Dead letters that were handed back.",
        "late": "Events that another instance had taken over.",
    }.items()
}
"""The counters of each subscription, by the field of ``SubscriptionState``."""

HELD: Final[tuple[tuple[Metric, Callable[[SubscriptionState], float]], ...]] = (
    (_gauge("in_flight", "Handlers that run now.", *_OF_SUBSCRIPTION), lambda state: state.running),
    (
        _gauge("queued", "Events in this process that wait for a worker.", *_OF_SUBSCRIPTION),
        lambda state: state.queued,
    ),
    (
        _gauge("waiting_retries", "Events in this process whose retry is not due.", *_OF_SUBSCRIPTION),
        lambda state: state.waiting_retries,
    ),
    (_gauge("paused", "1 when the subscription is paused.", *_OF_SUBSCRIPTION), lambda state: state.paused),
)
"""The load of each subscription."""

LAG: Final = _gauge(
    "lag",
    "Events that the subscription has not settled, in all instances together.",
    *_OF_SUBSCRIPTION,
    across="livemax",
)

MIDDLEWARE: Final = _counter(
    "middleware_events",
    "Events that a middleware has treated in one way; the subject is a subscription, or a topic.",
    "middleware",
    "subject",
    "outcome",
)

OLDEST: Final = _gauge(
    "oldest_unread_seconds",
    "How long ago the oldest event was stored that no instance has received; 0 if there is none.",
    *_OF_SUBSCRIPTION,
    across="livemax",
)

HANDLER_SECONDS: Final = Metric(
    PREFIX + "handler_seconds",
    "histogram",
    "Seconds that one call of the handler took, whether it succeeded or not.",
    ("service", *_OF_SUBSCRIPTION),
)

TOTALS: Final[tuple[tuple[Metric, Callable[[EngineState], float]], ...]] = (
    (_counter("unrouted", "Events that nobody had subscribed to."), lambda state: state.unrouted),
    (_counter("lost", "Events and dead letters that were lost."), lambda state: state.lost),
    (
        _counter("overflowed", "Events that handlers published over a full buffer."),
        lambda state: state.overflowed,
    ),
    (_gauge("workers", "Handlers that may run at once."), lambda state: state.worker_pool_size),
    (_gauge("workers_busy", "Handlers that run now."), lambda state: state.running_handlers),
    (
        _gauge("buffer_events", "Events that were accepted and are not settled."),
        lambda state: state.unsettled,
    ),
    (_gauge("buffer_size", "Events that the buffer has room for."), lambda state: state.buffer_size),
    (
        _gauge("waiting_publishers", "Callers of publish that wait for room."),
        lambda state: state.waiting_publishers,
    ),
    (
        _gauge("longest_running_seconds", "How long the longest handler has been running.", across="livemax"),
        lambda state: state.longest_running,
    ),
    (
        _gauge(
            "oldest_retry_seconds",
            "How long ago the oldest event failed first that waits for a retry in a process.",
            across="livemax",
        ),
        lambda state: state.oldest_retry,
    ),
)
"""The counters and the load of the whole bus."""

SNAPSHOT_AGE: Final = _gauge(
    "snapshot_age_seconds",
    "How old these figures are: more than 0 while the event loop of the bus does not answer.",
    across="livemax",
)

METRICS: Final[tuple[Metric, ...]] = (
    PUBLISHED,
    *COUNTED.values(),
    *(metric for metric, _ in HELD),
    LAG,
    OLDEST,
    HANDLER_SECONDS,
    MIDDLEWARE,
    *(metric for metric, _ in TOTALS),
    SNAPSHOT_AGE,
)
