"""The four metrics. Counters are read at export; only durations are recorded one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.util.types import AttributeValue

from promenade_bus_opentelemetry.names import (
    BOUNDARIES,
    CONSUMED,
    DESTINATION,
    ERROR,
    OPERATION_SECONDS,
    PROCESS_SECONDS,
    SENT,
)

__all__ = ["Attributes", "Count", "Figures", "shared_figures"]

Attributes = Mapping[str, AttributeValue]

_MOST: Final = 1000
"""The number of topics and subscriptions with their own counts; all others are counted together."""

_OTHER: Final = "_OTHER"
"""The conventions' name for a value beyond a bound."""


class Count:
    """The number of events with these attributes, by the class of their error; "" without one."""

    __slots__ = ("attributes", "by_error")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.by_error: Counter[str] = Counter()


class Figures:
    """The instruments of the process. A name exists once per meter, so the buses share them."""

    def __init__(self, meter: Meter) -> None:
        self._sent: dict[str, Count] = {}
        self._consumed: dict[str, Count] = {}
        meter.create_observable_counter(
            SENT, [_observing(self._sent)], "{message}", "Messages that were published."
        )
        meter.create_observable_counter(
            CONSUMED, [_observing(self._consumed)], "{message}", "Messages that were given to a handler."
        )
        self.operation = meter.create_histogram(
            OPERATION_SECONDS,
            "s",
            "How long publishing took.",
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )
        self.process = meter.create_histogram(
            PROCESS_SECONDS,
            "s",
            "How long an attempt to handle an event took.",
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )

    def sent(self, topic: str, attributes: Attributes) -> Count:
        """The counter of publishes on a topic."""
        return _count(self._sent, topic, attributes)

    def consumed(self, group: str, attributes: Attributes) -> Count:
        """The counter of deliveries to a group, of a topic or of the topics of a pattern."""
        return _count(self._consumed, group, attributes)


@cache
def shared_figures(version: str) -> Figures:
    """The instruments, made at the first use, because a provider may be set later."""
    return Figures(metrics.get_meter("promenade_bus", version))


def _count(counts: dict[str, Count], name: str, attributes: Attributes) -> Count:
    if name not in counts and len(counts) >= _MOST:
        name, attributes = _OTHER, {**attributes, DESTINATION: _OTHER}
    return counts.setdefault(name, Count(attributes))


def _observing(counts: Mapping[str, Count]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for count in [*counts.values()]:
            for error, number in [*count.by_error.items()]:
                yield Observation(number, {**count.attributes, ERROR: error} if error else count.attributes)

    return observe
