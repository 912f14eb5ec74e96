"""Gives ``prometheus_client`` the figures of every bus of the process when it asks for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from promenade_bus_prometheus.durations import Durations
from promenade_bus_prometheus.metrics import METRICS, Metric
from promenade_bus_prometheus.watched import Sample, WatchedBus

__all__ = ["BusCollector", "collector_of"]


class BusCollector(Collector):
    """All buses of the process that use one registry: a registry takes each name once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._lock = Lock()
        self._buses: dict[WatchedBus, None] = {}

    def add(self, bus: WatchedBus) -> None:
        """From now on its figures are among the others."""
        with self._lock:
            if not self._buses:
                self._registry.register(self)
            self._buses[bus] = None

    def remove(self, bus: WatchedBus) -> None:
        """Its figures end; harmless when it was not added."""
        with self._lock:
            if self._buses.pop(bus, bus) is None and not self._buses:
                self._registry.unregister(self)

    def describe(self) -> Iterator[Family]:
        """The names, which a registry compares with those that it has."""
        for metric in METRICS:
            yield _family(metric)

    def collect(self) -> Iterator[Family]:
        """Every metric, with the values of all buses; those of buses of one service are added."""
        values: dict[Metric, dict[tuple[str, ...], list[Sample]]] = defaultdict(lambda: defaultdict(list))
        for bus in [*self._buses]:
            for sample in bus.samples():
                values[sample.metric][sample.labels].append(sample)
        for metric in METRICS:
            family = _family(metric)
            for labels, samples in values[metric].items():
                _add(family, metric, labels, samples)
            yield family


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    match metric.kind:
        case "counter":
            return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        case "gauge":
            return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        case "histogram":
            return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def _add(family: Family, metric: Metric, labels: tuple[str, ...], samples: list[Sample]) -> None:
    if isinstance(family, HistogramMetricFamily):
        buckets, seconds = _sum_of(
            [sample.value for sample in samples if isinstance(sample.value, Durations)]
        )
        family.add_metric(labels, [(_text_of(bound), count) for bound, count in buckets], seconds)
        return
    numbers = [sample.value for sample in samples if not isinstance(sample.value, Durations)]
    value = max(numbers) if metric.across == "livemax" else sum(numbers)
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily), "there are three kinds"
    family.add_metric(labels, value)


def _text_of(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def _sum_of(durations: list[Durations]) -> tuple[list[tuple[float, int]], float]:
    """The durations of several buses; where their bounds differ, the first one's count."""
    first, *others = durations
    buckets, seconds = first.cumulative()
    for other in others:
        if other.bounds == first.bounds:
            more, further = other.cumulative()
            buckets = [(bound, one + two) for (bound, one), (_, two) in zip(buckets, more, strict=True)]
            seconds += further
    return buckets, seconds


_collectors: dict[CollectorRegistry, BusCollector] = {}
_making = Lock()


def collector_of(registry: CollectorRegistry) -> BusCollector:
    """The collector of a registry, which is made when it is asked for first."""
    with _making:
        return _collectors.setdefault(registry, BusCollector(registry))
