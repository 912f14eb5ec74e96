"""Multi-process mode of ``prometheus_client``: the figures are written where other processes read them.

``prometheus_client`` keeps them in files of ``PROMETHEUS_MULTIPROC_DIR`` then, and asks no collector of
another process. What a bus counts is therefore copied into its metrics again and again; durations go there
at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from bus_core import ObservedBus, SubscriptionSpec
from promenade_bus_prometheus.config import PrometheusOptions
from promenade_bus_prometheus.durations import Durations
from promenade_bus_prometheus.metrics import HANDLER_SECONDS, Metric
from promenade_bus_prometheus.watched import WatchedBus

__all__ = ["SharedFigures"]


@cache  # a name exists once in a process
def _metric(metric: Metric, buckets: tuple[float, ...]) -> Any:
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=REGISTRY)
    if metric.kind == "gauge":
        return Gauge(
            metric.name, metric.help, metric.labels, registry=REGISTRY, multiprocess_mode=metric.across
        )
    return Histogram(metric.name, metric.help, metric.labels, registry=REGISTRY, buckets=buckets)


class SharedFigures:
    """Copies the figures of one bus."""

    def __init__(self, watched: WatchedBus, options: PrometheusOptions, service: str) -> None:
        self._watched = watched
        self._options = options
        self._service = service
        self._written: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self._copying: asyncio.Task[None] | None = None

    def timing(self, spec: SubscriptionSpec) -> Callable[[float, BaseException | None], None]:
        """Takes the durations of a subscription."""
        name, topic = self._watched.slot_of(spec)
        histogram: Histogram = _metric(HANDLER_SECONDS, self._options.buckets)
        observe = histogram.labels(self._service, name, topic).observe
        return lambda seconds, _error: observe(seconds)

    async def start(self, bus: ObservedBus) -> None:
        """Begins to copy."""
        await self._watched.start(bus)
        self._copying = asyncio.get_running_loop().create_task(
            self._copy_again_and_again(), name="promenade-figures"
        )

    async def close(self) -> None:
        """Copies for the last time."""
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait((self._copying,))
        await self._watched.close()
        self._copy()

    async def _copy_again_and_again(self) -> None:
        while True:
            self._copy()
            await asyncio.sleep(self._options.sync_interval)

    def _copy(self) -> None:
        held: dict[tuple[Metric, tuple[str, ...]], float] = {}
        for sample in self._watched.samples():
            if isinstance(sample.value, Durations):
                continue
            at = sample.metric, sample.labels
            held[at] = held.get(at, 0.0) + sample.value
        for metric, labels in self._written:
            if metric.kind == "gauge" and (metric, labels) not in held:
                held[metric, labels] = 0.0  # what has gone holds nothing
        for (metric, labels), value in held.items():
            before = self._written.get((metric, labels), 0.0)
            child = _metric(metric, self._options.buckets).labels(*labels)
            if metric.kind == "counter":
                child.inc(max(0.0, value - before))
            else:
                child.set(value)
            self._written[metric, labels] = value
